package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

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
// something to do. Its states:
//
//	             new
//	              |
//	              v
//	+---------> closed <-----------------------------------+
//	|             |                                        |
//	|             | openOutput: where does the             |
//	|             | position continue?                     |
//	|      +------+----------+-------------------+         |
//	|      |                 |                   |         | release:
//	|      | at CRILog       | in a file         | unknown | Run has ended
//	|      |                 | renamed by the    |         |
//	|      |                 | kubelet           |         |
//	|      |                 v                   v         |
//	|      |              renamed            searching     |
//	|      |                 |                   |         |
//	|      |                 | moveAside         | recoverPosition,
//	|      v                 v                   v prepareStream
//	|  following <-----------+-------------------+         |
//	|                                                      |
//	|  following, renamed or searching --------------------+
//	|                 |
//	|                 | drain, finish: Docker's log
//	| Start           v was copied to its end
//	+-------------- drained
//
//	any state --- forget: Remove ---> removed
//
// Files are open in following, renamed and searching, and in no other state. The
// source of the records, Docker's files (input) or the Engine API's stream
// (apiState), is independent of the state.
type follower struct {
	src   Source
	count *counters

	watch   int32 // owned by watcher
	run     runState
	trouble trouble
	api     apiState
	read    readPoint

	turn // the lock for all below

	state state // only enter changes it
	in    input
	out   output
	pos   progress
}

// state says whether a follower has files open, and what it must do before it copies
// on. The zero value is closed.
type state int

const (
	// closed: nothing is open; the next step opens the position and the output.
	closed state = iota
	// following: the output is at CRILog and the position is known.
	following
	// renamed: the output is a file that the kubelet has renamed. The last line is
	// finished there before a file at CRILog is opened.
	renamed
	// searching: the output is open, but there was no usable position. The last line
	// of the CRI log is searched for in Docker's log.
	searching
	// drained: Docker's log was copied to its end and nothing is open. Start begins
	// again.
	drained
	// removed: nothing is open, and nothing is opened again.
	removed
)

// open reports whether files are open in the state.
func (s state) open() bool { return s == following || s == renamed || s == searching }

// finished reports whether there is nothing to copy any more.
func (s state) finished() bool { return s == drained || s == removed }

// errFinished says that the container was drained or removed in the meantime.
var errFinished = errors.New("the container is no longer followed")

// enter changes the state; nothing else does. It closes all files on the way to a
// state without any. Nothing leaves removed.
func (f *follower) enter(s state) {
	if f.state == removed {
		return
	}
	f.state = s
	if !s.open() {
		f.closeFiles()
	}
}

// release closes all files; the position on disk allows resuming.
func (f *follower) release() {
	if f.state.open() {
		f.enter(closed)
	}
}

// leave enters following if the state is s.
func (f *follower) leave(s state) {
	if f.state == s {
		f.enter(following)
	}
}

// restart makes a drained container be followed again.
func (f *follower) restart() {
	if f.state == drained {
		f.enter(closed)
	}
	f.api.draining.Store(false)
}

func (f *follower) closeFiles() {
	f.in.close()
	f.out.close()
	f.pos.close()
}

// apiState says whether the Engine API's stream is the source.
type apiState struct {
	used     atomic.Bool   // Docker's files cannot be read
	draining atomic.Bool   // the container has exited: the next stream opened is the last
	kick     chan struct{} // ends the goroutine's pause
	refused  error         // why the last stream could not be written; guarded by turn
}

// output is the CRI log file that is written.
type output struct {
	*criFile        // nil: not open
	skip     int64  // bytes of the output for what follows the position that are already in the file
	former   fileID // the file before this one
}

// close closes the file. It keeps former: the kubelet may still rename that one back.
func (o *output) close() {
	if o.criFile != nil {
		_ = o.Close()
	}
	o.criFile, o.skip = nil, 0
}

// progress is the position, in memory and on disk.
type progress struct {
	position
	file *positionFile // nil: not open
}

// close closes the file and keeps the position.
func (p *progress) close() {
	if p.file != nil {
		_ = p.file.close()
	}
	p.file = nil
}

func newFollower(src Source, count *counters) *follower {
	return &follower{src: src, count: count, turn: make(turn, 1), api: apiState{kick: make(chan struct{}, 1)}}
}

// turn is a lock; a channel, so that a context can end the wait.
type turn chan struct{}

func (t turn) lock(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	default:
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) unlock() { <-t }

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
	if f.state.finished() {
		return false, nil
	}
	if err := f.openOutput(); err != nil {
		return false, err
	}
	if f.state == renamed {
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
	if err := f.in.lookAhead(f.src.DockerLog); err != nil {
		return false, err
	}
	n, err := f.in.cur.ReadAt(b.in, f.in.off)
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
	case f.in.next != nil:
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
	p := f.pos.position
	p.advance(f.in.off, consumed)
	if did.last >= 0 {
		if t, err := time.Parse(time.RFC3339Nano, string(lineTime(out[did.last:]))); err == nil {
			p.last, p.same = t, 0
		}
	}
	if f.in.lossy && did.last >= 0 {
		out = append(f.lossMarker(string(lineTime(out))), out...)
	}
	if err := f.emit(out, p); err != nil {
		return err
	}
	if did.last >= 0 {
		f.in.lossy = false
	}
	f.in.off = p.offset
	f.count.lines.Add(uint64(did.lines))
	f.count.malformed.Add(uint64(did.malformed))
	f.count.sourceBytes.Add(uint64(len(consumed)))
	f.read.offset.Store(f.in.off)
	return nil
}

// noteLoss makes the output say that records may be missing before the next one.
func (f *follower) noteLoss() {
	if !f.in.lossy {
		f.in.lossy = true
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
