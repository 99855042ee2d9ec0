package images

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cridock/cridock/shim/engine"
)

// containerd is the test's process in the role of a containerd with this root
// directory; it returns the socket.
func containerd(t *testing.T, root string) string {
	t.Helper()
	database := filepath.Join(root, containerdDatabase)
	if err := os.MkdirAll(filepath.Dir(database), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return listening(t)
}

func listening(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cridock") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return socket
}

func TestContainerdRoot(t *testing.T) {
	if root, err := containerdRoot(listening(t)); !errdefs.IsNotFound(err) {
		t.Errorf("a process without a database: %q, %v, want not found", root, err)
	}
	if root, err := containerdRoot("/nowhere/containerd.sock"); err == nil {
		t.Errorf("without a socket: %q, want an error", root)
	}
	dir := t.TempDir()
	if root, err := containerdRoot(containerd(t, dir)); root != dir || err != nil {
		t.Errorf("got %q, %v, want %s", root, err, dir)
	}
}

// TestConfiguredRoot: a containerd may keep its data in another directory than the
// default one.
func TestConfiguredRoot(t *testing.T) {
	dir := t.TempDir()
	n := &node{caps: engine.Capabilities{
		RootDir: t.TempDir(), StorageDriver: "overlayfs", ContainerdStore: true, ContainerdAddress: containerd(t, dir),
	}}
	u := NewUsage(n, n, n)
	want := filepath.Join(dir, "io.containerd.snapshotter.v1.overlayfs")
	for range 2 {
		if got := u.Root(); got != want {
			t.Errorf("root = %q, want %q", got, want)
		}
	}
	gone := n.caps
	gone.ContainerdAddress = "/nowhere/containerd.sock"
	if got := NewUsage(&node{caps: gone}, n, n).Root(); got != "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs" {
		t.Errorf("without its socket, root = %q, want the default", got)
	}
}
