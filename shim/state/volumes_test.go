package state_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cridock/cridock/internal/needs"
	"github.com/cridock/cridock/shim/state"
)

func volume(t *testing.T, d state.Dir, key string) state.Volume {
	t.Helper()
	v, err := d.Volume(key, state.Owner{UID: os.Getuid(), GID: os.Getgid()})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestVolume: a volume is new until it is kept, and then always the same.
func TestVolume(t *testing.T) {
	d := state.New(filepath.Join(t.TempDir(), "root")).Sandbox(podName)
	first, second, other := volume(t, d, "key"), volume(t, d, "key"), volume(t, d, "other")
	if first.Kept || second.Kept || first.Path == second.Path || first.Path == other.Path {
		t.Errorf("not kept: %+v, %+v, %+v", first, second, other)
	}
	for _, v := range []state.Volume{first, second} {
		if info, err := os.Stat(v.Path); err != nil || info.Mode() != fs.ModeDir|0o755 {
			t.Errorf("%v, %v", info, err)
		}
	}
	if info, err := os.Stat(filepath.Dir(first.Path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("around it: %v, %v", info, err)
	}
	file := filepath.Join(second.Path, "file")
	if err := errors.Join(os.WriteFile(file, []byte("x"), 0o600), os.WriteFile(filepath.Join(first.Path, "half"), nil, 0o600), d.KeepVolume(second)); err != nil {
		t.Fatal(err)
	}
	again := volume(t, d, "key")
	if !again.Kept || again.Path != second.Path {
		t.Errorf("kept: %+v, want %s", again, second.Path)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(first.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the volume that was not kept: %v", err)
	}
	if err := d.RemoveVolume(again); err != nil {
		t.Fatal(err)
	}
	if lost := volume(t, d, "key"); lost.Kept {
		t.Error("a volume that was removed is kept")
	}
	if err := d.RemoveAll(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(d.Path("")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after its removal: %v", err)
	}
}

// TestVolumeLinks: what a container has left in a volume leads nowhere.
func TestVolumeLinks(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := state.New(filepath.Join(t.TempDir(), "root")).Sandbox(podName)
	v := volume(t, d, "key")
	if err := errors.Join(os.Symlink(outside, filepath.Join(v.Path, "link")), d.KeepVolume(v), d.RemoveAll()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "file")); err != nil {
		t.Error(err)
	}
}

// TestMountInVolume: what is mounted in a volume is not removed with it.
func TestMountInVolume(t *testing.T) {
	dir := t.TempDir()
	d := state.New(filepath.Join(dir, "root")).Sandbox(podName)
	v := volume(t, d, "key")
	err := syscall.Mount(dir, v.Path, "", syscall.MS_BIND, "")
	needs.That(t, err == nil, "cannot mount: %v", err)
	mounted := true
	t.Cleanup(func() {
		if mounted {
			_ = syscall.Unmount(v.Path, syscall.MNT_DETACH)
		}
	})
	if err := d.RemoveVolume(v); err == nil {
		t.Error("the volume was removed")
	}
	if err := d.RemoveAll(); err == nil || !strings.Contains(err.Error(), "something is mounted on "+v.Path) {
		t.Errorf("%v, want it refused", err)
	}
	age(t, filepath.Join(dir, "root", "sandboxes"))
	if err := state.New(filepath.Join(dir, "root")).Sweep(state.Live{}); err == nil {
		t.Error("swept")
	}
	if _, err := os.Stat(v.Path); err != nil {
		t.Error(err)
	}
	if err := syscall.Unmount(v.Path, syscall.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	mounted = false
	if err := d.RemoveAll(); err != nil {
		t.Error(err)
	}
}
