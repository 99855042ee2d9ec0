package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

// criFile is an open CRI log file. It is read only to check what a cridock
// before this one has written.
type criFile struct {
	*os.File
	id fileID
}

// logMode is a CRI log file's.
const logMode = 0o640

// openCRI opens or makes the file at path. It refuses a symbolic link: behind it
// may be Docker's own file.
func openCRI(path string) (*criFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, logMode)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("open container log: %w: %s is a symbolic link", errdefs.ErrFailedPrecondition, path)
	}
	if err != nil {
		return nil, fmt.Errorf("open container log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &criFile{File: f, id: idOf(info)}, nil
}

// state returns the size of the file and whether it still has a name.
func (c *criFile) state() (size int64, linked bool, err error) {
	info, err := c.Stat()
	if err != nil {
		return 0, false, fmt.Errorf("container log: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return info.Size(), !ok || st.Nlink > 0, nil
}

// holds reports whether want stands at offset. What lies before the start of the
// file cannot be checked and is taken as right.
func (c *criFile) holds(want []byte, offset int64) (bool, error) {
	if offset < 0 {
		want = want[min(int64(len(want)), -offset):]
		offset = 0
	}
	got := make([]byte, len(want))
	if _, err := c.ReadAt(got, offset); err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read container log: %w", err)
	}
	return bytes.Equal(got, want), nil
}

// tailSpan is how much of the end of a CRI log file is looked at: more than one
// line can take.
const tailSpan = 256 << 10

// tail returns the last whole line, how many times it stands at the end of the
// file in a row, and the offset behind it.
func (c *criFile) tail() (line []byte, times int, end int64, err error) {
	size, _, err := c.state()
	if err != nil {
		return nil, 0, 0, err
	}
	from := max(0, size-tailSpan)
	buf := make([]byte, size-from)
	if _, err := c.ReadAt(buf, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, 0, fmt.Errorf("read container log: %w", err)
	}
	buf = buf[:bytes.LastIndexByte(buf, '\n')+1]
	if len(buf) == 0 {
		return nil, 0, from, nil
	}
	line = buf[bytes.LastIndexByte(buf[:len(buf)-1], '\n')+1:]
	for rest := buf; bytes.HasSuffix(rest, line); rest = rest[:len(rest)-len(line)] {
		times++
	}
	return line, times, from + int64(len(buf)), nil
}

// cutTorn removes a line without end from the file and returns the new size.
func (c *criFile) cutTorn() (int64, error) {
	_, _, end, err := c.tail()
	if err != nil {
		return 0, err
	}
	if err := c.Truncate(end); err != nil {
		return 0, fmt.Errorf("cut torn line: %w", err)
	}
	return end, nil
}

// rotatedCRI opens the file with that inode among those the kubelet made of path
// by renaming (PATH.20060102-150405); nil if there is none.
func rotatedCRI(path string, inode uint64) (*criFile, error) {
	for _, name := range rotatedNames(path) {
		if info, err := os.Lstat(name); err == nil && idOf(info).ino == inode {
			return openCRI(name)
		}
	}
	return nil, nil
}

// rotatedNames lists the uncompressed rotated files of path, oldest first: the
// kubelet's suffix is a time.
func rotatedNames(path string) []string {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil // the directory is gone, and the files with it
	}
	var names []string
	for _, e := range entries {
		rotated := strings.HasPrefix(e.Name(), filepath.Base(path)+".")
		if rotated && e.Type().IsRegular() && !strings.HasSuffix(e.Name(), ".gz") && !strings.HasSuffix(e.Name(), ".tmp") {
			names = append(names, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return names
}

// Symlink makes criLog a symbolic link to dockerLog, its directory included. A
// link that is right is left alone; another one, or a CRI log file, is replaced:
// what that had is in Docker's file. It must not be used on a container that a
// Tailer follows.
func Symlink(dockerLog, criLog string) error {
	if err := os.MkdirAll(filepath.Dir(criLog), 0o755); err != nil {
		return fmt.Errorf("container log directory: %w", err)
	}
	if have, err := os.Readlink(criLog); err == nil && have == dockerLog {
		return nil
	}
	err := replace(criLog, func(draft string) error { return os.Symlink(dockerLog, draft) })
	if err != nil {
		return fmt.Errorf("link container log: %w", err)
	}
	return nil
}

// replaceLink puts an empty file in place of a symbolic link at CRILog. The
// position is of an earlier file, if there is one, and goes first: the log
// begins anew.
func (s *Source) replaceLink() error {
	link, err := IsSymlink(s.CRILog)
	if err != nil || !link {
		return err
	}
	if err := os.Remove(s.Position); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("log position: %w", err)
	}
	err = replace(s.CRILog, func(draft string) error { return os.WriteFile(draft, nil, logMode) })
	if err != nil {
		return fmt.Errorf("replace container log link: %w", err)
	}
	return nil
}

// replace has a reader of path find the old file or the one that create makes.
func replace(path string, create func(draft string) error) error {
	draft := path + ".tmp" // a name that the kubelet clears away, should it stay
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := create(draft); err != nil {
		return err
	}
	return os.Rename(draft, path)
}

// IsSymlink reports whether criLog is a symbolic link, as dockershim and
// cri-dockerd make them; a missing file is none.
func IsSymlink(criLog string) (bool, error) {
	info, err := os.Lstat(criLog)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("container log: %w", err)
	}
	return info.Mode()&fs.ModeSymlink != 0, nil
}
