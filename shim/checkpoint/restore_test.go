package checkpoint

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/internal/needs"
)

// file is an entry of a tar; its Size is that of content.
type file struct {
	tar.Header
	content string
}

func regular(name, content string) file {
	return file{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		f.Size = int64(len(f.content))
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// archiveOf returns an archive as a source.
func archiveOf(t testing.TB, content []byte) Source {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "*.tar")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	return Tar(f)
}

func zipped(t *testing.T, content []byte) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(content)
	must(t, errors.Join(err, w.Close()))
	return b.String()
}

// tree describes the files below a directory.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	must(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == root || path == filepath.Clean(root) {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, filepath.Clean(root)+"/")
		st := info.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d links, %s: %s", st.Nlink, info.ModTime().UTC(), content)
			for _, key := range []string{"security.capability", "user.note"} {
				if value, err := readXattr(path, key); err == nil {
					line += fmt.Sprintf(" %s=%q", key, value)
				}
			}
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " " + target
		case info.Mode()&fs.ModeDevice != 0:
			line += fmt.Sprintf(" %d", st.Rdev)
		}
		found[name] = line
		return nil
	}))
	return found
}

// again mounts a new, empty layer over the same lower ones.
func again(t *testing.T, lower string) *os.File {
	t.Helper()
	upper, work := t.TempDir(), t.TempDir()
	// The kernel wants both on one mount.
	root, err := Layers{Lower: []string{lower}, Upper: upper, Work: work}.Mount(t.TempDir())
	must(t, err)
	t.Cleanup(func() { _ = root.Close() })
	return root
}

// TestRoundTrip: a restored writable layer shows the same files.
func TestRoundTrip(t *testing.T) {
	lower, upper, merged := overlay(t)
	in := func(name string) string { return filepath.Join(merged, name) }
	must(t, os.WriteFile(in("changed"), []byte("changed"), 0o600))
	must(t, os.Remove(in("removed")))
	must(t, os.Remove(in("dir/removed")))
	must(t, os.RemoveAll(in("replaced")))
	must(t, os.MkdirAll(in("replaced/deep"), 0o700))
	must(t, os.WriteFile(in("replaced/deep/new"), []byte("new"), 0o640))
	must(t, os.Chown(in("replaced/deep/new"), 7, 8))
	must(t, os.Chmod(in("replaced/deep/new"), 0o4755|os.ModeSetuid))
	must(t, os.Link(in("replaced/deep/new"), in("second")))
	must(t, unix.Setxattr(in("second"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04"+strings.Repeat("\x00", 14)), 0))
	must(t, os.Symlink("/nowhere", in("link")))
	must(t, os.Lchown(in("link"), 3, 4))
	must(t, unix.Mkfifo(in("fifo"), 0o622))
	must(t, unix.Mknod(in("null"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))))

	var layer bytes.Buffer
	must(t, writeLayer(t.Context(), &layer, upper))
	for name, content := range map[string][]byte{"plain": layer.Bytes(), "compressed": []byte(zipped(t, layer.Bytes()))} {
		root, left := again(t, lower), int64(maxBytes)
		must(t, applyDiff(t.Context(), Path(root), bytes.NewReader(content), &left))
		if diff := cmp.Diff(tree(t, merged), tree(t, string(Path(root))+"/.")); diff != "" {
			t.Errorf("%s: the files (-old +restored):\n%s", name, diff)
		}
	}
}

// The archives of all runtimes, with what only they have.
func peers(t *testing.T) map[string][]byte {
	t.Helper()
	spec := `{"ociVersion":"1.1.0","mounts":[{"destination":"/proc","type":"proc"},{"destination":"/etc/hosts","type":"bind","source":"/x","options":["rbind"]},{"destination":"/data/","type":"none","source":"/y","options":["rbind","rw"]}]}`
	dir := func(name string) file { return file{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o700}, ""} }
	images := []file{dir("checkpoint/"), regular("checkpoint/inventory.img", "i"), regular("checkpoint/pages-1.img", "memory")}
	whiteouts := tarOf(t, dir("dir/"), regular("dir/.wh.removed", ""), regular("new", "file"), dir("replaced/"), regular("replaced/inside", "x"), regular("replaced/.wh..wh..opq", ""))
	return map[string][]byte{
		"containerd": tarOf(t, append(images,
			regular("config.dump", `{"id":"ab","name":"main","rootfsImage":"registry.test/app:1","rootfsImageRef":"registry.test/app@sha256:cd","rootfsImageName":"registry.test/app:1","runtime":"io.containerd.runc.v2","createdTime":"2026-01-01T00:00:00Z","checkpointedTime":"2026-01-01T00:00:00Z","restoredTime":"0001-01-01T00:00:00Z","restored":false}`),
			regular("container.log", "the log"), regular("dump.log", "dumped"), regular("rootfs-diff.tar", zipped(t, whiteouts)),
			regular("spec.dump", spec), regular("stats-dump", ""), regular("status", "{}"), regular("status.dump", "{}"))...),
		"CRI-O": tarOf(t, append(images,
			regular("bind.mounts", "[]"),
			regular("config.dump", `{"id":"ab","name":"main","rootfsImage":"registry.test/app:1","rootfsImageRef":"`+strings.Repeat("cd", 32)+`","rootfsImageName":"registry.test/app:1"}`),
			regular("deleted.files", `["/dir/removed","replaced/old"]`), regular("dump.log", "dumped"), regular("io.kubernetes.cri-o.LogPath", "the log"),
			regular("rootfs-diff.tar", string(tarOf(t, regular("new", "file"), regular("replaced/inside", "x")))),
			regular("spec.dump", spec), regular("stats-dump", ""))...),
	}
}

// TestPeers: checkpoints of containerd and CRI-O, in an archive and in a directory.
func TestPeers(t *testing.T) {
	for name, archive := range peers(t) {
		dir := t.TempDir()
		for r := tar.NewReader(bytes.NewReader(archive)); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			if h.Typeflag == tar.TypeDir {
				must(t, os.Mkdir(filepath.Join(dir, h.Name), 0o700))
				continue
			}
			content, err := io.ReadAll(r)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, h.Name), content, 0o600))
		}
		for form, source := range map[string]Source{"archive": archiveOf(t, archive), "directory": Dir(beneath.Root(dir))} {
			t.Run(name+" "+form, func(t *testing.T) { checkPeer(t, source) })
		}
	}
}

