package imagevolume_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/shim/imagevolume"
)

// newStore makes a store that is gone, mounts and all, when the test ends.
func newStore(t *testing.T) (*imagevolume.Store, string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: mounts file systems")
	}
	dir := filepath.Join(t.TempDir(), "store")
	t.Cleanup(func() {
		err := unix.Unmount(dir, unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			t.Error(err)
		}
	})
	return imagevolume.New(dir), dir
}

// layer makes a directory with files of the given content.
func layer(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mount(t *testing.T, s *imagevolume.Store, owner string, layers ...string) string {
	t.Helper()
	path, made, err := s.Mount(owner, "image", layers)
	if err != nil || !made {
		t.Fatalf("Mount: made %v, %v", made, err)
	}
	return path
}

func checkFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v; want %q", path, got, err, want)
	}
}

func TestMount(t *testing.T) {
	s, _ := newStore(t)
	upper := layer(t, map[string]string{"both": "upper", "dir/upper": "1"})
	lower := layer(t, map[string]string{"both": "lower", "dir/lower": "2"})
	path := mount(t, s, "owner", upper, lower)
	checkFile(t, filepath.Join(path, "both"), "upper")
	checkFile(t, filepath.Join(path, "dir/upper"), "1")
	checkFile(t, filepath.Join(path, "dir/lower"), "2")

	if err := os.WriteFile(filepath.Join(path, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing a file: %v, want %v", err, unix.EROFS)
	}
	if err := unix.Mount("", path, "", unix.MS_REMOUNT, ""); !errors.Is(err, unix.EROFS) {
		t.Errorf("remounting it writable: %v, want %v", err, unix.EROFS)
	}
	again, made, err := s.Mount("owner", "image", []string{upper, lower})
	if err != nil || made || again != path {
		t.Errorf("the same again: %s, made %v, %v; want %s, false, nil", again, made, err, path)
	}
}

// TestManyLayers: their paths are longer than the options of a mount may be.
func TestManyLayers(t *testing.T) {
	s, _ := newStore(t)
	const count = 127 // Docker's limit
	var layers []string
	for i := range count {
		layers = append(layers, layer(t, map[string]string{"file" + strconv.Itoa(i): strconv.Itoa(i)}))
	}
	path := mount(t, s, "owner", layers...)
	checkFile(t, filepath.Join(path, "file0"), "0")
	checkFile(t, filepath.Join(path, "file126"), "126")
}

func TestMissingLayer(t *testing.T) {
	s, _ := newStore(t)
	_, _, err := s.Mount("owner", "image", []string{layer(t, nil), "/nowhere/diff"})
	if !errdefs.IsNotFound(err) {
		t.Errorf("a layer that is not there: %v, want ErrNotFound", err)
	}
	if err := s.Unmount("owner"); err != nil {
		t.Errorf("Unmount after it: %v", err)
	}
}

func TestUnmount(t *testing.T) {
	s, dir := newStore(t)
	if err := s.Unmount("nobody"); err != nil {
		t.Errorf("an owner without mounts: %v", err)
	}
	data := layer(t, map[string]string{"file": "data"})
	other := mount(t, s, "other", data)
	path := mount(t, s, "owner", data)
	open, err := os.Open(filepath.Join(path, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	if err := s.Unmount("owner"); err != nil {
		t.Errorf("while a file is open: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "owner")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory of the owner: %v, want it gone", err)
	}
	checkFile(t, filepath.Join(other, "file"), "data")
	checkFile(t, filepath.Join(data, "file"), "data")
}

func TestForeign(t *testing.T) {
	before, dir := newStore(t)
	if owners, err := before.Foreign(); err != nil || len(owners) != 0 {
		t.Errorf("without a directory: %v, %v", owners, err)
	}
	mount(t, before, "old", layer(t, nil))
	after := imagevolume.New(dir)
	mount(t, after, "new", layer(t, nil))
	owners, err := after.Foreign()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"old"}, owners); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
}

func TestResolve(t *testing.T) {
	root := layer(t, map[string]string{"dir/file": "", "etc/passwd": ""})
	for name, target := range map[string]string{
		"absolute": "/dir", "above": "../../../../../../dir", "outside": "/proc/1", "loop": "loop",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for sub, want := range map[string]string{
		"": "", ".": "", "dir": "dir", "dir/file": "dir/file", "absolute": "dir", "absolute/file": "dir/file", "above/file": "dir/file",
	} {
		got, err := imagevolume.Resolve(root, sub)
		if err != nil || got != filepath.Join(root, want) {
			t.Errorf("Resolve(%q) = %q, %v; want %q", sub, got, err, filepath.Join(root, want))
		}
	}
	for _, sub := range []string{"missing", "outside", "dir/file/below", "missing/../dir/missing"} {
		if got, err := imagevolume.Resolve(root, sub); !errdefs.IsNotFound(err) {
			t.Errorf("Resolve(%q) = %q, %v; want ErrNotFound", sub, got, err)
		}
	}
	if got, err := imagevolume.Resolve(root, "loop"); err == nil {
		t.Errorf("Resolve of a loop = %q, want an error", got)
	}
}
