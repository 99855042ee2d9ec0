package checkpoint

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/needs"
)

// overlay mounts an overlay of new directories until the test ends.
func overlay(t *testing.T) (lower, upper, merged string) {
	t.Helper()
	dir := t.TempDir()
	lower, upper, merged = filepath.Join(dir, "lower"), filepath.Join(dir, "upper"), filepath.Join(dir, "merged")
	for _, d := range []string{lower, upper, merged, filepath.Join(dir, "work")} {
		must(t, os.Mkdir(d, 0o755))
	}
	for _, name := range []string{"kept", "removed", "changed", "replaced/old", "dir/kept", "dir/removed"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(lower, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(lower, name), []byte("lower"), 0o644))
	}
	must(t, unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, filepath.Join(dir, "work"))))
	t.Cleanup(func() { must(t, unix.Unmount(merged, 0)) })
	return lower, upper, merged
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// entries describes a layer, with one line per file.
func entries(t *testing.T, layer io.Reader) map[string]string {
	t.Helper()
	found := map[string]string{}
	for r := tar.NewReader(layer); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		must(t, err)
		content, err := io.ReadAll(r)
		must(t, err)
		line := fmt.Sprintf("%c %o %d:%d %s%s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, content)
		for key, value := range h.PAXRecords {
			if strings.HasPrefix(key, paxXattrs) {
				line += " " + strings.TrimPrefix(key, paxXattrs) + "=" + value
			}
		}
		found[h.Name] = line
	}
}

// TestLayer changes the files of an overlay as a container might.
func TestLayer(t *testing.T) {
	_, upper, merged := overlay(t)
	in := func(name string) string { return filepath.Join(merged, name) }
	must(t, os.WriteFile(in("changed"), []byte("changed"), 0o600))
	must(t, os.Remove(in("removed")))
	must(t, os.Remove(in("dir/removed")))
	must(t, os.RemoveAll(in("replaced")))
	must(t, os.Mkdir(in("replaced"), 0o700))
	must(t, os.WriteFile(in("replaced/new"), []byte("new"), 0o640))
	must(t, os.Chown(in("replaced/new"), 7, 8))
	must(t, os.Link(in("replaced/new"), in("second")))
	must(t, os.Symlink("/nowhere", in("link")))
	must(t, os.Symlink("self", in("self")))
	must(t, unix.Mkfifo(in("fifo"), 0o600))
	must(t, unix.Mknod(in("null"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(in("socket"), unix.S_IFSOCK|0o666, 0))
	// cap_net_bind_service, permitted and effective, in version 2 of the format.
	capability := "\x01\x00\x00\x02\x00\x04" + strings.Repeat("\x00", 14)
	must(t, unix.Setxattr(in("second"), "security.capability", []byte(capability), 0))
	long := strings.Repeat("long/", 60)
	must(t, os.MkdirAll(in(long), 0o755))

	var layer bytes.Buffer
	must(t, writeLayer(t.Context(), &layer, upper))
	want := map[string]string{
		"changed": "0 644 0:0 changed", ".wh.removed": "0 0 0:0 ", "dir/": "5 755 0:0 ", "dir/.wh.removed": "0 0 0:0 ",
		"replaced/": "5 700 0:0 ", "replaced/.wh..wh..opq": "0 0 0:0 ",
		"replaced/new": "0 640 7:8 new security.capability=" + capability, "second": "1 640 7:8 replaced/new security.capability=" + capability,
		"link": "2 777 0:0 /nowhere", "self": "2 777 0:0 self", "fifo": "6 600 0:0 ", "null": "3 644 0:0 ",
	}
	for i := range 60 {
		want[strings.Repeat("long/", i+1)] = "5 755 0:0 "
	}
	if bytes.Contains(layer.Bytes(), []byte("root")) {
		t.Error("the layer has the node's names of the owners")
	}
	if diff := cmp.Diff(want, entries(t, &layer)); diff != "" {
		t.Errorf("the layer (-want +got):\n%s", diff)
	}
}

// TestLayerOfParts: a file whose content is in a lower layer is left out.
func TestLayerOfParts(t *testing.T) {
	upper := t.TempDir()
	must(t, os.Mkdir(filepath.Join(upper, "moved"), 0o755))
	err := unix.Setxattr(filepath.Join(upper, "moved"), "trusted.overlay.redirect", []byte("/old"), 0)
	needs.That(t, err == nil, "the test's directory has no such attributes: %v", err)
	if err := writeLayer(t.Context(), io.Discard, upper); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "moved") {
		t.Errorf("error = %v, want a failed precondition that names the file", err)
	}
}

func TestArchive(t *testing.T) {
	dir, place := t.TempDir(), t.TempDir()
	location := filepath.Join(place, "main.tar")
	must(t, os.Mkdir(filepath.Join(dir, Images), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, Images, "pages-1.img"), []byte("memory"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "config.dump"), []byte("{}"), 0o600))

	ended, end := context.WithCancelCause(t.Context())
	end(context.DeadlineExceeded)
	for _, tc := range []struct {
		ctx      context.Context
		dir, loc string
		want     error
	}{
		{ended, dir, location, context.DeadlineExceeded},
		{t.Context(), filepath.Join(dir, "none"), location, os.ErrNotExist},
		{t.Context(), dir, filepath.Join(place, "none", "main.tar"), os.ErrNotExist},
	} {
		if err := Archive(tc.ctx, tc.dir, tc.loc); !errors.Is(err, tc.want) {
			t.Errorf("error = %v, want %v", err, tc.want)
		}
		if left, err := os.ReadDir(place); err != nil || len(left) > 0 {
			t.Errorf("left are %v, %v", left, err)
		}
	}

	must(t, Archive(t.Context(), dir, location))
	f, err := os.Open(location)
	must(t, err)
	defer func() { _ = f.Close() }()
	want := map[string]string{"checkpoint/": "5 700 0:0 ", "checkpoint/pages-1.img": "0 644 0:0 memory", "config.dump": "0 600 0:0 {}"}
	if diff := cmp.Diff(want, entries(t, f)); diff != "" {
		t.Errorf("the archive (-want +got):\n%s", diff)
	}
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
}
