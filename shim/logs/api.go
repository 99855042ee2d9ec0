package logs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/backoff"
	"github.com/cridock/cridock/internal/beneath"
)

// serveAPI follows the Engine API's stream until the container is drained. It
// reopens a stream that ends earlier: the engine may have been restarted.
func (t *Tailer) serveAPI(ctx context.Context, f *follower) {
	pause := backoff.Backoff{Min: t.opts.RetryMin, Max: t.opts.RetryMax}
	for ctx.Err() == nil {
		draining := f.api.draining.Load()
		progressed, err := t.followStream(ctx, f)
		if ctx.Err() != nil || errors.Is(err, errFinished) {
			return
		}
		if err != nil {
			t.count.errors.Add(1)
			f.trouble.report(klog.FromContext(ctx), f.src.ID, err)
		} else {
			f.trouble.end()
		}
		if draining && (err == nil || beneath.IsRefused(err)) {
			f.finish(ctx, err)
			return
		}
		if progressed {
			pause.Reset()
		}
		_ = pause.Wait(ctx, f.api.kick)
	}
}

// finish handles the end of the last stream. After an error the container is not
// done.
func (f *follower) finish(ctx context.Context, err error) {
	if f.lock(ctx) != nil {
		return
	}
	defer f.unlock()
	if f.api.refused = err; err == nil {
		f.enter(drained)
	}
}

