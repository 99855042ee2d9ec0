package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/netns"
)

// PinNetNS keeps the network namespace of a process alive by a bind mount at path,
// and makes the file and its directory. It is idempotent: a pin of the same
// namespace is kept; a file or a pin of another namespace is replaced. Calls for
// the same path must not overlap.
func PinNetNS(pid int, path string) error {
	if pid <= 0 || !filepath.IsAbs(path) {
		return fmt.Errorf("pin network namespace of process %d at %q: %w: want a process ID and an absolute path", pid, path, errdefs.ErrInvalidArgument)
	}
	source := netNSOf(pid)
	same, err := sameFile(source, path)
	if err != nil {
		return fmt.Errorf("pin network namespace of process %d: %w", pid, err)
	}
	if same {
		return nil
	}
	return pinNetNS(source, path)
}

func netNSOf(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

// MakeNetNS makes a network namespace and pins it at path, as PinNetNS does; whatever
// was pinned there is replaced. In the new namespace lo is down.
func MakeNetNS(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("make network namespace at %q: %w: want an absolute path", path, errdefs.ErrInvalidArgument)
	}
	return netns.DoInNew(func() error { return pinNetNS("/proc/thread-self/ns/net", path) })
}

// CheckNetNS returns an error unless a process is in the network namespace that is
// pinned at path. A process that does not exist is fs.ErrNotExist.
func CheckNetNS(pid int, path string) error {
	same, err := sameFile(netNSOf(pid), path)
	if err != nil {
		return fmt.Errorf("network namespace of process %d: %w", pid, err)
	}
	if !same {
		return fmt.Errorf("process %d is in another network namespace than %s", pid, path)
	}
	return nil
}

// pinNetNS pins a namespace, in place of whatever is pinned at path.
func pinNetNS(source, path string) error {
	if err := UnpinNetNS(path); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // as ip-netns(8) makes it; a namespace needs privileges to be entered
		return fmt.Errorf("pin network namespace: %w", err)
	}
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444) //nolint:gosec // an empty file to mount on, as the namespace that hides it
	if err != nil {
		return fmt.Errorf("pin network namespace: %w", err)
	}
	_ = file.Close() // nothing was written
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("bind mount %s on %s: %w", source, path, err), os.Remove(path))
	}
	return nil
}

// sameFile reports whether path exists and is the same inode as source, which
// must exist.
func sameFile(source, path string) (bool, error) {
	want, err := os.Stat(source)
	if err != nil {
		return false, err
	}
	have, err := os.Stat(path)
	if err != nil {
		return false, nil
	}
	return os.SameFile(want, have), nil
}

// UnpinNetNS undoes PinNetNS. It is idempotent: a missing file is not an error. The
// kernel frees the namespace if nothing else holds it.
func UnpinNetNS(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue // mounts can be stacked
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // not a mount point, or missing
		}
		return fmt.Errorf("unmount network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace file: %w", err)
	}
	return nil
}

// IsPinned reports whether a namespace is pinned at path.
func IsPinned(path string) bool { return isNamespace(path) }

// isNamespace reports whether path is a namespace rather than a plain file that a
// lost mount left behind.
func isNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// prepareNetNS prepares a new namespace for ADD: IPv6 enabled, loopback up.
func prepareNetNS(path string) error {
	if err := EnableIPv6(path); err != nil {
		return err
	}
	return netns.DoAt(path, loopbackUp)
}

// loopbackUp brings lo up in the current thread's network namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request); err != nil {
		return fmt.Errorf("read flags of lo: %w", err)
	}
	if request.Uint16()&unix.IFF_UP != 0 {
		return nil
	}
	request.SetUint16(request.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}