func checkPeer(t *testing.T, source Source) {
	t.Helper()
	d, err := source.Describe()
	must(t, err)
	if d.Config.ImageName != "registry.test/app:1" || !strings.Contains(d.Config.ImageRef, "cd") {
		t.Errorf("the container is %+v", d.Config)
	}
	if diff := cmp.Diff([]string{"/data"}, d.Binds); diff != "" {
		t.Errorf("its mounts (-want +got):\n%s", diff)
	}
	lower, _, _ := overlay(t)
	root, images := again(t, lower), t.TempDir()
	var log string
	must(t, source.Restore(t.Context(), Target{Images: images, Files: Path(root), Log: func(r io.Reader) error {
		b, err := io.ReadAll(r)
		log = string(b)
		return err
	}}))
	if log != "the log" {
		t.Errorf("its log is %q", log)
	}
	var names []string
	for name := range tree(t, string(Path(root))+"/.") {
		names = append(names, name)
	}
	got := strings.Join(names, " ") + " "
	for _, name := range []string{"dir/removed", "replaced/old"} {
		if strings.Contains(got, name+" ") {
			t.Errorf("%s is still there: %s", name, got)
		}
	}
	for _, name := range []string{"dir/kept", "new", "replaced/inside", "kept"} {
		if !strings.Contains(got, name+" ") {
			t.Errorf("%s is not there: %s", name, got)
		}
	}
	left, err := filepath.Glob(filepath.Join(images, "*"))
	if want := []string{filepath.Join(images, "inventory.img"), filepath.Join(images, "pages-1.img")}; err != nil || !cmp.Equal(want, left) {
		t.Errorf("the images are %v, %v", left, err)
	}
}

