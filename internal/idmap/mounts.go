package idmap

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Isolate moves the calling thread to a mount namespace of its own, in which dir is
// an empty directory that every user can traverse. Mounts made on the host
// afterwards appear there; those made there do not appear on the host.
func Isolate(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separate the mount namespace: %w", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0711"); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
	}
	return nil
}

// Clone mounts source, a file or directory, on target as well, and with recursive
// also what is mounted below it. It id-maps the new mount with userns, unless that
// is nil. It makes target, which must not exist, in an existing directory.
func Clone(source, target string, recursive bool, userns *os.File) error {
	cloneFlags, attrFlags := uint(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC), uint(unix.AT_EMPTY_PATH)
	if recursive {
		cloneFlags |= unix.AT_RECURSIVE
		attrFlags |= unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, cloneFlags)
	if err != nil {
		return fmt.Errorf("clone the mount of %s: %w", source, err)
	}
	defer func() { _ = unix.Close(tree) }()
	if userns != nil {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
		if err := unix.MountSetattr(tree, "", attrFlags, &attr); err != nil {
			return fmt.Errorf("id-map the mount of %s (%s): %w", source, fileSystem(tree), err)
		}
	}
	if err := makeTarget(tree, target); err != nil {
		return fmt.Errorf("mount point for %s: %w", source, err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

// MountDevices mounts a file system for device nodes on dir, which it makes.
func MountDevices(dir string) error {
	if err := os.Mkdir(dir, 0o711); err != nil { //nolint:gosec // users that are mapped must get through
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0711"); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
	}
	return nil
}

// makeTarget makes a mount point for a mount: a directory or a file.
func makeTarget(tree int, target string) error {
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.Mkdir(target, 0o711) //nolint:gosec // hidden by the mount
	}
	return makeFile(target)
}

func makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o400) //nolint:gosec // in a file system of our own
	if err != nil {
		return err
	}
	return f.Close()
}

// fileSystem names the type of the file system at an open path, for messages.
func fileSystem(fd int) string {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return "file system unknown"
	}
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", unix.FUSE_SUPER_MAGIC: "fuse", unix.PROC_SUPER_MAGIC: "proc",
	}
	if name, ok := names[int64(st.Type)]; ok { //nolint:unconvert // int32 on some architectures
		return name
	}
	return fmt.Sprintf("file system type %#x", st.Type)
}

// BindNamespace mounts a namespace on target, which it makes.
func BindNamespace(ns *os.File, target string) error {
	if err := makeFile(target); err != nil {
		return err
	}
	if err := unix.Mount("/proc/thread-self/fd/"+strconv.Itoa(int(ns.Fd())), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the user namespace on %s: %w", target, err)
	}
	return nil
}

// inDirectory calls f with dir as the calling thread's working directory.
func inDirectory(dir string, f func() error) error {
	before, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the working directory: %w", err)
	}
	defer func() { _ = unix.Close(before) }()
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("change to %s: %w", dir, err)
	}
	err = f()
	if back := unix.Fchdir(before); back != nil {
		err = errors.Join(err, fmt.Errorf("return to the working directory: %w", back))
	}
	return err
}

// asOwner calls f with the file system's user and group changed to these, and with
// all capabilities that the thread may have: changing the user drops some.
func asOwner(uid, gid uint32, f func() error) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var before [2]unix.CapUserData
	if err := unix.Capget(&header, &before[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	oldGID, _ := unix.SetfsgidRetGid(int(gid))
	oldUID, _ := unix.SetfsuidRetUid(int(uid))
	defer func() {
		_, _ = unix.SetfsuidRetUid(oldUID) // these report no errors
		_, _ = unix.SetfsgidRetGid(oldGID)
	}()
	// An invalid ID changes nothing, and returns what is set.
	nowUID, _ := unix.SetfsuidRetUid(-1)
	nowGID, _ := unix.SetfsgidRetGid(-1)
	if nowUID != int(uid) || nowGID != int(gid) {
		return fmt.Errorf("act as user %d and group %d on files: %w", uid, gid, unix.EPERM)
	}
	all := before
	for i := range all {
		all[i].Effective = all[i].Permitted
	}
	if err := unix.Capset(&header, &all[0]); err != nil {
		return fmt.Errorf("raise capabilities: %w", err)
	}
	err := f()
	if back := unix.Capset(&header, &before[0]); back != nil {
		err = errors.Join(err, fmt.Errorf("restore capabilities: %w", back))
	}
	return err
}
