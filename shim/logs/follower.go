package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/beneath"
)

// Source describes one container's log: its source and its destination.
type Source struct {
	// ID of the container.
	ID string
	// DockerLog is the path of the newest file of Docker's json-file log; rotated
	// files are next to it, uncompressed, as DockerLog.1, .2, … It need not exist
	// before the container runs, but its directory must.
	DockerLog string
	// CRIRoot is a directory below which others may write, and CRILog the name of
	// the CRI log in it: no link is followed there, and only plain files are
	// written. An error about that is a *beneath.RefusedError.
	CRIRoot beneath.Root
	CRILog  string
	// Position is the path of the position file, which belongs to this package.
	Position string
	// Backlog limits, in bytes, how much of Docker's existing log a CRI log begins
	// with; 0 means all. It is for containers started by another adapter, whose log
	// may have any size.
	Backlog int64
	// TTY says that the container has a terminal: all output is stdout.
	TTY bool
	// Follow, if not nil, is used when Docker's files cannot be read. It opens and
	// follows the Engine API's log stream with stdout, stderr and timestamps, from
	// since on (zero: from the beginning), multiplexed unless TTY. The stream ends
	// when the container has exited or the context is done.
	Follow func(ctx context.Context, since time.Time) (io.ReadCloser, error)
}

// follower copies the log of one container. It has a goroutine only while there is
// something to do.
type follower struct {
	src   Source
	count *counters

	watch   int32 // owned by watcher
	run     runState
	trouble trouble

	api      atomic.Bool   // Docker's files cannot be read: the API is the source
	draining atomic.Bool   // the container has exited: the next API stream opened is the last
	kick     chan struct{} // ends the goroutine's pause
	// lagOffset is the number of consumed bytes of the file lagInode, for Stats.
	lagOffset atomic.Int64
	lagInode  atomic.Uint64

	// turn is the lock for all below; a channel, so that a context can end the wait.
	turn chan struct{}

	done    bool  // drained or removed: nothing is open
	removed bool  // must not be started again
	refused error // why the last API stream could not be written
	pos     position
	posFile *positionFile // nil: output is not open
	out     *criFile
	skip    int64  // bytes of the output for what follows pos that are already in out
	aside   bool   // out is no longer at CRILog: switch to a file that is
	former  fileID // the CRI file before out
	lost    bool   // there was no usable position: search for the last line instead
	cur     *dockerFile
	off     int64       // offset of the next record in cur; pos stays at the last record until that one is read
	loss    bool        // records may be missing before the next one: mark it
	next    *dockerFile // Docker's file after cur, opened early in case it is deleted
	gap     bool        // files may be missing between cur and next
}

func newFollower(src Source, count *counters) *follower {
	return &follower{src: src, count: count, turn: make(chan struct{}, 1), kick: make(chan struct{}, 1)}
}

func (f *follower) lock(ctx context.Context) error {
	select {
	case f.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case f.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *follower) unlock() { <-f.turn }

// buffers are held by a follower only while it reads.
type buffers struct{ in, out []byte }

const chunkSize = 128 << 10

var bufferPool = sync.Pool{New: func() any {
	return &buffers{in: make([]byte, chunkSize), out: make([]byte, 0, chunkSize)}
}}

func getBuffers() *buffers { return bufferPool.Get().(*buffers) }

func putBuffers(b *buffers) {
	if cap(b.in) == chunkSize && cap(b.out) <= 2*chunkSize {
		bufferPool.Put(b)
	}
}

// step copies one piece. It reports whether there may be more now; false means
// that Docker's log has been read to its end. After an error the same step can be
// retried. The caller holds the turn.
func (f *follower) step(b *buffers) (more bool, err error) {
	if f.done {
		return false, nil
	}
	if err := f.openOutput(); err != nil {
		return false, err
	}
	if f.aside {
		if err := f.moveAside(b); err != nil {
			return false, err
		}
	}
	return f.carry(b)
}

// carry reads, converts and writes one piece of Docker's log.
func (f *follower) carry(b *buffers) (more bool, err error) {
	if ok, err := f.openInput(); !ok || err != nil {
		return false, err
	}
	// Before reading: Docker closes a file before it renames it, so a file that has a
	// successor is complete.
	if err := f.lookAhead(); err != nil {
		return false, err
	}
	n, err := f.cur.ReadAt(b.in, f.off)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read Docker's log: %w", err)
	}
	out, did := convert(b.out[:0], b.in[:n], f.src.TTY)
	b.out = out[:0]
	switch {
	case did.consumed > 0:
		return true, f.commit(b.in[:did.consumed], out, did)
	case n == len(b.in):
		b.in = make([]byte, 2*len(b.in))
		return true, nil
	case f.next != nil:
		if n > 0 {
			f.count.malformed.Add(1)
		}
		f.switchFile()
		return true, nil
	case n == 0:
		return f.checkTruncated()
	}
	return false, nil // Docker is in the middle of a write
}

