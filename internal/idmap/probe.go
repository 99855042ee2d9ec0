package idmap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/seam"
)

// probePrefix begins the names of the directories that Probe makes.
const probePrefix = ".cridock-probe-"

// probeLeft is the age at which such a directory is one of a process that was killed.
const probeLeft = time.Hour

// Probe finds out whether the root file systems of containers can be id-mapped: it
// mounts a small overlay on id-mapped layers below dir, where the engine's layers
// are, with the calls that containers need. The error names the call that failed. It
// leaves nothing behind.
func Probe(dir string) error {
	removeLeft(dir)
	top, err := os.MkdirTemp(dir, probePrefix)
	if err != nil {
		return err
	}
	return errors.Join(onOwnThread(func() error { return probe(top) }), os.RemoveAll(top))
}

// onOwnThread calls f on a thread that ends afterwards, and with it the mount
// namespace that f may have moved it to. It is never the process's first thread:
// that one cannot end, and stands for the process in /proc/self.
func onOwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked, so that the thread ends
		if unix.Gettid() == unix.Getpid() {
			// While this goroutine holds the first thread, another gets another one.
			defer runtime.UnlockOSThread()
			result <- onOwnThread(f)
			return
		}
		result <- f()
	}()
	return <-result
}

// removeLeft removes what killed processes have left.
func removeLeft(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, probePrefix+"*"))
	for _, path := range left {
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > probeLeft {
			_ = os.RemoveAll(path) // the next probe tries again
		}
	}
}

func probe(top string) error {
	o := &Overlay{Lower: []string{filepath.Join(top, "lower", "fs")}, Upper: filepath.Join(top, "upper", "fs")}
	mounts := filepath.Join(top, "mnt")
	for _, dir := range []string{o.Lower[0], o.Upper, mounts} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as those of images
			return err
		}
	}
	m := []seam.Mapping{{HostID: 100000, Size: 65536}}
	u := &seam.UserNamespace{UIDs: m, GIDs: m}
	userns, err := NewUserNamespace(u.UIDs, u.GIDs)
	if err != nil {
		return err
	}
	defer func() { _ = userns.Close() }()
	if err := Isolate(mounts); err != nil {
		return err
	}
	target := filepath.Join(mounts, "rootfs")
	if err := os.Mkdir(target, 0o700); err != nil {
		return err
	}
	if err := o.Mount(mounts, target, userns, u); err != nil {
		return err
	}
	return checkOwners(target, o.Upper, u)
}

// checkOwners checks that what the container's root owns belongs to the host's in
// the layers, and that it can write.
func checkOwners(target, upper string, u *seam.UserNamespace) error {
	const name = "file"
	err := asOwner(seam.Root(u.UIDs), seam.Root(u.GIDs), func() error {
		return os.WriteFile(filepath.Join(target, name), nil, 0o600)
	})
	if err != nil {
		return fmt.Errorf("write to an overlay on id-mapped layers: %w", err)
	}
	for path, want := range map[string]uint32{target: seam.Root(u.UIDs), filepath.Join(target, name): seam.Root(u.UIDs), filepath.Join(upper, name): 0} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Uid != want {
			return fmt.Errorf("overlay on id-mapped layers: %s belongs to user %d, want %d", path, st.Uid, want)
		}
	}
	return nil
}
