package beneath

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Root is the path of a directory whose contents the methods work on. Names are
// relative to it and clean: neither absolute nor with "." or "..". All methods
// are safe for concurrent use. Errors are *RefusedError for paths that are not
// followed or opened, and otherwise system errors with the full path.
type Root string

// RefusedError reports that a path contains a link or is not a plain file. It is
// errdefs.ErrFailedPrecondition.
type RefusedError struct{ Path, Reason string }

func (e *RefusedError) Error() string { return "refused: " + e.Path + ": " + e.Reason }

// Unwrap returns the error's class.
func (e *RefusedError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// IsRefused reports whether an error is or wraps a *RefusedError.
func IsRefused(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused)
}

// Rel returns the name of an absolute path below the root. ok is false if the
// path is not clean or not below the root. Rel does not access the disk.
func (r Root) Rel(path string) (name string, ok bool) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return "", false
	}
	name, ok = strings.CutPrefix(path, strings.TrimSuffix(filepath.Clean(string(r)), "/")+"/")
	if !ok || name == "" {
		return "", false
	}
	return name, true
}

// Path returns the full path of a name.
func (r Root) Path(name string) string { return filepath.Join(string(r), name) }

// Open opens a regular file for reading.
func (r Root) Open(name string) (*os.File, error) { return r.OpenFile(name, os.O_RDONLY, 0) }

// OpenFile opens a regular file as os.OpenFile does. An existing file opened for
// writing must have no other hard link.
func (r Root) OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	dir, base, err := r.parent(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	const attempts = 100 // others may create and remove the file meanwhile
	for range attempts {
		var f *os.File
		if flag&os.O_EXCL == 0 {
			if f, err = r.openExisting(dir, base, name, flag); flag&os.O_CREATE == 0 || !errors.Is(err, fs.ErrNotExist) {
				return f, err
			}
		}
		f, err = r.openat(dir, base, name, flag|unix.O_CREAT|unix.O_EXCL, perm)
		if flag&os.O_EXCL != 0 || !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
	return nil, err
}

// openExisting opens a file after checking that it may be opened.
func (r Root) openExisting(dir *os.File, base, name string, flag int) (*os.File, error) {
	found, err := r.openat(dir, base, name, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = found.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(found.Fd()), &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: r.Path(name), Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return nil, r.refused(name, "is a symbolic link")
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, r.refused(name, "is not a regular file")
	case st.Nlink > 1 && flag&(os.O_WRONLY|os.O_RDWR|os.O_TRUNC) != 0:
		return nil, r.refused(name, "has another hard link")
	}
	// Non-blocking: a lease on the file could block the open.
	fd, err := ignoringEINTR(func() (int, error) {
		return unix.Open(procPath(found), flag&^os.O_CREATE|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	})
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: r.Path(name), Err: err}
	}
	return os.NewFile(uintptr(fd), r.Path(name)), nil
}

// ReadFile reads a regular file.
func (r Root) ReadFile(name string) ([]byte, error) {
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(f)
	return b, errors.Join(err, f.Close())
}

// Lstat describes a file of any kind and follows no link.
func (r Root) Lstat(name string) (info fs.FileInfo, err error) {
	err = r.in(name, func(dir *os.Root, base string) error {
		info, err = dir.Lstat(base)
		return err
	})
	return info, err
}

// Readlink returns where a symbolic link leads.
func (r Root) Readlink(name string) (target string, err error) {
	err = r.in(name, func(dir *os.Root, base string) error {
		target, err = dir.Readlink(base)
		return err
	})
	return target, err
}

// Remove removes a file, or an empty directory.
func (r Root) Remove(name string) error { return r.in(name, (*os.Root).Remove) }