// commit writes the output for the consumed bytes and moves the position.
func (f *follower) commit(consumed, out []byte, did batch) error {
	p := f.pos
	p.advance(f.off, consumed)
	if did.last >= 0 {
		if t, err := time.Parse(time.RFC3339Nano, string(lineTime(out[did.last:]))); err == nil {
			p.last, p.same = t, 0
		}
	}
	if f.loss && did.last >= 0 {
		out = append(f.lossMarker(string(lineTime(out))), out...)
	}
	if err := f.emit(out, p); err != nil {
		return err
	}
	if did.last >= 0 {
		f.loss = false
	}
	f.off = p.offset
	f.count.lines.Add(uint64(did.lines))
	f.count.malformed.Add(uint64(did.malformed))
	f.count.sourceBytes.Add(uint64(len(consumed)))
	f.lagOffset.Store(f.off)
	return nil
}

// lookAhead opens the file after cur, once there is one.
func (f *follower) lookAhead() error {
	if f.next != nil {
		return nil
	}
	info, err := os.Stat(f.src.DockerLog)
	if err == nil && idOf(info) == f.cur.id {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("docker's log: %w", err)
	}
	f.next, f.gap, err = openSuccessor(f.src.DockerLog, f.cur.id)
	return err
}

// switchFile switches to the next file. pos keeps pointing to the end of the
// previous one until a record is read: nothing identifies the start of a file.
func (f *follower) switchFile() {
	_ = f.cur.Close()
	f.cur, f.next = f.next, nil
	f.seek(0)
	if f.gap {
		f.gap = false
		f.noteLoss()
	}
}

// seek makes reading continue at offset off of cur.
func (f *follower) seek(off int64) {
	f.off = off
	f.lagOffset.Store(off)
	f.lagInode.Store(f.cur.id.ino)
}

// checkTruncated handles a file that was emptied in place.
func (f *follower) checkTruncated() (more bool, err error) {
	info, err := f.cur.Stat()
	if err != nil {
		return false, fmt.Errorf("docker's log: %w", err)
	}
	if info.Size() >= f.off {
		return false, nil
	}
	f.seek(0)
	f.noteLoss()
	return true, nil
}

func (f *follower) noteLoss() {
	if !f.loss {
		f.loss = true
		f.count.losses.Add(1)
	}
}

// lossMarker returns the line that reports a loss before the record with the time
// until. The amount is known only as a time span: Docker does not count what it
// deletes. The marker depends only on the position and the next record, so it is
// the same again after a crash.
func (f *follower) lossMarker(until string) []byte {
	from := "the start"
	if !f.pos.last.IsZero() {
		from = f.pos.last.Format(time.RFC3339Nano)
	}
	stream := stderr
	if f.src.TTY {
		stream = stdout
	}
	text := fmt.Appendf(nil, "cridock: lines between %s and %s may be missing: Docker deleted its log file before it was read", from, until)
	return appendLine(nil, until, stream, true, text)
}

