package idmap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/needs"
	"github.com/cridock/cridock/internal/seam"
)

var mappings = []seam.Mapping{{HostID: 200000, Size: 65536}}

// isolated runs f on a thread with a mount namespace of its own and with a user
// namespace. The thread ends with f.
func isolated(t *testing.T, f func(mounts string, userns *os.File) error) {
	t.Helper()
	needs.Root(t, "makes id-mapped mounts")
	mounts := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(mounts, 0o755); err != nil {
		t.Fatal(err)
	}
	err := onOwnThread(func() error {
		userns, err := NewUserNamespace(mappings, mappings)
		if err != nil {
			return err
		}
		if err = Isolate(mounts); err == nil {
			err = f(mounts, userns)
		}
		return errors.Join(err, userns.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(info), mounts) {
		t.Errorf("something is mounted on the host (%v)", err)
	}
}

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Error(err)
	}
	return st.Uid
}

// TestProbe needs Linux 5.19 and a temporary directory on a file system that can be
// id-mapped.
func TestProbe(t *testing.T) {
	needs.Root(t, "makes id-mapped mounts")
	dir := t.TempDir()
	if err := Probe(dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestProbeFails has layers on a file system that cannot be id-mapped.
func TestProbeFails(t *testing.T) {
	needs.Root(t, "makes id-mapped mounts")
	dir := t.TempDir()
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	merged := filepath.Join(dir, "merged")
	err := unix.Mount("overlay", merged, "overlay", 0, "lowerdir="+dir+"/lower,upperdir="+dir+"/upper,workdir="+dir+"/work")
	needs.That(t, err == nil, "no overlay can be mounted in the temporary directory: %v", err)
	t.Cleanup(func() {
		if err := unix.Unmount(merged, 0); err != nil {
			t.Error(err)
		}
	})
	if err := Probe(merged); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "overlay") {
		t.Errorf("%v; want EINVAL and the file system's name", err)
	}
	if left, err := os.ReadDir(merged); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestNewUserNamespace(t *testing.T) {
	isolated(t, func(_ string, userns *os.File) error {
		own, err := os.Stat("/proc/self/ns/user")
		if err != nil {
			return err
		}
		other, err := userns.Stat()
		if err == nil && os.SameFile(own, other) {
			t.Error("it is the host's")
		}
		return err
	})
}

// TestJoinUserNamespace: a process is what it was only if its namespace is.
func TestJoinUserNamespace(t *testing.T) {
	self, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	uids, err := seam.ParseMappings(string(self))
	if err != nil {
		t.Fatal(err)
	}
	u := &seam.UserNamespace{UIDs: uids, GIDs: uids}
	p, err := Describe(os.Getpid(), "user")
	if err != nil {
		t.Fatal(err)
	}
	f, err := JoinUserNamespace(u, p)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	other := p
	other.Inode++
	if _, err := JoinUserNamespace(u, other); err == nil {
		t.Error("another namespace is accepted")
	}
	if _, err := JoinUserNamespace(&seam.UserNamespace{UIDs: mappings, GIDs: mappings}, p); err == nil {
		t.Error("other mappings are accepted")
	}
}

func TestClone(t *testing.T) {
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("x"), 0o640); err != nil {
		t.Fatal(err)
	}
	isolated(t, func(mounts string, userns *os.File) error {
		if err := errors.Join(
			Clone(source, filepath.Join(mounts, "mapped"), true, userns),
			Clone(source, filepath.Join(mounts, "plain"), false, nil),
			Clone(filepath.Join(source, "file"), filepath.Join(mounts, "one"), false, userns),
			BindNamespace(userns, filepath.Join(mounts, "userns")),
		); err != nil {
			return err
		}
		for name, want := range map[string]uint32{"mapped/file": 200000, "plain/file": 0, "one": 200000} {
			if got := owner(t, filepath.Join(mounts, name)); got != want {
				t.Errorf("%s belongs to %d, want %d", name, got, want)
			}
		}
		want, err := userns.Stat()
		if err != nil {
			return err
		}
		if got, err := os.Stat(filepath.Join(mounts, "userns")); err != nil || !os.SameFile(got, want) {
			t.Errorf("the namespace is not mounted: %v", err)
		}
		if err := Clone(source, filepath.Join(mounts, "plain"), false, nil); !errors.Is(err, os.ErrExist) {
			t.Errorf("an existing target: %v", err)
		}
		return nil
	})
}

// TestOverlayMount mounts an overlay a second time on id-mapped layers, one of which
// is named by a link.
func TestOverlayMount(t *testing.T) {
	needs.Root(t, "makes id-mapped mounts")
	dir := t.TempDir()
	for _, name := range []string{"l", "base/diff", "top/diff", "top/work", "top/merged"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(
		os.Symlink("../base/diff", filepath.Join(dir, "l", "SHORT")),
		os.WriteFile(filepath.Join(dir, "base", "diff", "of-user"), []byte("base"), 0o640),
	)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "base", "diff", "of-user"), 1000, 1000); err != nil {
		t.Fatal(err)
	}
	isolated(t, func(mounts string, userns *os.File) error {
		merged := filepath.Join(dir, "top", "merged")
		options := "lowerdir=l/SHORT,upperdir=top/diff,workdir=top/work"
		err := inDirectory(dir, func() error { return unix.Mount("overlay", merged, "overlay", 0, options) })
		if err != nil {
			return err
		}
		info, err := os.ReadFile("/proc/thread-self/mountinfo")
		if err != nil {
			return err
		}
		o, err := FindOverlay(string(info), merged)
		if err != nil || o == nil {
			return fmt.Errorf("the overlay is not found: %w", err)
		}
		target := filepath.Join(mounts, "rootfs")
		u := &seam.UserNamespace{UIDs: mappings, GIDs: mappings}
		if err := errors.Join(os.Mkdir(target, 0o711), o.Mount(mounts, target, userns, u)); err != nil {
			return err
		}
		if got := owner(t, filepath.Join(target, "of-user")); got != 201000 {
			t.Errorf("a file of user 1000 belongs to %d", got)
		}
		err = asOwner(200000, 200000, func() error {
			return os.WriteFile(filepath.Join(target, "of-user"), []byte("changed"), 0)
		})
		if err != nil {
			return err
		}
		if got := owner(t, filepath.Join(dir, "top", "diff", "of-user")); got != 1000 {
			t.Errorf("copied up, a file of user 1000 belongs to %d", got)
		}
		return checkOwners(target, filepath.Join(dir, "top", "diff"), u)
	})
}

