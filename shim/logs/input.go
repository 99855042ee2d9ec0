package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"k8s.io/klog/v2"
)

// input is the place in Docker's files where reading continues.
type input struct {
	cur *dockerFile // nil: not open
	// off is the offset of the next record in cur. The position stays at the last
	// record until that one is read.
	off   int64
	next  *dockerFile // Docker's file after cur, opened early in case it is deleted
	gap   bool        // files may be missing between cur and next
	lossy bool        // records may be missing before the next one: the output must say so
}

// close closes the files.
func (in *input) close() {
	if in.cur != nil {
		_ = in.cur.Close()
	}
	if in.next != nil {
		_ = in.next.Close()
	}
	*in = input{}
}

// readPoint is the number of consumed bytes of the file inode, for Stats.
type readPoint struct {
	offset atomic.Int64
	inode  atomic.Uint64
}

// openInput opens Docker's file at the position; false while there is no file.
func (f *follower) openInput() (bool, error) {
	if f.in.cur != nil {
		return true, nil
	}
	if f.src.Follow != nil {
		if err := f.dockerReadable(); err != nil {
			return false, fmt.Errorf("%w: %w", errUseAPI, err)
		}
	}
	// A position from the API's stream has a time but no place in a file.
	if f.state == searching || !f.pos.consumed() && !f.pos.last.IsZero() {
		if err := f.recoverPosition(); err != nil {
			return false, err
		}
	}
	var err error
	if f.pos.consumed() {
		if f.in.cur, err = openAt(f.src.DockerLog, f.pos.position); err != nil {
			return false, err
		}
	}
	if f.in.cur != nil {
		f.seek(f.pos.offset)
		return true, nil
	}
	var begin int64
	if f.src.Backlog > 0 && !f.pos.consumed() {
		f.in.cur, begin, err = openNewest(f.src.DockerLog, f.src.Backlog)
	} else {
		f.in.cur, err = openOldest(f.src.DockerLog)
	}
	if f.in.cur == nil || err != nil {
		return false, err
	}
	if begin > 0 {
		klog.Background().Info("Container log begins with the newest part of Docker's log", "containerID", f.src.ID, "bytes", f.src.Backlog)
	}
	f.seek(begin)
	if f.pos.consumed() {
		f.noteLoss()
	}
	return true, nil
}

// errUseAPI says that Docker's files cannot be read and Source.Follow is set.
var errUseAPI = errors.New("cannot read Docker's log file")

// dockerReadable returns an error unless Docker's files can be read, or will be: a
// missing file may still appear as long as its directory exists.
func (f *follower) dockerReadable() error {
	if f.src.DockerLog == "" {
		return errors.New("path of Docker's log is unknown")
	}
	if _, err := os.Stat(filepath.Dir(f.src.DockerLog)); err != nil {
		return err
	}
	d, err := os.Open(f.src.DockerLog)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.Close()
}

// lookAhead opens the file after cur, once there is one.
func (in *input) lookAhead(path string) error {
	if in.next != nil {
		return nil
	}
	info, err := os.Stat(path)
	if err == nil && idOf(info) == in.cur.id {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("docker's log: %w", err)
	}
	in.next, in.gap, err = openSuccessor(path, in.cur.id)
	return err
}

// switchFile switches to the next file. pos keeps pointing to the end of the
// previous one until a record is read: nothing identifies the start of a file.
func (f *follower) switchFile() {
	_ = f.in.cur.Close()
	f.in.cur, f.in.next = f.in.next, nil
	f.seek(0)
	if f.in.gap {
		f.in.gap = false
		f.noteLoss()
	}
}

// seek makes reading continue at offset off of cur.
func (f *follower) seek(off int64) {
	f.in.off = off
	f.read.offset.Store(off)
	f.read.inode.Store(f.in.cur.id.ino)
}

// checkTruncated handles a file that was emptied in place.
func (f *follower) checkTruncated() (more bool, err error) {
	info, err := f.in.cur.Stat()
	if err != nil {
		return false, fmt.Errorf("docker's log: %w", err)
	}
	if info.Size() >= f.in.off {
		return false, nil
	}
	f.seek(0)
	f.noteLoss()
	return true, nil
}
