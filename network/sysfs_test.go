package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/netns"
)

// TestMakeSysfsWritable acts as a runtime: the first container's sysfs is
// read-only, and the second one's must become writable.
func TestMakeSysfsWritable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ns")
	newNetNS(t, path)
	mount := func(mode string) (fd int) {
		t.Helper()
		err := netns.DoAt(path, func() (err error) {
			fd, err = mountSysfs(mode)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	write := func(mount int) error {
		return os.WriteFile(fmt.Sprintf("/proc/self/fd/%d/class/net/lo/mtu", mount), []byte("1400"), 0)
	}
	mount("ro")
	if err := write(mount("rw")); !errors.Is(err, unix.EROFS) {
		t.Fatalf("after a first mount that is read-only: %v, want %v", err, unix.EROFS)
	}
	for range 2 {
		if err := MakeSysfsWritable(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := write(mount("rw")); err != nil {
		t.Errorf("a later mount: %v", err)
	}
	if err := MakeSysfsWritable(path + "-not"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no namespace: %v", err)
	}
}
