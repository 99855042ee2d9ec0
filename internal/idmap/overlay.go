package idmap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/seam"
)

// Overlay describes an overlay file system.
type Overlay struct {
	// Lower are the read-only layers, the uppermost first; Upper is the writable one, ""
	// if there is none.
	// All are absolute paths; those of Lower may be links, which keep mount options
	// short.
	Lower []string
	Upper string
	// Options are the other options.
	Options []string
}

const (
	// workDir is the name of the overlay's work directory, beside the writable layer:
	// Docker's own overlay has the other one in use.
	workDir = "cridock-work"
	// maxOptions is the kernel's limit of the length of mount options.
	maxOptions = 4095
)

// FindOverlay returns the overlay that is mounted on root, a clean path without
// links, according to the text of a mountinfo file; nil if none is.
func FindOverlay(mountinfo, root string) (*Overlay, error) {
	var found *Overlay
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		head, tail := strings.Fields(before), strings.Split(after, " ")
		if !ok || len(head) < 6 || len(tail) < 3 {
			return nil, fmt.Errorf("mountinfo: cannot read %q", line)
		}
		if unescape(head[4]) != root {
			continue
		}
		found = nil // a later mount on the same point hides this one
		if tail[0] != "overlay" {
			continue
		}
		var err error
		if found, err = parseOverlay(strings.Join(tail[2:], " "), root); err != nil {
			return nil, fmt.Errorf("overlay on %s: %w", root, err)
		}
	}
	return found, nil
}

// parseOverlay reads the options of an overlay on root.
func parseOverlay(options, root string) (*Overlay, error) {
	o := new(Overlay)
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "lowerdir":
			o.Lower = append(o.Lower, strings.Split(unescape(value), ":")...)
		case "lowerdir+":
			o.Lower = append(o.Lower, unescape(value))
		case "upperdir":
			o.Upper = unescape(value)
		case "rw", "ro", "workdir", "seclabel": // seclabel is no option to mount with
		default:
			o.Options = append(o.Options, unescape(option))
		}
	}
	if len(o.Lower) == 0 {
		return nil, errors.New("it has no layers")
	}
	// Docker and containerd mount with relative paths if the options become too long:
	// Docker from the directory of all layers, in which root is the layer's "merged",
	// and containerd from the one that its absolute upperdir is in.
	base := filepath.Dir(filepath.Dir(root))
	if filepath.IsAbs(o.Upper) {
		base = filepath.Dir(filepath.Dir(o.Upper))
	}
	for _, p := range append([]*string{&o.Upper}, pointers(o.Lower)...) {
		if *p == "" && p == &o.Upper {
			continue
		}
		if *p == "" || strings.ContainsAny(*p, `\:,`) {
			return nil, fmt.Errorf("layer %q: a name that mount options cannot have", *p)
		}
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
	return o, nil
}

func pointers(list []string) []*string {
	out := make([]*string, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

// unescape returns a field of mountinfo, in which spaces, tabs, line breaks and
// backslashes are octal numbers.
func unescape(field string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(field)
}

// Mount mounts the same overlay on target, a directory, with layers that are
// id-mapped with userns, whose mappings u has. dir, from [Isolate], must not have an
// entry "layers" yet. All layers must be on one mount.
func (o *Overlay) Mount(dir, target string, userns *os.File, u *seam.UserNamespace) error {
	if o.Upper == "" {
		return errors.New("the overlay has no writable layer")
	}
	store, err := o.store()
	if err != nil {
		return err
	}
	layers := filepath.Join(dir, "layers")
	if err := Clone(store, layers, false, userns); err != nil {
		return err
	}
	options, err := o.options(store, layers)
	if err != nil {
		return err
	}
	err = inDirectory(layers, func() error {
		// The file system's user becomes the one that the overlay acts as on its layers:
		// the host's root has no ID there.
		return asOwner(seam.Root(u.UIDs), seam.Root(u.GIDs), func() error {
			return unix.Mount("overlay", target, "overlay", 0, options)
		})
	})
	if err != nil {
		return fmt.Errorf("mount an overlay on id-mapped layers on %s: %w", target, err)
	}
	if err := unix.Unmount(layers, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the layers: %w", err)
	}
	return os.Remove(layers)
}

// store returns the deepest directory that all layers, and what links to them are.
func (o *Overlay) store() (string, error) {
	store := filepath.Dir(o.Upper)
	for _, layer := range append([]string{o.Upper}, o.Lower...) {
		real, err := filepath.EvalSymlinks(layer)
		if err != nil {
			return "", fmt.Errorf("layer of the root file system: %w", err)
		}
		for _, path := range []string{layer, real} {
			for !strings.HasPrefix(path, strings.TrimSuffix(store, "/")+"/") {
				store = filepath.Dir(store)
			}
		}
	}
	return store, nil
}

// options returns the mount's options, with paths relative to the store. The clone
// of the store must have the same layers.
func (o *Overlay) options(store, clone string) (string, error) {
	names := make([]string, 0, len(o.Lower)+1)
	for _, layer := range append([]string{o.Upper}, o.Lower...) {
		name, err := filepath.Rel(store, layer)
		if err != nil {
			return "", err
		}
		original, err := os.Stat(layer)
		if err != nil {
			return "", err
		}
		cloned, err := os.Stat(filepath.Join(clone, name))
		if err != nil {
			return "", err
		}
		if !os.SameFile(original, cloned) {
			return "", fmt.Errorf("layer %s is on another file system than %s", layer, store)
		}
		names = append(names, name)
	}
	work := filepath.Join(filepath.Dir(o.Upper), workDir)
	if err := os.Mkdir(work, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("work directory of the overlay: %w", err)
	}
	work, err := filepath.Rel(store, work)
	if err != nil {
		return "", err
	}
	all := append(slices.Clone(o.Options), "lowerdir="+strings.Join(names[1:], ":"), "upperdir="+names[0], "workdir="+work)
	options := strings.Join(all, ",")
	if len(options) > maxOptions {
		return "", fmt.Errorf("mount options of %d layers: %w", len(o.Lower), unix.E2BIG)
	}
	return options, nil
}
