package network

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/netns"
)

// MakeSysfsWritable allows later mounts of sysfs in the network namespace at path
// to be writable. A network namespace has one sysfs, and its first mount decides
// whether it is read-only for all. Mounts that are read-only themselves stay
// read-only. It is idempotent. It returns ErrNotImplemented on kernels before 5.2.
func MakeSysfsWritable(path string) error {
	err := netns.DoAt(path, remountSysfs)
	if errors.Is(err, unix.ENOSYS) {
		err = fmt.Errorf("%w: needs Linux 5.2", errdefs.ErrNotImplemented)
	}
	if err != nil {
		return fmt.Errorf("make sysfs of network namespace %s writable: %w", path, err)
	}
	return nil
}

// remountSysfs clears the read-only flag of the sysfs of the thread's network
// namespace, by a short-lived mount that is attached nowhere.
func remountSysfs() error {
	mount, err := mountSysfs("rw")
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(mount) }()
	fs, err := unix.Fspick(mount, "", unix.FSPICK_EMPTY_PATH|unix.FSPICK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fspick: %w", err)
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigSetFlag(fs, "rw"); err != nil {
		return fmt.Errorf("fsconfig rw: %w", err)
	}
	if err := unix.FsconfigReconfigure(fs); err != nil {
		return fmt.Errorf("fsconfig: %w", err)
	}
	return nil
}

// mountSysfs returns the descriptor of a detached mount, which closing unmounts.
// mode is ro or rw, and has an effect on the first mount only.
func mountSysfs(mode string) (int, error) {
	fs, err := unix.Fsopen("sysfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigSetFlag(fs, mode); err != nil {
		return -1, fmt.Errorf("fsconfig %s: %w", mode, err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("fsconfig: %w", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return mount, nil
}
