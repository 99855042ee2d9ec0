package imagevolume_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/internal/needs"
	"github.com/cridock/cridock/shim/mounts/imagevolume"
)

// newStore returns a store that is removed with all its mounts at the test's end.
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

// hash returns a valid owner or name of a mount.
func hash(v string) string {
	sum := sha256.Sum256([]byte(v))
	return hex.EncodeToString(sum[:10])
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
	path, made, err := s.Mount(owner, hash("image"), layers)
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
	path := mount(t, s, hash("owner"), upper, lower)
	checkFile(t, filepath.Join(path, "both"), "upper")
	checkFile(t, filepath.Join(path, "dir/upper"), "1")
	checkFile(t, filepath.Join(path, "dir/lower"), "2")

	if err := os.WriteFile(filepath.Join(path, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing a file: %v, want %v", err, unix.EROFS)
	}
	if err := unix.Mount("", path, "", unix.MS_REMOUNT, ""); !errors.Is(err, unix.EROFS) {
		t.Errorf("remounting it writable: %v, want %v", err, unix.EROFS)
	}
	again, made, err := s.Mount(hash("owner"), hash("image"), []string{upper, lower})
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
	path := mount(t, s, hash("owner"), layers...)
	checkFile(t, filepath.Join(path, "file0"), "0")
	checkFile(t, filepath.Join(path, "file126"), "126")
}

func TestMissingLayer(t *testing.T) {
	s, _ := newStore(t)
	_, _, err := s.Mount(hash("owner"), hash("image"), []string{layer(t, nil), "/nowhere/diff"})
	if !errdefs.IsNotFound(err) {
		t.Errorf("a layer that is not there: %v, want ErrNotFound", err)
	}
	if err := s.Unmount(hash("owner")); err != nil {
		t.Errorf("Unmount after it: %v", err)
	}
}

func TestUnmount(t *testing.T) {
	s, dir := newStore(t)
	if err := s.Unmount(hash("nobody")); err != nil {
		t.Errorf("an owner without mounts: %v", err)
	}
	data := layer(t, map[string]string{"file": "data"})
	other := mount(t, s, hash("other"), data)
	path := mount(t, s, hash("owner"), data)
	open, err := os.Open(filepath.Join(path, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	if err := s.Unmount(hash("owner")); err != nil {
		t.Errorf("while a file is open: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, hash("owner"))); !errors.Is(err, os.ErrNotExist) {
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
	mount(t, before, hash("old"), layer(t, nil))
	after := imagevolume.New(dir)
	mount(t, after, hash("new"), layer(t, nil))
	owners, err := after.Foreign()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{hash("old")}, owners); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
}

// TestKeys: only a hash becomes a path.
func TestKeys(t *testing.T) {
	s, dir := newStore(t)
	good := hash("owner")
	mount(t, s, good, layer(t, nil))
	for _, bad := range []string{
		"", ".", "..", ".empty", "../" + good, good + "/../" + good, "/" + good, good + "/", good[1:], good + "0", strings.ToUpper(hash("x")), "g" + good[1:], good + "\n", " " + good,
	} {
		if _, _, err := s.Mount(bad, good, []string{layer(t, nil)}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Mount for owner %q: %v", bad, err)
		}
		if _, _, err := s.Mount(good, bad, []string{layer(t, nil)}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Mount with name %q: %v", bad, err)
		}
		if err := s.Unmount(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Unmount of owner %q: %v", bad, err)
		}
		if s.Has(bad) {
			t.Errorf("Has(%q)", bad)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Errorf("the store has %v, %v; want .empty and the owner", names, err)
	}
	if !s.Has(good) {
		t.Error("the owner's mount is gone")
	}
}

// TestLinksInTheStore: mounts and unmounts follow no links.
func TestLinksInTheStore(t *testing.T) {
	s, dir := newStore(t)
	outside := newMount(t)
	mount(t, s, hash("other"), layer(t, nil))
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(dir, hash("owner"))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Mount(hash("owner"), hash("image"), []string{layer(t, nil)}); !beneath.IsRefused(err) {
		t.Errorf("Mount over a link: %v", err)
	}
	if err := s.Unmount(hash("owner")); !beneath.IsRefused(err) {
		t.Errorf("Unmount over a link: %v", err)
	}
	owner := filepath.Join(dir, hash("second"))
	if err := errors.Join(os.Mkdir(owner, 0o700), os.Symlink(outside, filepath.Join(owner, hash("image")))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Mount(hash("second"), hash("image"), []string{layer(t, nil)}); !beneath.IsRefused(err) {
		t.Errorf("Mount on a link: %v", err)
	}
	if err := s.Unmount(hash("second")); !beneath.IsRefused(err) {
		t.Errorf("Unmount of a link: %v", err)
	}
	checkFile(t, filepath.Join(outside, "file"), "outside")

	link := filepath.Join(t.TempDir(), "store")
	if err := os.Symlink(filepath.Dir(outside), link); err != nil {
		t.Fatal(err)
	}
	if _, _, err := imagevolume.New(link).Mount(hash("owner"), hash("image"), []string{layer(t, nil)}); !beneath.IsRefused(err) {
		t.Errorf("a store that is a link: %v", err)
	}
}

// newMount mounts a file system that is not the store's.
func newMount(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), hash("image"))
	if err := errors.Join(os.Mkdir(dir, 0o755), unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestSetUserID: a set-user-ID program in an image gives no user on the node
// its owner's rights, whether or not they can reach it.
func TestSetUserID(t *testing.T) {
	s, dir := newStore(t)
	data := layer(t, map[string]string{"id": ""})
	program, err := os.ReadFile("/usr/bin/id")
	needs.That(t, err == nil, "a program to make set-user-ID: %v", err)
	setuid := filepath.Join(data, "id")
	if err := errors.Join(os.Chmod(data, 0o755), os.WriteFile(setuid, program, 0o755), os.Chmod(setuid, 0o755|os.ModeSetuid)); err != nil {
		t.Fatal(err)
	}
	null := filepath.Join(data, "null")
	if err := errors.Join(unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))); err != nil {
		t.Fatal(err)
	}
	path := mount(t, s, hash("owner"), data)
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		t.Fatal(err)
	}
	if want := int64(unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV); st.Flags&want != want {
		t.Errorf("mount flags %#x, want %#x", st.Flags, want)
	}
	if _, err := os.Open(filepath.Join(path, "null")); !errors.Is(err, unix.EACCES) {
		t.Errorf("opening a device: %v, want %v", err, unix.EACCES)
	}
	for _, p := range []string{dir, filepath.Join(dir, hash("owner"))} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want mode 0700", p, info.Mode(), err)
		}
	}
	// Started from a descriptor, as this user has no path to it.
	fd, err := unix.Open(filepath.Join(path, "id"), unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "id")
	defer func() { _ = file.Close() }()
	cmd := exec.Command("/proc/self/fd/3", "-u")
	cmd.ExtraFiles = []*os.File{file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || string(bytes.TrimSpace(out)) != "65534" {
		t.Errorf("a set-user-ID program runs as %q, %v; want 65534", out, err)
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
