package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"
)

// recoverPosition handles a lost position file: it searches all of Docker's files
// for the record of the last line in the CRI log.
func (f *follower) recoverPosition() error {
	tail := f.out.criFile
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
	if found && tail == f.out.criFile {
		p.base = end // the torn line after it is completed
	}
	f.pos.position, f.out.skip = p, size-p.base
	f.leave(searching)
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
