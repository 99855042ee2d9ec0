package idmap

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/seam"
)

// MountImage mounts on target, read-only and id-mapped with userns, whose mappings u
// has, what source shows: a directory of an image that is mounted on the host. layers
// are those of the image, the uppermost first, all on one mount; without them those of
// the overlay on the host are used. An image that is no overlay must be on a file
// system that can be id-mapped. It makes target, which must not exist, in an existing
// directory, as well as names that begin with target and a dot.
func MountImage(source, target string, layers []string, userns *os.File, u *seam.UserNamespace) error {
	mountinfo, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	if source, err = filepath.EvalSymlinks(source); err != nil {
		return err
	}
	m, err := findMount(string(mountinfo), source)
	if err != nil {
		return err
	}
	if m.kind != "overlay" {
		return Clone(source, target, false, userns)
	}
	var st unix.Stat_t
	if err := unix.Stat(source, &st); err != nil {
		return err
	}
	if device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)); device != m.device {
		return fmt.Errorf("%s is on device %s, not on the overlay %s", source, device, m.device)
	}
	var options []string
	if len(layers) == 0 {
		o, err := FindOverlay(string(mountinfo), m.point)
		if err != nil {
			return err
		}
		if o == nil {
			return fmt.Errorf("%s: the overlay is hidden by another mount", m.point)
		}
		if layers = o.Lower; o.Upper != "" {
			layers = append([]string{o.Upper}, layers...)
		}
		if slices.Contains(o.Options, "userxattr") {
			options = []string{"userxattr"}
		}
	}
	whole := target + ".image"
	if err := mountLayers(layers, options, whole, userns, u); err != nil {
		return err
	}
	return cloneBelow(whole, filepath.Join(m.root, strings.TrimPrefix(source, m.point)), target)
}

// foundMount is a line of mountinfo.
type foundMount struct {
	point, root, kind, device string
}

// findMount returns the mount that shows path, which has no links.
func findMount(mountinfo, path string) (foundMount, error) {
	var found foundMount
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		kind, _, _ := strings.Cut(after, " ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 6 || kind == "" {
			return foundMount{}, fmt.Errorf("mountinfo: cannot read %q", line)
		}
		point := unescape(fields[4])
		// Of mounts on the same point the last one is visible.
		if strings.HasPrefix(path+"/", strings.TrimSuffix(point, "/")+"/") && len(point) >= len(found.point) {
			found = foundMount{point: point, root: unescape(fields[3]), kind: kind, device: fields[2]}
		}
	}
	if found.point == "" {
		return found, fmt.Errorf("mountinfo: no mount shows %s", path)
	}
	return found, nil
}

// mountLayers mounts a read-only overlay of id-mapped layers on target, which it makes.
func mountLayers(layers, options []string, target string, userns *os.File, u *seam.UserNamespace) error {
	o := &Overlay{Upper: layers[0], Lower: layers[1:]}
	store, err := o.store()
	if err != nil {
		return err
	}
	// The kernel wants two layers.
	clone, empty := target+".layers", target+".empty"
	for _, dir := range []string{target, empty} {
		if err := os.Mkdir(dir, 0o711); err != nil { //nolint:gosec // users that are mapped must get through
			return err
		}
	}
	if err := Clone(store, clone, false, userns); err != nil {
		return err
	}
	// By descriptor: the paths of many layers do not fit into one page.
	names := make([]string, 0, len(layers)+1)
	for _, layer := range layers {
		fd, err := openCloned(store, clone, layer)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		names = append(names, procFD(fd))
	}
	text := strings.Join(append(slices.Clone(options), "lowerdir="+strings.Join(append(names, empty), ":")), ",")
	if len(text) > maxOptions {
		return fmt.Errorf("mount options of %d layers: %w", len(layers), unix.E2BIG)
	}
	err = asOwner(seam.Root(u.UIDs), seam.Root(u.GIDs), func() error {
		return unix.Mount("overlay", target, "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, text)
	})
	if err != nil {
		return fmt.Errorf("mount an overlay of %d id-mapped layers: %w", len(layers), err)
	}
	return unix.Unmount(clone, unix.MNT_DETACH)
}

// openCloned opens a layer of the store in a clone of the store. It is an error if that
// has another one there.
func openCloned(store, clone, layer string) (int, error) {
	name, err := filepath.Rel(store, layer)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Open(filepath.Join(clone, name), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("layer %s: %w", layer, err)
	}
	original, err := os.Stat(layer)
	if err == nil {
		var cloned os.FileInfo
		if cloned, err = os.Stat(procFD(fd)); err == nil && !os.SameFile(original, cloned) {
			err = fmt.Errorf("layer %s is on another file system than %s", layer, store)
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// cloneBelow mounts a path below root, which is not trusted and has no links, on
// target as well.
func cloneBelow(root, path, target string) error {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dir) }()
	fd, err := unix.Openat2(dir, filepath.Join(".", path), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return fmt.Errorf("%s in the image: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	return Clone(procFD(fd), target, false, nil)
}

func procFD(fd int) string { return "/proc/thread-self/fd/" + strconv.Itoa(fd) }
