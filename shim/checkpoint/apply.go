package checkpoint

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
)

// applyDiff changes the files below root as a layer says, an OCI one or CRI-O's
// without whiteouts, compressed or not. left bounds the uncompressed bytes.
func applyDiff(ctx context.Context, root beneath.Root, diff io.Reader, left *int64) error {
	buffered := bufio.NewReader(diff)
	if magic, _ := buffered.Peek(2); string(magic) == "\x1f\x8b" {
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
		}
		diff = &bounded{ctx, z, left}
	} else {
		diff = buffered
	}
	a := applier{root: root, written: map[string]bool{}}
	for r := tar.NewReader(diff); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
		}
		if len(a.written) >= maxEntries {
			return refused(h.Name, "too many files")
		}
		if err := a.apply(h, r); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

// applier applies a layer to the files below root. The kernel's overlay makes
// whiteouts of what it removes.
type applier struct {
	root    beneath.Root
	written map[string]bool
}

// below returns the name in a layer relative to its root, "." for that itself. One that
// is not below it is refused.
func below(name string) (string, error) {
	name = strings.TrimLeft(name, "/")
	if name == "" {
		return ".", nil
	}
	if !filepath.IsLocal(name) {
		return "", refused(name, "leads out of the container")
	}
	return path.Clean(name), nil
}

func (a *applier) apply(h *tar.Header, content io.Reader) error {
	name, err := below(h.Name)
	if err != nil || name == "." {
		return err
	}
	dir, base := path.Split(name)
	if base == opaqueMarker {
		return a.removeUnwritten(path.Clean(dir))
	}
	if removed, ok := strings.CutPrefix(base, whiteout); ok {
		if removed == "" || removed == "." || removed == ".." {
			return refused(name, "is no whiteout")
		}
		return a.root.RemoveAll(path.Join(dir, removed))
	}
	if err := a.root.MkdirAll(path.Clean(dir), 0o755); err != nil {
		return err
	}
	a.written[name] = true
	if h.Typeflag == tar.TypeDir {
		return a.directory(name, h)
	}
	if err := a.root.RemoveAll(name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return a.regular(name, h, content)
	case tar.TypeLink:
		return a.link(name, h.Linkname)
	case tar.TypeSymlink:
		return a.in(name, h, func(dir int, base string) error { return unix.Symlinkat(h.Linkname, dir, base) })
	case tar.TypeFifo:
		return a.node(name, h, unix.S_IFIFO)
	case tar.TypeChar:
		return a.node(name, h, unix.S_IFCHR)
	case tar.TypeBlock:
		return a.node(name, h, unix.S_IFBLK)
	}
	return refused(name, "is of an unknown type")
}

// The kernel's limits of device numbers.
const (
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// node makes a FIFO or a device; an image may have them as well.
func (a *applier) node(name string, h *tar.Header, kind uint32) error {
	if h.Devmajor < 0 || h.Devmajor > maxMajor || h.Devminor < 0 || h.Devminor > maxMinor {
		return refused(name, "is no device")
	}
	device := int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))) //nolint:gosec // in bounds
	return a.in(name, h, func(dir int, base string) error {
		if err := unix.Mknodat(dir, base, kind|0o600, device); err != nil {
			return err
		}
		return unix.Fchmodat(dir, base, uint32(h.Mode&0o7777), 0)
	})
}

// removeUnwritten removes what the layers below have in a directory.
func (a *applier) removeUnwritten(dir string) error {
	names, err := a.root.Names(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	for _, base := range names {
		name := path.Join(dir, base)
		if !a.written[name] {
			err = errors.Join(err, a.root.RemoveAll(name))
		} else if info, serr := a.root.Lstat(name); serr == nil && info.IsDir() {
			err = errors.Join(err, a.removeUnwritten(name))
		}
	}
	return err
}

func (a *applier) directory(name string, h *tar.Header) error {
	if info, err := a.root.Lstat(name); err == nil && !info.IsDir() {
		if err := a.root.RemoveAll(name); err != nil {
			return err
		}
	}
	if err := a.root.MkdirAll(name, 0o700); err != nil {
		return err
	}
	f, err := a.root.OpenDir(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return setAttributes(f, h)
}

func (a *applier) regular(name string, h *tar.Header, content io.Reader) error {
	f, err := a.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = setAttributes(f, h)
	}
	if err == nil {
		err = os.Chtimes(fdPath(f), time.Time{}, h.ModTime)
	}
	return errors.Join(err, f.Close())
}

// link makes a hard link to a file below the root, and does not follow links.
func (a *applier) link(name, target string) error {
	target, err := below(target)
	if err != nil {
		return err
	}
	from, err := a.root.OpenDir(path.Dir(target))
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	return a.in(name, nil, func(dir int, base string) error {
		return unix.Linkat(int(from.Fd()), path.Base(target), dir, base, 0)
	})
}

// in calls make with the directory of a new file, which is not a regular one, and the
// last component of its name; h has its owner, unless it is nil.
func (a *applier) in(name string, h *tar.Header, make func(dir int, base string) error) error {
	dir, err := a.root.OpenDir(path.Dir(name))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := make(int(dir.Fd()), path.Base(name)); err != nil || h == nil {
		return err
	}
	return unix.Fchownat(int(dir.Fd()), path.Base(name), h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW)
}

// setAttributes sets the owner, the mode and those extended attributes that a layer
// can have. The order matters: a new owner clears the set-user-ID bit and capabilities.
func setAttributes(f *os.File, h *tar.Header) error {
	at := fdPath(f)
	if err := os.Chown(at, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := unix.Chmod(at, uint32(h.Mode&0o7777)); err != nil {
		return err
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattrs)
		if !ok || name != "security.capability" && !strings.HasPrefix(name, "user.") {
			continue
		}
		if err := unix.Setxattr(at, name, []byte(value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}

// removeDeleted removes the files that CRI-O lists.
func removeDeleted(root beneath.Root, names []string) error {
	for _, listed := range names {
		name, err := below(listed)
		if err == nil && name != "." {
			err = root.RemoveAll(name)
		}
		if err != nil {
			return fmt.Errorf("%s: %q: %w", deletedFile, listed, err)
		}
	}
	return nil
}

// fdPath leads to an open file and nowhere else.
func fdPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }
