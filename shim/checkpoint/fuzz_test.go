package checkpoint

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
)

// FuzzLayer: a container chooses the names and attributes in its layer. The
// archive must contain each file under its own name, none outside its root, and
// no removal that the overlay does not have.
func FuzzLayer(f *testing.F) {
	f.Add("file", "content", "user.note", "x", uint16(0o644))
	f.Add("dir/file", "", "user.a=b", "\x00", uint16(0o4755))
	f.Add(".wh.etc", "", "", "", uint16(0o600))
	f.Add("a/.wh..wh..opq", "", "", "", uint16(0o600))
	f.Add("\xff\n", strings.Repeat("a", 1<<10), "user.\xff", "\n", uint16(0))
	f.Fuzz(func(t *testing.T, name, content, xattr, value string, mode uint16) {
		upper := t.TempDir()
		full := filepath.Join(upper, filepath.Clean("/"+name))
		if full == upper || os.MkdirAll(filepath.Dir(full), 0o700) != nil || os.WriteFile(full, []byte(content), 0o600) != nil || os.Chmod(full, os.FileMode(mode)&os.ModePerm) != nil {
			return
		}
		if strings.HasPrefix(xattr, "user.") {
			_ = unix.Setxattr(full, xattr, []byte(value), 0)
		}
		var out bytes.Buffer
		if err := writeLayer(t.Context(), &out, upper); err != nil {
			if !errdefs.IsFailedPrecondition(err) {
				t.Fatalf("no class: %v", err)
			}
			return
		}
		rel, err := filepath.Rel(upper, full)
		if err != nil {
			t.Fatal(err)
		}
		if got := onlyFile(t, &out, rel); got != content {
			t.Fatalf("%q has %q, want %q", rel, got, content)
		}
	})
}

// onlyFile checks the entries of a layer with one file, and returns its content.
func onlyFile(t *testing.T, layer io.Reader, name string) (content string) {
	t.Helper()
	found := false
	for r := tar.NewReader(layer); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			if !found {
				t.Fatalf("%q is not in it", name)
			}
			return content
		}
		if err != nil {
			t.Fatal(err)
		}
		if !filepath.IsLocal(h.Name) || strings.HasPrefix(path.Base(h.Name), whiteout) {
			t.Fatalf("entry %q", h.Name)
		}
		if h.Typeflag == tar.TypeReg {
			b, err := io.ReadAll(r)
			if err != nil || h.Name != name {
				t.Fatalf("entry %q, want %q: %v", h.Name, name, err)
			}
			found, content = true, string(b)
		}
	}
}

// FuzzDiff: the author of a checkpoint chooses all of its layer. Nothing outside the
// container's root may change.
func FuzzDiff(f *testing.F) {
	f.Add("file", "", byte(tar.TypeReg), "second", "file", byte(tar.TypeLink))
	f.Add("out", "/", byte(tar.TypeSymlink), "out/file", "", byte(tar.TypeReg))
	f.Add("out", "..", byte(tar.TypeSymlink), "out/.wh.victim", "", byte(tar.TypeReg))
	f.Add("elsewhere/.wh..wh..opq", "", byte(tar.TypeReg), "/../victim", "", byte(tar.TypeDir))
	f.Add("a//./b", "", byte(tar.TypeDir), "a/b/.wh..", "", byte(tar.TypeReg))
	f.Add("hard", "../victim", byte(tar.TypeLink), "hard", "x", byte(tar.TypeReg))
	f.Fuzz(func(t *testing.T, name, target string, kind byte, name2, target2 string, kind2 byte) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []tar.Header{{Name: name, Linkname: target, Typeflag: kind, Mode: 0o600}, {Name: name2, Linkname: target2, Typeflag: kind2, Mode: 0o600}} {
			if w.WriteHeader(&h) != nil {
				return
			}
		}
		if w.Close() != nil {
			return
		}
		dir := t.TempDir()
		root, victim := filepath.Join(dir, "root"), filepath.Join(dir, "victim")
		if err := errors.Join(os.Mkdir(root, 0o700), os.WriteFile(victim, []byte("v"), 0o600), os.Symlink(dir, filepath.Join(root, "elsewhere"))); err != nil {
			t.Fatal(err)
		}
		left := int64(1 << 20)
		_ = applyDiff(t.Context(), beneath.Root(root), &b, &left)
		if content, err := os.ReadFile(victim); err != nil || string(content) != "v" {
			t.Fatalf("a file outside has %q, %v", content, err)
		}
		if names, err := beneath.Root(dir).Names("."); err != nil || len(names) != 2 {
			t.Fatalf("outside are %v, %v", names, err)
		}
	})
}

// FuzzDescribe: an archive of any content is described or refused.
func FuzzDescribe(f *testing.F) {
	f.Add(tarOf(f, regular("config.dump", `{"rootfsImageRef":"x"}`), regular("spec.dump", `{"mounts":[{"destination":"/a/../b","type":"bind"}]}`)))
	f.Add(tarOf(f, regular("./config.dump", `[]`)))
	f.Add([]byte("no tar"))
	f.Fuzz(func(t *testing.T, content []byte) {
		d, err := archiveOf(t, content).Describe()
		if err != nil {
			if !errdefs.IsFailedPrecondition(err) {
				t.Fatalf("no class: %v", err)
			}
			return
		}
		for _, bind := range d.Binds {
			if path.Clean(bind) != bind {
				t.Fatalf("mount at %q", bind)
			}
		}
	})
}
