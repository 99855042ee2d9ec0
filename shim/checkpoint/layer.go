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
	// whiteout before a name says that a layer removes it; opaqueMarker in a
	// directory that it removes all that the layers below have there.
	whiteout     = ".wh."
	opaqueMarker = ".wh..wh..opq"
	// overlayXattrs are the kernel's notes in an upper directory.
	overlayXattrs = "trusted.overlay."
	paxXattrs     = "SCHILY.xattr."
)

// writeLayer writes the upper directory of an overlay as an OCI layer. It is
// ErrFailedPrecondition where the directory holds only a part of what a file is.
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
	// names are the first ones of files that have several.
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
		return nil // it has no content, and tar no word for it
	case info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0:
		return l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.Join(filepath.Dir(name), whiteout+filepath.Base(name))})
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
	// The container is paused; others that share its process namespace are not.
	f, err := l.upper.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.CopyN(l.tar, f, h.Size)
	return err
}

// header describes a file. A directory is opaque if the layers below count for
// nothing there.
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
	// The names that the node has for the owners say nothing in the container.
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
			return nil, false, fmt.Errorf("%w: the overlay has only a part of it here (%s)", errdefs.ErrFailedPrecondition, key)
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

// growing reads with a buffer that is large enough. A filesystem without
// extended attributes has none.
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
