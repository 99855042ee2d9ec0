package shim

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/beneath"
)

func TestContainerResources(t *testing.T) {
	dir := t.TempDir()
	store := containerResources{beneath.Root(dir)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ids := func(want ...string) {
		t.Helper()
		got, err := store.IDs()
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("IDs: %v (-want +got):\n%s", err, diff)
		}
	}
	ids()
	must(store.Remove("a"))
	if _, err := store.Read("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing is stored: %v", err)
	}
	must(store.Write("a", []byte("1")))
	must(store.Write("a", []byte("2")))
	must(store.Write("b", []byte("3")))
	if b, err := store.Read("a"); string(b) != "2" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	for name, want := range map[string]fs.FileMode{"resources": 0o700, "resources/a.json": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %o", name, info, err, want)
		}
	}

	// What an interrupted write leaves goes with its container, and so does what else
	// is there.
	must(os.WriteFile(filepath.Join(dir, "resources/a.json.XYZ.tmp"), nil, 0o600))
	must(os.WriteFile(filepath.Join(dir, "resources/c.json.XYZ.tmp"), nil, 0o600))
	must(os.MkdirAll(filepath.Join(dir, "resources/other/sub"), 0o700))
	ids("a", "b", "c", "other")
	if _, err := store.Read("c"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("only a draft is stored: %v", err)
	}
	for _, id := range []string{"a", "c", "other"} {
		must(store.Remove(id))
	}
	ids("b")
	left, err := beneath.Root(dir).Names("resources")
	if diff := cmp.Diff([]string{"b.json"}, left); diff != "" || err != nil {
		t.Errorf("left: %v (-want +got):\n%s", err, diff)
	}
}

// TestResourcesOverLinks: the stores follow no link.
func TestResourcesOverLinks(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	for _, name := range []string{"resources", "sandboxes"} {
		if err := os.Symlink(outside, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	containers, sandboxes := containerResources{beneath.Root(dir)}, sandboxResources{beneath.Root(dir)}
	_, list := containers.IDs()
	_, read := containers.Read("a")
	_, readSandbox := sandboxes.Read("a")
	for what, err := range map[string]error{
		"IDs": list, "Read": read, "Write": containers.Write("a", nil), "Remove": containers.Remove("a"),
		"Read of a sandbox": readSandbox, "Write of a sandbox": sandboxes.Write("a", nil),
	} {
		if !beneath.IsRefused(err) {
			t.Errorf("%s: %v; want it refused", what, err)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("written outside: %v, %v", left, err)
	}
}