// drainAPI waits for the end of a stream that was opened after the container had
// exited.
func (t *Tailer) drainAPI(ctx context.Context, f *follower) error {
	f.api.draining.Store(true)
	t.wakeLocked(f)
	select {
	case f.api.kick <- struct{}{}:
	default:
	}
	select {
	case <-f.run.wait():
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := f.lock(ctx); err != nil {
		return err
	}
	defer f.unlock()
	if f.api.refused != nil {
		return f.api.refused
	}
	if !f.state.finished() {
		return errors.New("the container's log stream was not read to its end")
	}
	return nil
}

// followStream opens a stream at the position and copies it to its end.
func (t *Tailer) followStream(ctx context.Context, f *follower) (progressed bool, err error) {
	if err := f.lock(ctx); err != nil {
		return false, err
	}
	err = f.prepareStream()
	p := f.pos.position
	f.unlock()
	if err != nil {
		return false, err
	}
	stream, err := f.src.Follow(ctx, p.last)
	if err != nil {
		return false, fmt.Errorf("follow log through the API: %w", err)
	}
	t.count.apiStreams.Add(1)
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	defer func() {
		if stop() {
			_ = stream.Close()
		}
	}()
	s := apiStream{r: bufio.NewReaderSize(stream, 32<<10), tty: f.src.TTY, pos: p, resume: p}
	for {
		err := s.next()
		// Written if the next record has not arrived yet, so no line waits for another.
		if s.lines > 0 && (err != nil || len(s.out) >= 64<<10 || !s.ready()) {
			if err := t.deliver(ctx, f, &s); err != nil {
				return progressed, err
			}
			progressed = true
		}
		if errors.Is(err, io.EOF) {
			return progressed, nil
		}
		if err != nil {
			return progressed, fmt.Errorf("read log from the API: %w", err)
		}
	}
}

// prepareStream opens the output and ensures that there is a position to start at.
func (f *follower) prepareStream() error {
	if err := f.openOutput(); err != nil {
		return err
	}
	if f.state == renamed {
		if err := f.moveAside(nil); err != nil {
			return err
		}
	}
	if f.state != searching {
		return nil
	}
	size, err := f.out.cutTorn()
	if err != nil {
		return err
	}
	line, _, _, err := f.out.tail()
	if err != nil {
		return err
	}
	f.pos.position = position{criInode: f.out.id.ino, base: size}
	f.pos.last, _ = time.Parse(time.RFC3339Nano, string(lineTime(line)))
	f.out.skip = 0
	f.leave(searching)
	return nil
}

// deliver writes the lines in s.out, however long that takes: the stream waits
// meanwhile, the container does not. It gives up if the log's path is refused, and
// with errFinished if the container was removed.
func (t *Tailer) deliver(ctx context.Context, f *follower, s *apiStream) error {
	pause := backoff.Backoff{Min: t.opts.RetryMin, Max: t.opts.RetryMax}
	for {
		if err := f.lock(ctx); err != nil {
			return err
		}
		err := f.emitStream(s)
		f.unlock()
		if err == nil {
			t.count.lines.Add(uint64(s.lines))
			t.count.malformed.Add(uint64(s.malformed))
			s.out, s.lines, s.malformed = s.out[:0], 0, 0
			return nil
		}
		if beneath.IsRefused(err) || errors.Is(err, errFinished) {
			return err
		}
		t.count.errors.Add(1)
		f.trouble.report(klog.FromContext(ctx), f.src.ID, err)
		_ = pause.Wait(ctx, nil)
	}
}

// emitStream writes the lines in s.out. A position in a stream has no place in a file.
func (f *follower) emitStream(s *apiStream) error {
	if !f.state.open() {
		return errFinished
	}
	p := f.pos.position
	p.last, p.same = s.pos.last, s.pos.same
	p.offset, p.sum, p.sumLen = 0, 0, 0
	return f.emit(s.out, p)
}

// apiStream turns a stream of the Engine API into CRI lines.
type apiStream struct {
	r   *bufio.Reader
	tty bool

	resume  position // records up to here were delivered before
	skipped int      // records with its time seen so far
	pos     position // last and same: after the records in out
	out     []byte
	lines   int
	payload []byte

	malformed int // records without a time
}

// next reads one frame, or one line of a terminal's stream.
func (s *apiStream) next() error {
	if s.tty {
		return s.nextLine()
	}
	var header [8]byte
	if _, err := io.ReadFull(s.r, header[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(header[4:])
	if header[0] > 2 || size > maxRecord {
		return fmt.Errorf("not a frame of a multiplexed stream: % x", header)
	}
	if cap(s.payload) < int(size) {
		s.payload = make([]byte, size)
	}
	s.payload = s.payload[:size]
	if _, err := io.ReadFull(s.r, s.payload); err != nil {
		return err
	}
	stream := stdout
	if header[0] == 2 {
		stream = stderr
	}
	s.add(s.payload, stream)
	return nil
}

// nextLine reads up to a line feed. The pieces of a line longer than 16 KiB have
// no frames, but each begins with the time of the first.
func (s *apiStream) nextLine() error {
	s.payload = s.payload[:0]
	var err error
	for {
		var part []byte
		part, err = s.r.ReadSlice('\n')
		s.payload = append(s.payload, part...)
		if !errors.Is(err, bufio.ErrBufferFull) || len(s.payload) > maxRecord {
			break
		}
	}
	// A line without a line feed is whole only at the end of the stream: a broken
	// stream is reopened and has the line once more.
	if len(s.payload) == 0 || err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
		return err
	}
	line := s.payload
	if at := bytes.IndexByte(line, ' '); at > 0 {
		for mark := line[:at+1]; ; {
			n := bytes.Index(line[1:], mark) + 1
			if n == 0 {
				break
			}
			s.add(line[:n], stdout)
			line = line[n:]
		}
	}
	s.add(line, stdout)
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil
	}
	return err
}

// add appends the record "TIME TEXT" unless it was delivered before.
func (s *apiStream) add(record []byte, stream string) {
	stamp, text, _ := bytes.Cut(record, []byte(" "))
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if t = t.UTC(); err != nil || t.Year() < 1 || t.Year() > 9999 {
		s.malformed++
		return
	}
	if s.known(t) {
		return
	}
	switch {
	case t.After(s.pos.last):
		s.pos.last, s.pos.same = t, 1
	case t.Equal(s.pos.last):
		s.pos.same++
	}
	// The API pads the fraction with zeroes, Docker's files do not: use the latter form.
	stamp = t.AppendFormat(nil, time.RFC3339Nano)
	// Drivers other than json-file may store several lines in one record.
	for whole := true; whole; {
		var line []byte
		line, text, whole = bytes.Cut(text, []byte("\n"))
		s.out = appendLine(s.out, stamp, stream, whole, line)
		s.lines++
		if len(text) == 0 {
			return
		}
	}
}

// known reports whether a record of time t was delivered before the stream was
// opened. Without a count (the position is from a file), all with that time were.
func (s *apiStream) known(t time.Time) bool {
	if s.resume.last.IsZero() || t.After(s.resume.last) {
		s.resume.last = time.Time{} // what follows is new, whatever its time
		return false
	}
	if t.Equal(s.resume.last) && s.resume.same > 0 {
		s.skipped++
		return s.skipped <= s.resume.same
	}
	return true
}

// ready reports whether next will return without waiting.
func (s *apiStream) ready() bool {
	have, err := s.r.Peek(s.r.Buffered())
	if err != nil {
		return false
	}
	if s.tty {
		return bytes.IndexByte(have, '\n') >= 0
	}
	return len(have) >= 8 && len(have)-8 >= int(binary.BigEndian.Uint32(have[4:]))
}
