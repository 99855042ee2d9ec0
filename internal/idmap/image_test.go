package idmap

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/needs"
	"github.com/cridock/cridock/internal/seam"
)

// newImage makes the layers of an image, of which the upper one hides a file of the
// lower one, and returns them.
func newImage(t *testing.T) (dir string, layers []string) {
	t.Helper()
	needs.Root(t, "makes id-mapped mounts")
	dir = t.TempDir()
	lower, upper := filepath.Join(dir, "1/fs"), filepath.Join(dir, "2/fs")
	err := errors.Join(os.MkdirAll(lower+"/sub", 0o755), os.MkdirAll(upper, 0o755), os.Mkdir(filepath.Join(dir, "image"), 0o755))
	for path, content := range map[string]string{lower + "/file": "old", upper + "/file": "new", lower + "/sub/of-user": "user"} {
		err = errors.Join(err, os.WriteFile(path, []byte(content), 0o644))
	}
	if err = errors.Join(err, os.Chown(lower+"/sub/of-user", 1000, 1000), os.Symlink("/etc", lower+"/link")); err != nil {
		t.Fatal(err)
	}
	return dir, []string{upper, lower}
}

// TestMountImage mounts an image with its layers given and with those of the overlay.
func TestMountImage(t *testing.T) {
	dir, layers := newImage(t)
	u := &seam.UserNamespace{UIDs: mappings, GIDs: mappings}
	isolated(t, func(mounts string, userns *os.File) error {
		image, bound := filepath.Join(dir, "image"), filepath.Join(mounts, "host")
		err := unix.Mount("overlay", image, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(layers, ":"))
		// The engine may mount a directory of the image alone.
		if err = errors.Join(err, Clone(image+"/sub", bound, false, nil)); err != nil {
			return err
		}
		for name, tc := range map[string]struct {
			source string
			layers []string
			file   string
			owner  uint32
		}{
			"given":      {image, layers, "file", 200000},
			"found":      {image, nil, "sub/of-user", 201000},
			"below":      {image + "/sub", layers, "of-user", 201000},
			"bound":      {bound, nil, "of-user", 201000},
			"no-overlay": {layers[1], nil, "sub/of-user", 201000},
		} {
			target := filepath.Join(mounts, name)
			if err := MountImage(tc.source, target, tc.layers, userns, u); err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			file := filepath.Join(target, tc.file)
			if got := owner(t, file); got != tc.owner {
				t.Errorf("%s: the file belongs to %d, want %d", name, got, tc.owner)
			}
			if content, err := os.ReadFile(file); err != nil || string(content) == "old" {
				t.Errorf("%s: %q, %v", name, content, err)
			}
			if err := os.WriteFile(file, nil, 0o600); name != "no-overlay" && !errors.Is(err, unix.EROFS) {
				t.Errorf("%s: writing to it: %v", name, err)
			}
		}
		return nil
	})
}

func TestMountImageRefuses(t *testing.T) {
	dir, layers := newImage(t)
	u := &seam.UserNamespace{UIDs: mappings, GIDs: mappings}
	isolated(t, func(mounts string, userns *os.File) error {
		image := filepath.Join(dir, "image")
		if err := unix.Mount("overlay", image, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(layers, ":")); err != nil {
			return err
		}
		for name, given := range map[string][]string{"a layer elsewhere": {layers[0], "/proc"}, "a missing layer": {layers[0], layers[1] + "-gone"}} {
			if err := MountImage(image, filepath.Join(mounts, strings.ReplaceAll(name, " ", "-")), given, userns, u); err == nil {
				t.Errorf("%s is accepted", name)
			}
		}
		if err := cloneBelow(layers[1], "/link", filepath.Join(mounts, "link")); !errors.Is(err, unix.ELOOP) {
			t.Errorf("a link out of the image: %v", err)
		}
		return nil
	})
}

// FuzzFindMount: a mount that is found shows the path.
func FuzzFindMount(f *testing.F) {
	f.Add("1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 /of /a\\040b rw - overlay b rw\n", "/a b/c")
	f.Add("1 0 0:1 / /a rw shared:1 - tmpfs - rw\n", "/a")
	f.Fuzz(func(t *testing.T, mountinfo, path string) {
		m, err := findMount(mountinfo, path)
		if err == nil && (m.kind == "" || m.point == "" || !strings.HasPrefix(path+"/", strings.TrimSuffix(m.point, "/")+"/")) {
			t.Fatalf("%q is on %+v", path, m)
		}
	})
}

func TestFindMount(t *testing.T) {
	const info = "1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 /of /a rw - overlay b rw\n3 1 0:3 / /a\\040b rw - xfs c rw\n4 2 0:4 / /a/c rw - tmpfs d rw\n5 1 0:5 / /a rw - btrfs e rw\n"
	for path, want := range map[string]foundMount{
		"/":     {"/", "/", "ext4", "0:1"},
		"/ab":   {"/", "/", "ext4", "0:1"},
		"/a b":  {"/a b", "/", "xfs", "0:3"},
		"/a/b":  {"/a", "/", "btrfs", "0:5"},
		"/a/cd": {"/a", "/", "btrfs", "0:5"},
	} {
		if got, err := findMount(info, path); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", path, got, err, want)
		}
	}
	for _, text := range []string{"", "what is this\n", "1 2 0:3 / /x rw -\n"} {
		if got, err := findMount(text, "/a"); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
