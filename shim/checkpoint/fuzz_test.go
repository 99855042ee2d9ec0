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
