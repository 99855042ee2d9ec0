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

	"github.com/cridock/cridock/internal/beneath"
)

// criFile is an open CRI log file. It is read only to check what was written
// before.
type criFile struct {
	*os.File
	id fileID
}

// logMode is the mode of a CRI log file.
const logMode = 0o640

// openCRI opens or creates the CRI log file, or one next to it. It refuses a
// symbolic link, which may lead to Docker's own file, and everything else that is
// not a plain file with a single name.
func (s *Source) openCRI(name string) (*criFile, error) {
	f, err := s.CRIRoot.OpenFile(name, os.O_RDWR|os.O_APPEND|os.O_CREATE, logMode)
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

// holds reports whether the file has want at offset. Bytes before the start of the
// file cannot be checked and are taken as correct.
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

// tailSpan is how much of the end of a CRI log file is read: more than the longest
// line.
const tailSpan = 256 << 10

// tail returns the last whole line, how many times in a row it ends the file, and
// the offset after it.
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

// cutTorn removes an unfinished last line from the file and returns the new size.
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

// rotatedCRI opens the file with this inode among the CRI log's files renamed by
// the kubelet (NAME.20060102-150405); nil if there is none.
func (s *Source) rotatedCRI(inode uint64) (*criFile, error) {
	for _, name := range s.rotatedNames() {
		if info, err := s.CRIRoot.Lstat(name); err == nil && idOf(info).ino == inode {
			return s.openCRI(name)
		}
	}
	return nil, nil
}

// rotatedNames lists the uncompressed rotated files of the CRI log, oldest first:
// the kubelet's suffix is a time.
func (s *Source) rotatedNames() []string {
	dir := filepath.Dir(s.CRILog)
	files, err := s.CRIRoot.Names(dir)
	if err != nil {
		return nil // the directory is gone, and the files with it
	}
	var names []string
	for _, file := range files {
		if !strings.HasPrefix(file, filepath.Base(s.CRILog)+".") || strings.HasSuffix(file, ".gz") || strings.HasSuffix(file, ".tmp") {
			continue
		}
		name := filepath.Join(dir, file)
		if info, err := s.CRIRoot.Lstat(name); err == nil && info.Mode().IsRegular() {
			names = append(names, name)
		}
	}
	return names
}

// Symlink makes the CRI log name below root a symbolic link to dockerLog, and
// creates its directory. A correct link is left alone; a different one, or a CRI
// log file, is replaced: Docker's file has the same content. Do not use it on a
// container that a Tailer follows. Errors: *beneath.RefusedError for a path that
// contains a link.
func Symlink(dockerLog string, root beneath.Root, name string) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("container log directory: %w", err)
	}
	if have, err := root.Readlink(name); err == nil && have == dockerLog {
		return nil
	}
	if err := root.Symlink(dockerLog, name); err != nil {
		return fmt.Errorf("link container log: %w", err)
	}
	return nil
}

// replaceLink replaces a symbolic link at CRILog with an empty file. An existing
// position belongs to an earlier file and is removed first: the log starts over.
func (s *Source) replaceLink() error {
	link, err := IsSymlink(s.CRIRoot, s.CRILog)
	if err != nil || !link {
		return err
	}
	if err := removePosition(s.Position); err != nil {
		return err
	}
	if err := s.CRIRoot.WriteFile(s.CRILog, nil, logMode); err != nil {
		return fmt.Errorf("replace container log link: %w", err)
	}
	return nil
}

// IsSymlink reports whether the CRI log name below root is a symbolic link, as
// created by dockershim and cri-dockerd; false for a missing file. Errors are those
// of [Symlink].
func IsSymlink(root beneath.Root, name string) (bool, error) {
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("container log: %w", err)
	}
	return info.Mode()&fs.ModeSymlink != 0, nil
}
