package stats

import (
	"bytes"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/mountinfo"
)

// Layers says where Docker has the writable layers of containers, if it does not tell
// their directories.
type Layers struct {
	// Root is the directory of all layers.
	Root string
	// Mounts is the directory in which Docker mounts each container's root file system,
	// in a directory with the container's ID.
	Mounts string
}

// UpperDir returns the directory of the writable layer of container id, whose process is
// pid; "" if the container has none below Root. If it is not sure, this process does not
// see Docker's mounts, and has it from the container's: one that may mount can name any
// layer. The error is errdefs.ErrNotFound if there is no such process.
func (l Layers) UpperDir(id string, pid int) (dir string, sure bool, err error) {
	p, err := openProcess("/proc", pid)
	if err != nil {
		return "", false, err
	}
	defer p.close()
	dir, sure = l.upperDir(p, id)
	return dir, sure, nil
}

// upperDir is UpperDir for an open process.
func (l Layers) upperDir(p *process, id string) (dir string, sure bool) {
	root := p.root()
	mount := filepath.Join(l.Mounts, id)
	switch device, ok := overlayOn(mount); {
	case !ok:
	case root.device == device:
		sure = true
	default: // cridock-runtime's overlay on the same layers, or what the container has made
		var own overlay
		if own, sure = mountedOn(mount); sure {
			root = own
		}
	}
	return layerBelow(l.Root, root.upper), sure
}

// overlayOn returns the device, MAJOR:MINOR, of the overlay that a directory is in, and
// false if it is in none.
func overlayOn(dir string) (device string, ok bool) {
	var f unix.Statfs_t
	var s unix.Stat_t
	if unix.Statfs(dir, &f) != nil || f.Type != unix.OVERLAYFS_SUPER_MAGIC || unix.Stat(dir, &s) != nil {
		return "", false
	}
	return fmt.Sprintf("%d:%d", unix.Major(s.Dev), unix.Minor(s.Dev)), true
}

// overlay is a mount.
type overlay struct {
	device string // MAJOR:MINOR
	// upper is the writable layer, if the mount is an overlay that names it by an absolute
	// path; else "". The path is the daemon's, which may have another mount namespace.
	upper string
}

// root returns the root file system of a process; the zero value if it cannot be read.
func (p *process) root() (root overlay) {
	_ = p.with("mountinfo", func(content []byte) error {
		root, _ = findMount(content, "/")
		return nil
	})
	return root
}

// mountedOn returns what is mounted on a directory in this process's mount namespace, and
// false if nothing is.
func mountedOn(dir string) (mount overlay, ok bool) {
	_ = withFile(unix.AT_FDCWD, "/proc/thread-self/mountinfo", func(content []byte) error {
		mount, ok = findMount(content, dir)
		return nil
	})
	return mount, ok
}

// findMount returns what is mounted on a directory.
func findMount(mounts []byte, point string) (mount overlay, ok bool) {
	for line := range bytes.Lines(mounts) {
		m, parsed := mountinfo.Parse(string(line))
		if !parsed || m.Point != point {
			continue
		}
		mount, ok = overlay{device: m.Device}, true // a later mount hides the earlier
		for option := range strings.SplitSeq(m.SuperOptions, ",") {
			if v, found := strings.CutPrefix(option, "upperdir="); found && m.FSType == "overlay" && path.IsAbs(v) {
				mount.upper = mountinfo.Unescape(v)
			}
		}
	}
	return mount, ok
}

// layerBelow returns dir if it is below root, which may be reached through links;
// else "".
func layerBelow(root, dir string) string {
	if dir == "" {
		return ""
	}
	roots := []string{root}
	if resolved, err := filepath.EvalSymlinks(root); err == nil {
		roots = append(roots, resolved)
	}
	for _, root := range roots {
		if name, err := filepath.Rel(root, dir); err == nil && name != "." && filepath.IsLocal(name) {
			return dir
		}
	}
	return ""
}