// TestHostileArchive: what is no checkpoint is refused, and nothing gets out.
func TestHostileArchive(t *testing.T) {
	link := func(name, target string, kind byte) file {
		return file{tar.Header{Typeflag: kind, Name: name, Linkname: target}, ""}
	}
	whole := []file{regular("config.dump", "{}"), regular("spec.dump", "{}"), regular("checkpoint/core-1.img", "")}
	with := func(files ...file) []byte { return tarOf(t, append(files, whole...)...) }
	diff := func(files ...file) []byte { return with(regular("rootfs-diff.tar", string(tarOf(t, files...)))) }
	for name, content := range map[string][]byte{
		"no tar":                     []byte(strings.Repeat("no tar", 200)),
		"empty":                      tarOf(t),
		"no configuration":           tarOf(t, whole[1:]...),
		"no images":                  tarOf(t, whole[:2]...),
		"configuration is a link":    with(link("config.dump", "/etc/passwd", tar.TypeSymlink)),
		"log is a link":              with(link("container.log", "/etc/shadow", tar.TypeSymlink)),
		"an image is a hard link":    with(link("checkpoint/x.img", "/etc/shadow", tar.TypeLink)),
		"an image is a device":       with(link("checkpoint/x.img", "", tar.TypeChar)),
		"a file twice":               with(regular("container.log", ""), regular("./container.log", "")),
		"configuration is no JSON":   tarOf(t, regular("config.dump", "{"), whole[1]),
		"configuration is too large": tarOf(t, regular("config.dump", `"`+strings.Repeat("a", maxDocument)+`"`), whole[1]),
		"diff is no tar":             with(regular("rootfs-diff.tar", strings.Repeat("no tar", 200))),
		"diff is no gzip":            with(regular("rootfs-diff.tar", "\x1f\x8bnothing")),
		"diff above the root":        diff(regular("../outside", "")),
		"diff deep above the root":   diff(regular("a/../../outside", "")),
		"diff through a link":        diff(link("out", "/", tar.TypeSymlink), regular("out/outside", "")),
		"diff through an image link": diff(regular("elsewhere/outside", "")),
		"whiteout through a link":    diff(regular("elsewhere/.wh.victim", "")),
		"opaque through a link":      diff(regular("elsewhere/.wh..wh..opq", "")),
		"hard link above the root":   diff(link("hard", "../victim", tar.TypeLink)),
		"hard link through a link":   diff(link("hard", "elsewhere/victim", tar.TypeLink)),
		"whiteout of the parent":     diff(regular("a/.wh...", "")),
		"unknown type":               diff(file{tar.Header{Typeflag: 'V', Name: "v"}, ""}),
		"deleted above the root":     with(regular("deleted.files", `["../../victim"]`)),
		"deleted through a link":     with(regular("deleted.files", `["elsewhere/victim"]`)),
		"deleted is no list":         with(regular("deleted.files", `{}`)),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			root, outside, images := filepath.Join(dir, "root"), filepath.Join(dir, "outside"), filepath.Join(dir, "images")
			for _, d := range []string{root, outside, images} {
				must(t, os.Mkdir(d, 0o700))
			}
			must(t, os.WriteFile(filepath.Join(outside, "victim"), []byte("v"), 0o600))
			must(t, os.Symlink(outside, filepath.Join(root, "elsewhere")))
			source := archiveOf(t, content)
			_, err := source.Describe()
			if err == nil {
				err = source.Restore(t.Context(), Target{Images: images, Files: beneath.Root(root), Log: func(r io.Reader) error {
					_, err := io.ReadAll(r)
					return err
				}})
			}
			if !errdefs.IsFailedPrecondition(err) {
				t.Errorf("error = %v, want a failed precondition", err)
			}
			left, err := os.ReadDir(outside)
			if err != nil || len(left) != 1 || left[0].Name() != "victim" {
				t.Errorf("outside are %v, %v", left, err)
			}
			if b, err := os.ReadDir(dir); err != nil || len(b) != 3 {
				t.Errorf("beside the root are %v, %v", b, err)
			}
		})
	}
}

// TestHostileDirectory: the files of an image may be of any kind.
func TestHostileDirectory(t *testing.T) {
	for name, breaks := range map[string]func(dir string) error{
		"link":      func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "config.dump")) },
		"fifo":      func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "config.dump"), 0o600) },
		"directory": func(dir string) error { return os.Mkdir(filepath.Join(dir, "config.dump"), 0o700) },
		"images": func(dir string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "config.dump"), []byte("{}"), 0o600), os.Symlink("/etc", filepath.Join(dir, Images)))
		},
		"nothing": func(string) error { return nil },
	} {
		dir := t.TempDir()
		must(t, breaks(dir))
		must(t, os.WriteFile(filepath.Join(dir, "spec.dump"), []byte("{}"), 0o600))
		if _, err := Dir(beneath.Root(dir)).Describe(); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: error = %v, want a failed precondition", name, err)
		}
	}
}

// TestRestoreEnds: with its context, or if the checkpoint is too large.
func TestRestoreEnds(t *testing.T) {
	source := archiveOf(t, peers(t)["containerd"])
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	target := Target{Images: t.TempDir(), Files: beneath.Root(t.TempDir()), Log: func(io.Reader) error { return nil }}
	if err := source.Restore(ctx, target); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want the context's", err)
	}
	left := int64(1000)
	bomb := zipped(t, tarOf(t, regular("large", strings.Repeat("0", 1<<20))))
	if err := applyDiff(t.Context(), beneath.Root(t.TempDir()), strings.NewReader(bomb), &left); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("error = %v, want a failed precondition", err)
	}
}

// TestMount: nobody sees the mount, and read-only layers stay as they are.
func TestMount(t *testing.T) {
	needs.That(t, os.Getuid() == 0, "mounts file systems")
	upper, lower, scratch := t.TempDir(), t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(upper, "upper"), []byte("u"), 0o600))
	must(t, os.WriteFile(filepath.Join(lower, "lower"), []byte("l"), 0o600))
	before, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	root, err := Layers{Lower: []string{upper, lower}}.Mount(scratch)
	must(t, err)
	defer func() { _ = root.Close() }()
	names, err := Path(root).Names(".")
	if want := []string{"lower", "upper"}; err != nil || !cmp.Equal(want, names) {
		t.Errorf("the files are %v, %v", names, err)
	}
	if err := Path(root).WriteFile("new", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("error = %v, want read-only", err)
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if diff := cmp.Diff(string(before), string(after)); diff != "" {
		t.Errorf("the mounts (-before +after):\n%s", diff)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	if _, err := (Layers{Lower: []string{upper, filepath.Join(lower, "none")}}).Mount(scratch); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error = %v, want that a layer is missing", err)
	}
}
