package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/idmap"
	"github.com/cridock/cridock/internal/seam"
)

// change changes a container's bundle as its record says. It replaces the bundle's
// configuration only once everything else has succeeded.
func change(dir seam.Dir, bundle string, r *seam.Record) error {
	bundle, err := filepath.Abs(bundle)
	if err != nil {
		return err
	}
	s, err := readSpec(bundle)
	if err != nil {
		return err
	}
	if r.Resources != nil {
		if err := s.setResources(r.Resources); err != nil {
			return err
		}
	}
	if len(r.Hooks) > 0 {
		if err := s.addHooks(r.Hooks); err != nil {
			return err
		}
	}
	if err := s.setFields(r); err != nil {
		return err
	}
	if err := s.dropMounts(bundle, r.DroppedMounts); err != nil {
		return err
	}
	if len(r.MountOptions) > 0 {
		if err := s.addMountOptions(bundle, r.MountOptions); err != nil {
			return err
		}
	}
	if r.Network != nil {
		if err := s.setNetwork(r.Network); err != nil {
			return err
		}
	}
	if r.UserNamespace != nil {
		if err := enterUserNamespace(s, dir, bundle, r); err != nil {
			return err
		}
	}
	return s.write(bundle)
}

// setFields makes the changes that need no mounts.
func (s spec) setFields(r *seam.Record) error {
	if err := s.annotate(r.Annotations); err != nil {
		return err
	}
	if r.Devices != nil {
		if err := s.setDevices(r.Devices); err != nil {
			return err
		}
	}
	if r.Spec != nil {
		// What follows checks the namespaces that it changes, and moves its devices.
		if err := s.extend(r.Spec); err != nil {
			return err
		}
	}
	if r.WritableCgroups {
		if err := s.makeCgroupsWritable(); err != nil {
			return err
		}
	}
	if r.UTS != nil {
		return s.joinUTS(r.UTS)
	}
	return nil
}

// enterUserNamespace makes the mounts that a container in a user namespace needs, in a
// mount namespace of this process's own, and changes s to use them.
func enterUserNamespace(s spec, dir seam.Dir, bundle string, r *seam.Record) error {
	// On the host only its path is used, by exec.
	if err := os.MkdirAll(dir.RootFS(), 0o711); err != nil { //nolint:gosec // users that are mapped must get through
		return err
	}
	userns, err := openUserNamespace(r.UserNamespace)
	if err != nil {
		return err
	}
	defer func() { _ = userns.Close() }()
	if err := idmap.Isolate(dir.Mounts()); err != nil {
		return err
	}
	join := ""
	if r.UserNamespace.Join != nil {
		// By this path the real runtime joins the namespace that was checked, whatever
		// becomes of the process.
		join = filepath.Join(dir.Mounts(), "userns")
		if err := idmap.BindNamespace(userns, join); err != nil {
			return err
		}
	}
	if err := s.setUserNamespace(r.UserNamespace, join); err != nil {
		return err
	}
	if err := moveRoot(s, bundle, dir, userns, r.UserNamespace); err != nil {
		return err
	}
	if err := moveBinds(s, bundle, dir, userns, r); err != nil {
		return err
	}
	if err := moveDevices(s, dir, r); err != nil {
		return err
	}
	return giveStreams(r)
}

// openUserNamespace returns the sandbox's user namespace or, for a sandbox, one with
// the same mappings as its own will have.
func openUserNamespace(u *seam.UserNamespace) (*os.File, error) {
	if u.Join != nil {
		return idmap.JoinUserNamespace(u, *u.Join)
	}
	return idmap.NewUserNamespace(u.UIDs, u.GIDs)
}

// moveRoot mounts the root file system again, id-mapped: the overlay that it is, or
// a clone of any other.
func moveRoot(s spec, bundle string, dir seam.Dir, userns *os.File, u *seam.UserNamespace) error {
	root, err := s.rootPath(bundle)
	if err != nil {
		return err
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	mountinfo, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	overlay, err := idmap.FindOverlay(string(mountinfo), root)
	switch {
	case err != nil:
		return err
	case overlay == nil:
		err = idmap.Clone(root, dir.RootFS(), false, userns)
	default:
		if err = os.Mkdir(dir.RootFS(), 0o711); err == nil { //nolint:gosec // as above
			err = overlay.Mount(dir.Mounts(), dir.RootFS(), userns, u)
		}
	}
	if err != nil {
		return err
	}
	s.setRootPath(dir.RootFS())
	return nil
}

// moveBinds mounts the sources of all bind mounts where the container's root can
// reach them, id-mapped where the record says so.
func moveBinds(s spec, bundle string, dir seam.Dir, userns *os.File, r *seam.Record) error {
	binds, err := s.binds(bundle)
	if err != nil {
		return err
	}
	toMap, err := mapped(r, binds)
	if err != nil {
		return err
	}
	for i, b := range binds {
		source := filepath.Join(dir.Mounts(), "v"+strconv.Itoa(i))
		image := slices.IndexFunc(r.Images, func(m seam.Image) bool { return m.Destination == b.destination })
		switch {
		case image >= 0:
			err = idmap.MountImage(b.source, source, r.Images[image].Layers, userns, r.UserNamespace)
		case toMap[b.destination]:
			err = idmap.Clone(b.source, source, b.recursive, userns)
		default:
			err = idmap.Clone(b.source, source, b.recursive, nil)
		}
		if err != nil {
			return fmt.Errorf("mount on %s: %w", b.destination, err)
		}
		b.mount["source"] = source
		// The real runtime cannot drop these in a user namespace, and runc 1.1 fails if it
		// mounts read-only and they are not among the options.
		locked, err := idmap.LockedOptions(source)
		if err != nil {
			return fmt.Errorf("mount on %s: %w", b.destination, err)
		}
		b.addOptions(locked)
	}
	return nil
}

// giveStreams makes the root of a container in a user namespace the owner of the pipes
// among the standard streams, so that processes can open /dev/stdout and the like. In
// place of the host's null device the container gets one of its own: crun makes its root
// the owner of that, too, who could then take it from all others on the host.
func giveStreams(r *seam.Record) error {
	if r.UserNamespace == nil {
		return nil
	}
	uid, gid := int(seam.Root(r.UserNamespace.UIDs)), int(seam.Root(r.UserNamespace.GIDs))
	for fd := range 3 {
		var st unix.Stat_t
		switch err := unix.Fstat(fd, &st); {
		case errors.Is(err, unix.EBADF):
			continue // closed
		case err != nil:
			return fmt.Errorf("standard stream %d: %w", fd, err)
		case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == nullDevice:
			if err := replaceNull(fd); err != nil {
				return fmt.Errorf("null device for standard stream %d: %w", fd, err)
			}
			continue
		case st.Mode&unix.S_IFMT != unix.S_IFIFO:
			continue
		}
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return fmt.Errorf("standard stream %d: %w", fd, err)
		}
	}
	return nil
}

// nullDevice is the number of /dev/null.
var nullDevice = unix.Mkdev(1, 3)

// replaceNull makes fd a null device in a file system that nothing else can reach.
func replaceNull(fd int) error {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(root) }()
	const name = "null"
	if err := errors.Join(unix.Mknodat(root, name, unix.S_IFCHR, int(nullDevice)), unix.Fchmodat(root, name, 0o666, 0)); err != nil { //nolint:gosec // 1:3
		return err
	}
	null, err := unix.Openat(root, name, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(null) }()
	return unix.Dup3(null, fd, 0)
}
