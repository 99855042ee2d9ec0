package images

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/stats"
	"github.com/cridock/cridock/translate"
)

// node is an engine, its index and the results of the walker.
type node struct {
	caps       engine.Capabilities
	images     []translate.Image
	containers []*translate.Container
	err        error
	sizes      map[string]uint64 // by directory
	changed    []string
	except     func() []string
}

func (n *node) Capabilities() *engine.Capabilities { return &n.caps }

func (n *node) Images(context.Context) ([]translate.Image, error) { return n.images, n.err }

func (n *node) Containers(context.Context) ([]*translate.Container, error) {
	return n.containers, n.err
}

func (n *node) Usage(layer string) (stats.DiskUsage, bool) {
	size, ok := n.sizes[layer]
	return stats.DiskUsage{Bytes: size, Inodes: 1}, ok
}

func (n *node) TreeUsage(t stats.Tree) (stats.DiskUsage, bool) {
	n.except = t.Except
	return n.Usage(t.Roots[0])
}

func (n *node) Changed(t stats.Tree) { n.changed = append(n.changed, t.Roots...) }

func TestUsage(t *testing.T) {
	n := &node{
		caps:   engine.Capabilities{RootDir: "/docker", StorageDriver: "overlay2"},
		images: []translate.Image{{Size: 10}, {Size: 5}},
		containers: []*translate.Container{
			{ID: "a", UpperDir: "/docker/overlay2/a"}, {ID: "b", UpperDir: "/docker/overlay2/b"}, {ID: "new", UpperDir: "/docker/overlay2/new"}, {ID: "runs", Pid: 7},
		},
		sizes: map[string]uint64{"/docker/overlay2/a": 1, "/docker/overlay2/b": 2, "/snapshots/7": 4},
	}
	u := NewUsage(n, n, n)
	u.upperDir = func(_ string, pid int) (string, error) {
		if pid != 7 {
			return "", errdefs.ErrNotFound
		}
		return "/snapshots/7", nil
	}
	check := func(what string, read func(context.Context) (stats.DiskUsage, error), want stats.DiskUsage) {
		t.Helper()
		got, err := read(t.Context())
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(stats.DiskUsage{}, "At")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	check("images before the first walk", u.Images, stats.DiskUsage{Bytes: 15})
	n.sizes["/docker/overlay2"] = 12
	check("images", u.Images, stats.DiskUsage{Bytes: 12, Inodes: 1})
	check("layers", u.Layers, stats.DiskUsage{Bytes: 7, Inodes: 3})
	if got, err := u.Layers(t.Context()); err != nil || time.Since(got.At) > time.Minute {
		t.Errorf("layers are as of %v", got.At)
	}
	if diff := cmp.Diff([]string{"/docker/overlay2/a", "/docker/overlay2/b", "/docker/overlay2/new", "/snapshots/7"}, n.except()); diff != "" {
		t.Errorf("not the images' (-want +got):\n%s", diff)
	}
	u.Changed()
	if diff := cmp.Diff([]string{"/docker/overlay2"}, n.changed); diff != "" {
		t.Errorf("measured again (-want +got):\n%s", diff)
	}
	n.err = errdefs.ErrUnavailable
	for what, read := range map[string]func(context.Context) (stats.DiskUsage, error){"images": u.Images, "layers": u.Layers} {
		if _, err := read(t.Context()); !errdefs.IsUnavailable(err) {
			t.Errorf("%s without an index: %v, want unavailable", what, err)
		}
	}
	if dirs := n.except(); dirs != nil {
		t.Errorf("layers without an index: %v", dirs)
	}
}

func TestRoot(t *testing.T) {
	n := &node{caps: engine.Capabilities{RootDir: t.TempDir(), StorageDriver: "overlayfs"}}
	check := func(want string) {
		t.Helper()
		if got := NewUsage(n, n, n).Root(); got != want {
			t.Errorf("root = %q, want %q", got, want)
		}
	}
	check(filepath.Join(n.caps.RootDir, "overlayfs"))
	n.caps.ContainerdStore = true
	check("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs")
	own := filepath.Join(n.caps.RootDir, "containerd/daemon/io.containerd.snapshotter.v1.overlayfs")
	if err := os.MkdirAll(own, 0o700); err != nil {
		t.Fatal(err)
	}
	check(own)
}