// openInput opens Docker's file at the position; false while there is no file.
func (f *follower) openInput() (bool, error) {
	if f.cur != nil {
		return true, nil
	}
	if f.src.Follow != nil {
		if err := f.dockerReadable(); err != nil {
			return false, fmt.Errorf("%w: %w", errUseAPI, err)
		}
	}
	// A position from the API's stream has a time but no place in a file.
	if f.lost || !f.pos.consumed() && !f.pos.last.IsZero() {
		if err := f.recoverPosition(); err != nil {
			return false, err
		}
	}
	var err error
	if f.pos.consumed() {
		if f.cur, err = openAt(f.src.DockerLog, f.pos); err != nil {
			return false, err
		}
	}
	if f.cur != nil {
		f.seek(f.pos.offset)
		return true, nil
	}
	var begin int64
	if f.src.Backlog > 0 && !f.pos.consumed() {
		f.cur, begin, err = openNewest(f.src.DockerLog, f.src.Backlog)
	} else {
		f.cur, err = openOldest(f.src.DockerLog)
	}
	if f.cur == nil || err != nil {
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

// recoverPosition handles a lost position file: it searches all of Docker's files
// for the record of the last line in the CRI log.
func (f *follower) recoverPosition() error {
	tail := f.out
	if size, _, err := tail.state(); err != nil {
		return err
	} else if names := f.src.rotatedNames(); size == 0 && len(names) > 0 {
		if tail, err = f.src.openCRI(names[len(names)-1]); err != nil {
			return err
		}
		defer tail.Close()
	}
	line, times, end, err := tail.tail()
	if err != nil {
		return err
	}
	p, found, err := f.findLine(line, times)
	if err != nil {
		return err
	}
	p.criInode = f.out.id.ino
	size, _, err := f.out.state()
	if err != nil {
		return err
	}
	p.base = size
	if found && tail == f.out {
		p.base = end // the torn line after it is completed
	}
	f.pos, f.skip, f.lost = p, size-p.base, false
	if !found && !p.last.IsZero() && !p.consumed() {
		f.noteLoss() // Docker has no record as old as the last line
	}
	return nil
}

// findLine returns the position after the times-th record that produces line. If
// there is none, reading starts with the first record newer than the line.
func (f *follower) findLine(line []byte, times int) (position, bool, error) {
	var p position
	if len(line) == 0 {
		return p, false, nil
	}
	p.last, _ = time.Parse(time.RFC3339Nano, string(lineTime(line)))
	ids, err := settledList(f.src.DockerLog)
	if err != nil {
		return p, false, err
	}
	older := p
	for n := len(ids) - 1; n >= 0; n-- {
		if ids[n] == (fileID{}) {
			continue
		}
		d, err := openNth(f.src.DockerLog, n, ids[n])
		if err != nil {
			return p, false, err
		}
		s := lineSearch{line: line, times: times, tty: f.src.TTY, last: p.last}
		found, err := s.in(d)
		err = errors.Join(err, d.Close())
		if err != nil || found {
			s.at.last = p.last
			return s.at, found, err
		}
		times = s.times
		if s.at.consumed() {
			older = s.at
		}
	}
	older.last = p.last
	return older, false, nil
}

// lineSearch searches for a line in one of Docker's files.
type lineSearch struct {
	line  []byte
	times int
	tty   bool
	last  time.Time
	at    position // after the line, or else after the last record not newer than it
}

func (s *lineSearch) in(d *dockerFile) (bool, error) {
	b := getBuffers()
	defer putBuffers(b)
	var p position
	for {
		n, err := d.ReadAt(b.in, p.offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, fmt.Errorf("read Docker's log: %w", err)
		}
		rest := b.in[:n]
		for {
			end := bytes.IndexByte(rest, '\n') + 1
			if end == 0 {
				break
			}
			p.advance(p.offset, rest[:end])
			out, _ := convert(b.out[:0], rest[:end], s.tty)
			rest = rest[end:]
			if bytes.Equal(out, s.line) {
				if s.times--; s.times == 0 {
					s.at = p
					return true, nil
				}
			}
			if t, err := time.Parse(time.RFC3339Nano, string(lineTime(out))); err == nil && !t.After(s.last) {
				s.at = p
			}
		}
		switch {
		case len(rest) < n:
		case n < len(b.in):
			return false, nil
		case n >= maxRecord:
			p.advance(p.offset, rest)
		default:
			b.in = make([]byte, 2*len(b.in))
		}
	}
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

// release closes everything; the position on disk allows resuming.
func (f *follower) release() {
	if f.cur != nil {
		_ = f.cur.Close()
	}
	if f.next != nil {
		_ = f.next.Close()
	}
	if f.out != nil {
		_ = f.out.Close()
	}
	if f.posFile != nil {
		_ = f.posFile.close()
	}
	f.cur, f.next, f.out, f.posFile, f.gap = nil, nil, nil, nil, false
}
