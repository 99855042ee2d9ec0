package stats

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/needs"
)

// TestLayerBelow: a container that may mount can make any directory of the host
// look like its writable layer.
func TestLayerBelow(t *testing.T) {
	dir := t.TempDir()
	store, link := filepath.Join(dir, "store"), filepath.Join(dir, "link")
	if err := os.Mkdir(store, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(store, link); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		root, dir string
		ok        bool
	}{
		{store, store + "/snapshots/1/fs", true},
		{link, store + "/snapshots/1/fs", true},
		{link, link + "/snapshots/1/fs", true},
		{store, "", false},
		{store, store, false},
		{store, "/", false},
		{store, "/etc", false},
		{store, store + "/../other", false},
		{store, store + "-other/1", false},
		{"/nowhere", store + "/1", false},
	} {
		want := ""
		if tc.ok {
			want = tc.dir
		}
		if got := layerBelow(tc.root, tc.dir); got != want {
			t.Errorf("layerBelow(%q, %q) = %q, want %q", tc.root, tc.dir, got, want)
		}
	}
}

// TestUpperDir: the mount that Docker has made for a container counts, not the root that
// its process has.
func TestUpperDir(t *testing.T) {
	needs.Root(t, "mounts an overlay")
	const id = "0c9f"
	dir := t.TempDir()
	l := Layers{Root: filepath.Join(dir, "store"), Mounts: filepath.Join(dir, "rootfs")}
	upper, other, mount := filepath.Join(l.Root, "5", "fs"), filepath.Join(l.Root, "6", "fs"), filepath.Join(l.Mounts, id)
	for _, d := range []string{upper, other, filepath.Join(l.Root, "5", "work"), filepath.Join(l.Root, "4", "fs"), mount} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	runtime.LockOSThread() // never unlocked: the thread ends with its mounts
	if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
		t.Fatal(err)
	}
	check := func(what, device, claimed, want string, wantSure bool) {
		t.Helper()
		proc := filepath.Join(t.TempDir(), "7")
		line := fmt.Sprintf("1 0 %s / / rw - overlay overlay rw,lowerdir=/l,upperdir=%s\n", device, claimed)
		if err := errors.Join(os.Mkdir(proc, 0o755), os.WriteFile(filepath.Join(proc, "mountinfo"), []byte(line), 0o644)); err != nil {
			t.Fatal(err)
		}
		p, err := openProcess(filepath.Dir(proc), 7)
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		if got, sure := l.upperDir(p, id); got != want || sure != wantSure {
			t.Errorf("%s: %q, sure: %t; want %q, %t", what, got, sure, want, wantSure)
		}
	}
	check("Docker's mount is not seen", "0:99", other, other, false)
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", filepath.Join(l.Root, "4", "fs"), upper, filepath.Join(l.Root, "5", "work"))
	if err := unix.Mount("overlay", mount, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	device, ok := overlayOn(mount)
	if !ok {
		t.Fatal("Docker's mount is no overlay")
	}
	check("the root is Docker's mount", device, upper, upper, true)
	check("the root is cridock-runtime's", "0:99", "5/fs", upper, true)
	check("the root is the container's own", "0:99", other, upper, true)
}