// RemoveAll removes a directory with its contents, or a file; a missing one is
// success.
func (r Root) RemoveAll(name string) error {
	err := r.in(name, (*os.Root).RemoveAll)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Names lists a directory ("." is the root), sorted.
func (r Root) Names(name string) ([]string, error) {
	dir, err := r.OpenDir(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	entries, err := os.ReadDir(procPath(dir))
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// OpenDir opens a directory ("." is the root) as a path only: for system calls that
// take a descriptor, and for /proc/self/fd.
func (r Root) OpenDir(name string) (*os.File, error) { return r.walk(name, nil) }

// MkdirAll creates a directory and its parents, including the root. An existing
// one is success.
func (r Root) MkdirAll(name string, perm fs.FileMode) error {
	if err := os.MkdirAll(string(r), perm); err != nil {
		return err
	}
	dir, err := r.walk(name, &perm)
	if err != nil {
		return err
	}
	return dir.Close()
}

// Mkdir creates a directory.
func (r Root) Mkdir(name string, perm fs.FileMode) error {
	return r.in(name, func(dir *os.Root, base string) error { return dir.Mkdir(base, perm) })
}

// parent opens the directory of a name and returns its last component.
func (r Root) parent(name string) (*os.File, string, error) {
	if name == "." {
		return nil, "", r.refused(name, "is the directory itself")
	}
	dir, err := r.walk(filepath.Dir(name), nil)
	if err == nil && !isClean(name) {
		err = errors.Join(r.refused(name, "is not a clean relative path"), dir.Close())
	}
	return dir, filepath.Base(name), err
}

// in calls do with the open directory of a name and the last component, which
// os.Root does not follow.
func (r Root) in(name string, do func(dir *os.Root, base string) error) error {
	parent, base, err := r.parent(name)
	if err != nil {
		return err
	}
	defer func() { _ = parent.Close() }()
	dir, err := os.OpenRoot(procPath(parent))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	err = do(dir, base)
	// The error knows only the last component.
	var at *fs.PathError
	if errors.As(err, &at) {
		return &fs.PathError{Op: strings.TrimSuffix(at.Op, "at"), Path: r.Path(name), Err: at.Err}
	}
	return err
}

// walk opens a directory below the root, component by component; if create is not
// nil, it creates missing ones with that mode.
func (r Root) walk(name string, create *fs.FileMode) (*os.File, error) {
	if !isClean(name) {
		return nil, r.refused(name, "is not a clean relative path")
	}
	fd, err := ignoringEINTR(func() (int, error) {
		return unix.Open(string(r), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: string(r), Err: err}
	}
	dir := os.NewFile(uintptr(fd), string(r))
	if name == "." {
		return dir, nil
	}
	done := ""
	for part := range strings.SplitSeq(name, "/") {
		done = filepath.Join(done, part)
		next, err := r.enter(dir, part, done, create)
		_ = dir.Close()
		if err != nil {
			return nil, err
		}
		dir = next
	}
	return dir, nil
}

// enter opens a directory in another one.
func (r Root) enter(dir *os.File, part, name string, create *fs.FileMode) (*os.File, error) {
	const flag = unix.O_PATH | unix.O_DIRECTORY
	next, err := r.openat(dir, part, name, flag, 0)
	if create != nil && errors.Is(err, fs.ErrNotExist) {
		if err := unix.Mkdirat(int(dir.Fd()), part, uint32(create.Perm())); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, &fs.PathError{Op: "mkdir", Path: r.Path(name), Err: err}
		}
		next, err = r.openat(dir, part, name, flag, 0)
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		var st unix.Stat_t
		if serr := unix.Fstatat(int(dir.Fd()), part, &st, unix.AT_SYMLINK_NOFOLLOW); serr == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return nil, r.refused(name, "is a symbolic link")
		}
	}
	return next, err
}

// openat opens the last component of name in dir and follows no link.
func (r Root) openat(dir *os.File, base, name string, flag int, perm fs.FileMode) (*os.File, error) {
	fd, err := ignoringEINTR(func() (int, error) {
		return unix.Openat(int(dir.Fd()), base, flag|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(perm.Perm()))
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: r.Path(name), Err: err}
	}
	return os.NewFile(uintptr(fd), r.Path(name)), nil
}

func (r Root) refused(name, reason string) error {
	return &RefusedError{Path: string(r) + "/" + name, Reason: reason}
}

func isClean(name string) bool { return filepath.IsLocal(name) && filepath.Clean(name) == name }

// procPath returns a path that leads to an open file and nowhere else.
func procPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

func ignoringEINTR(open func() (int, error)) (int, error) {
	for {
		fd, err := open()
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}
