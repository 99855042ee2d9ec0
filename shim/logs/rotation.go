package logs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"syscall"
)

// fileID identifies a file while it is open or watched by name; the inode number of
// a deleted file may be reused for the next file created.
type fileID struct{ dev, ino uint64 }

func idOf(info fs.FileInfo) fileID {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}
	}
	return fileID{dev: st.Dev, ino: st.Ino}
}

// dockerFile is one open file of a container's json-file log.
type dockerFile struct {
	*os.File
	id fileID
}

func openDockerFile(path string) (*dockerFile, error) {
	f, err := os.Open(path) //nolint:gosec // Docker names its own file
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &dockerFile{File: f, id: idOf(info)}, nil
}

// rotatedPath returns the name of the n-th file of a log: X, X.1, X.2, …
func rotatedPath(path string, n int) string {
	if n == 0 {
		return path
	}
	return path + "." + strconv.Itoa(n)
}

// listRotated returns the IDs of X, X.1, …, with the zero ID for a missing file.
// While Docker renames files, the list is not consistent.
func listRotated(path string) ([]fileID, error) {
	var ids []fileID
	missing := 0
	for n := 0; missing < 3; n++ {
		info, err := os.Stat(rotatedPath(path, n))
		switch {
		case err == nil:
			missing = 0
			ids = append(ids, idOf(info))
		case errors.Is(err, fs.ErrNotExist):
			missing++
			ids = append(ids, fileID{})
		default:
			return nil, fmt.Errorf("list Docker's log files: %w", err)
		}
	}
	return ids[:len(ids)-missing], nil
}

// errUnsettled says that Docker kept renaming files while they were listed. A later
// attempt will succeed, and the watch reports the renames.
var errUnsettled = errors.New("rotation in progress")

// settledList returns a list that was the same twice in a row.
func settledList(path string) ([]fileID, error) {
	const attempts = 50
	last, err := listRotated(path)
	for range attempts {
		if err != nil {
			return nil, err
		}
		var now []fileID
		if now, err = listRotated(path); slices.Equal(last, now) && err == nil {
			return now, nil
		}
		last = now
	}
	return nil, errUnsettled
}

// openNth opens the n-th file if it is still the one that was listed.
func openNth(path string, n int, id fileID) (*dockerFile, error) {
	f, err := openDockerFile(rotatedPath(path, n))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errUnsettled
	}
	if err != nil {
		return nil, err
	}
	if f.id != id {
		_ = f.Close()
		return nil, errUnsettled
	}
	return f, nil
}

// openOldest opens the oldest file; nil if there is none.
func openOldest(path string) (*dockerFile, error) {
	ids, err := settledList(path)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	return openNth(path, len(ids)-1, ids[len(ids)-1])
}

// openNewest opens the file in which the last limit bytes of a log begin, and
// returns the offset of their first whole record; nil if there is no file.
func openNewest(path string, limit int64) (*dockerFile, int64, error) {
	ids, err := settledList(path)
	if err != nil {
		return nil, 0, err
	}
	for n, id := range ids {
		if id == (fileID{}) {
			continue
		}
		f, err := openNth(path, n, id)
		if err != nil {
			return nil, 0, err
		}
		begin, rest, err := f.begin(limit)
		if err != nil {
			return nil, 0, errors.Join(err, f.Close())
		}
		if rest == 0 || n == len(ids)-1 {
			return f, begin, nil
		}
		limit = rest
		if err := f.Close(); err != nil {
			return nil, 0, err
		}
	}
	return nil, 0, nil
}

// begin returns the offset of the first record in the last limit bytes of the
// file, and by how many bytes the file is smaller than the limit.
func (f *dockerFile) begin(limit int64) (offset, rest int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, fmt.Errorf("docker's log: %w", err)
	}
	offset = info.Size() - limit
	if offset <= 0 {
		return 0, -offset, nil
	}
	// From one byte earlier: it may end the previous record.
	r := bufio.NewReader(io.NewSectionReader(f, offset-1, info.Size()-offset+1))
	cut, err := r.ReadSlice('\n')
	for errors.Is(err, bufio.ErrBufferFull) {
		offset += int64(len(cut))
		cut, err = r.ReadSlice('\n')
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, fmt.Errorf("read Docker's log: %w", err)
	}
	return offset - 1 + int64(len(cut)), 0, nil
}

// openSuccessor opens the file that Docker wrote after cur. It returns nil while
// there is none. If cur is no longer among the files, it opens the oldest one, and
// gap says that there may have been others in between.
func openSuccessor(path string, cur fileID) (next *dockerFile, gap bool, err error) {
	ids, err := settledList(path)
	if err != nil || len(ids) == 0 {
		return nil, false, err
	}
	n := slices.Index(ids, cur)
	switch {
	case n == 0, n > 0 && ids[n-1] == fileID{}:
		return nil, false, nil // still the newest, or Docker is between two renames
	case n < 0:
		n, gap = len(ids), true
	}
	next, err = openNth(path, n-1, ids[n-1])
	return next, gap, err
}

// openAt opens the file that contains the position; nil if there is none.
func openAt(path string, p position) (*dockerFile, error) {
	ids, err := settledList(path)
	if err != nil {
		return nil, err
	}
	for n, id := range ids {
		if id == (fileID{}) {
			continue
		}
		f, err := openNth(path, n, id)
		if err != nil {
			return nil, err
		}
		if p.matches(f) {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return nil, nil
}
