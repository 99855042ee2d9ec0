package checkpoint

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
)

const (
	// whiteout is the prefix of a file name that a layer removes. opaqueMarker is
	// a file in a directory whose content in the layers below is removed.
	whiteout     = ".wh."
	opaqueMarker = ".wh..wh..opq"
	// overlayXattrs is the prefix of the kernel's own attributes in an upper
	// directory.
	overlayXattrs = "trusted.overlay."
	paxXattrs     = "SCHILY.xattr."
)

// writeLayer writes the upper directory of an overlay as an OCI layer. The error is
// ErrFailedPrecondition if the directory has only a part of a file, or a file that
// a layer cannot represent.
func writeLayer(ctx context.Context, out io.Writer, upper string) error {
	l := layer{tar: tar.NewWriter(&writer{ctx, out}), upper: beneath.Root(upper), names: map[inode]string{}}
	err := filepath.WalkDir(upper, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == upper {
			return err
		}
		name, err := filepath.Rel(upper, path)
		if err != nil {
			return err
		}
		if err := l.add(path, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	return errors.Join(err, l.tar.Close())
}

type layer struct {
	tar   *tar.Writer
	upper beneath.Root
	// names maps files with several links to their first name.
	names map[inode]string
}

type inode struct{ device, number uint64 }

func (l *layer) add(path, name string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("no inode: %w", errdefs.ErrInternal)
	}
	switch {
	case info.Mode().Type() == fs.ModeSocket:
		return nil // it has no content, and tar has no type for it
	case info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0:
		return l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.Join(filepath.Dir(name), whiteout+filepath.Base(name))})
	}
	if strings.HasPrefix(info.Name(), whiteout) {
		return fmt.Errorf("%w: in a layer, a file with this name removes another file", errdefs.ErrFailedPrecondition)
	}
	h, opaque, err := header(path, name, info)
	if err != nil {
		return err
	}
	if st.Nlink > 1 && info.Mode().IsRegular() {
		id := inode{st.Dev, st.Ino}
		if first, ok := l.names[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			l.names[id] = name
		}
	}
	if err := l.tar.WriteHeader(h); err != nil {
		return err
	}
	if opaque {
		return l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.Join(name, opaqueMarker)})
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	// The container is paused, but not others that share its PID namespace: they
	// can replace files.
	f, err := l.upper.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.CopyN(l.tar, f, h.Size)
	return err
}

// header returns the tar header of a file. opaque is true for a directory that
// hides its content in the layers below.
func header(path, name string, info fs.FileInfo) (h *tar.Header, opaque bool, err error) {
	var link string
	if info.Mode().Type() == fs.ModeSymlink {
		if link, err = os.Readlink(path); err != nil {
			return nil, false, err
		}
	}
	if h, err = tar.FileInfoHeader(info, link); err != nil {
		return nil, false, err
	}
	h.Name = name
	if info.IsDir() {
		h.Name += "/"
	}
	// The node's user and group names mean nothing in the container.
	h.Uname, h.Gname = "", ""
	h.Format, h.AccessTime, h.ChangeTime = tar.FormatPAX, h.ModTime, h.ModTime
	xattrs, err := listXattrs(path)
	if err != nil {
		return nil, false, err
	}
	for _, key := range xattrs {
		kind, isOverlay := strings.CutPrefix(key, overlayXattrs)
		switch {
		case kind == "opaque":
			opaque = true
		case kind == "redirect", kind == "metacopy":
			return nil, false, fmt.Errorf("%w: the upper directory has only a part of it (%s)", errdefs.ErrFailedPrecondition, key)
		case strings.Contains(key, "="):
			return nil, false, fmt.Errorf("%w: a tar cannot store its attribute %q", errdefs.ErrFailedPrecondition, key)
		case !isOverlay && (key == "security.capability" || strings.HasPrefix(key, "user.")):
			value, err := readXattr(path, key)
			if err != nil {
				return nil, false, err
			}
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[paxXattrs+key] = value
		}
	}
	return h, opaque, nil
}

func listXattrs(path string) ([]string, error) {
	list, err := growing(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(list, "\x00"), "\x00"), nil
}

func readXattr(path, key string) (string, error) {
	return growing(func(b []byte) (int, error) { return unix.Lgetxattr(path, key, b) })
}

// growing calls read with buffers of increasing size until one is large enough. A
// filesystem without extended attributes returns "".
func growing(read func([]byte) (int, error)) (string, error) {
	for size := 256; ; size *= 4 {
		b := make([]byte, size)
		n, err := read(b)
		switch {
		case errors.Is(err, unix.ENOTSUP):
			return "", nil
		case errors.Is(err, unix.ERANGE) && size < 1<<20:
			continue
		case err != nil:
			return "", err
		}
		return string(b[:n]), nil
	}
}