func TestFindOverlay(t *testing.T) {
	const docker = `36 25 0:40 / /var/lib/docker/overlay2/AA/merged rw,relatime shared:9 - overlay overlay rw,`
	const root = "/var/lib/docker/overlay2/AA/merged"
	for name, tc := range map[string]struct {
		mountinfo string
		root      string
		want      *Overlay
		refused   bool
	}{
		"absolute": {mountinfo: docker + "seclabel,lowerdir=/var/lib/docker/overlay2/l/X:/var/lib/docker/overlay2/l/Y,upperdir=/var/lib/docker/overlay2/AA/diff,workdir=/w,index=off\n",
			want: &Overlay{Lower: []string{"/var/lib/docker/overlay2/l/X", "/var/lib/docker/overlay2/l/Y"}, Upper: "/var/lib/docker/overlay2/AA/diff", Options: []string{"index=off"}}},
		"relative to Docker's layers": {mountinfo: docker + "lowerdir=l/X:l/Y,upperdir=AA/diff,workdir=AA/work\n",
			want: &Overlay{Lower: []string{"/var/lib/docker/overlay2/l/X", "/var/lib/docker/overlay2/l/Y"}, Upper: "/var/lib/docker/overlay2/AA/diff"}},
		"relative to containerd's snapshots": {root: "/r/ID", mountinfo: "1 2 0:3 / /r/ID rw - overlay overlay rw,lowerdir=2/fs:1/fs,upperdir=/c/snapshots/3/fs,workdir=/c/snapshots/3/work\n",
			want: &Overlay{Lower: []string{"/c/snapshots/2/fs", "/c/snapshots/1/fs"}, Upper: "/c/snapshots/3/fs"}},
		"one option a layer": {mountinfo: docker + "lowerdir+=/a/fs,lowerdir+=/b/fs,upperdir=/c/fs,workdir=/c/work,xino=off,metacopy=on\n",
			want: &Overlay{Lower: []string{"/a/fs", "/b/fs"}, Upper: "/c/fs", Options: []string{"xino=off", "metacopy=on"}}},
		"a space":              {root: "/a b", mountinfo: `1 2 0:3 / /a\040b rw - overlay overlay rw,lowerdir=/l\040x/a,upperdir=/u/a,workdir=/w` + "\n", want: &Overlay{Lower: []string{"/l x/a"}, Upper: "/u/a"}},
		"none":                 {mountinfo: "1 2 0:3 / /other rw - overlay overlay rw,lowerdir=/l/a,upperdir=/u/a,workdir=/w\n"},
		"covered":              {mountinfo: docker + "lowerdir=/l/a,upperdir=/u/a,workdir=/w\n" + "1 2 0:3 / " + root + " rw - tmpfs tmpfs rw\n"},
		"read-only":            {mountinfo: docker + "lowerdir=/l/a:l/b\n", want: &Overlay{Lower: []string{"/l/a", "/var/lib/docker/overlay2/l/b"}}},
		"no layers":            {mountinfo: docker + "upperdir=/u/a,workdir=/w\n", refused: true},
		"an escaped comma":     {mountinfo: docker + `lowerdir=/l\054x/a,upperdir=/u/a,workdir=/w` + "\n", refused: true},
		"an escaped colon":     {mountinfo: docker + `lowerdir=/l\134:x/a,upperdir=/u/a,workdir=/w` + "\n", refused: true},
		"an empty layer":       {mountinfo: docker + "lowerdir=/l/a::/l/b,upperdir=/u/a,workdir=/w\n", refused: true},
		"no mountinfo file":    {mountinfo: "what is this\n", refused: true},
		"a line without types": {mountinfo: "1 2 0:3 / /x rw -\n", refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			at := root
			if tc.root != "" {
				at = tc.root
			}
			got, err := FindOverlay(tc.mountinfo, at)
			if (err != nil) != tc.refused {
				t.Fatalf("error: %v", err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzFindOverlay: layers are absolute paths that mount options can have.
func FuzzFindOverlay(f *testing.F) {
	f.Add("36 25 0:40 / /r/AA/merged rw shared:9 - overlay overlay rw,lowerdir=l/X:l/Y,upperdir=AA/diff,workdir=AA/work,index=off\n")
	f.Add("36 25 0:40 / /r/AA/merged rw - overlay overlay rw,lowerdir+=/a,lowerdir+=/b,upperdir=/c,workdir=/d\n")
	f.Add(`36 25 0:40 / /r/AA/merged rw - overlay overlay rw,lowerdir=/l\134:x,upperdir=/c` + "\n")
	f.Fuzz(func(t *testing.T, mountinfo string) {
		o, err := FindOverlay(mountinfo, "/r/AA/merged")
		if err != nil || o == nil {
			return
		}
		for _, layer := range append([]string{o.Upper}, o.Lower...) {
			if layer == "" && o.Upper == "" {
				continue
			}
			if !filepath.IsAbs(layer) || strings.ContainsAny(layer, `\:,`) {
				t.Errorf("layer %q", layer)
			}
		}
		for _, option := range o.Options {
			for _, key := range []string{"lowerdir", "lowerdir+", "upperdir", "workdir"} {
				if option == key || strings.HasPrefix(option, key+"=") {
					t.Errorf("option %q", option)
				}
			}
		}
	})
}

// TestOwnThread: even if it begins on the process's first thread, that thread stays
// where it is.
func TestOwnThread(t *testing.T) {
	for range 200 {
		err := onOwnThread(func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("on the first thread")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
