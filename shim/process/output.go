package process

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// The types of a frame of Docker's multiplexed streams (API reference,
// ContainerAttach, "Stream format").
const (
	frameStdin  = 0
	frameStdout = 1
	frameStderr = 2
	// frameSystem carries an error from dockerd itself, since API 1.26.
	frameSystem = 3
	frameHeader = 8
)

// demultiplex copies a multiplexed stream to stdout and stderr until it ends; an
// end inside a frame is io.ErrUnexpectedEOF.
func demultiplex(r io.Reader, stdout, stderr io.Writer) error {
	in := bufio.NewReaderSize(r, 32<<10)
	buf := make([]byte, 32<<10)
	var header [frameHeader]byte
	for {
		if _, err := io.ReadFull(in, header[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		size := int64(binary.BigEndian.Uint32(header[4:]))
		to := stdout
		switch header[0] {
		case frameStdin, frameStdout:
		case frameStderr:
			to = stderr
		case frameSystem:
			message, err := io.ReadAll(io.LimitReader(in, min(size, maxMessage)))
			return errors.Join(fmt.Errorf("docker: %s", message), err)
		default:
			return fmt.Errorf("docker sent a frame of unknown type %d", header[0])
		}
		n, err := io.CopyBuffer(to, io.LimitReader(in, size), buf)
		if err == nil && n < size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("%d of %d bytes of a frame: %w", n, size, err)
		}
	}
}

// maxMessage limits Docker's messages in place of output.
const maxMessage = 64 << 10

// startFailure is the prefix of Docker's message when runc has refused a start
// (20.10 to 29). It only decides which stream the message goes to;
// whether the start failed is read from the exec's state.
var startFailure = []byte("OCI runtime exec failed")

// holdBack holds back text that looks like Docker's message about a failed start,
// until more output shows that it is the process's own.
type holdBack struct {
	to   io.Writer
	held bytes.Buffer
	past bool
}

// Write implements [io.Writer].
func (h *holdBack) Write(p []byte) (int, error) {
	if !h.past && h.held.Len()+len(p) <= maxMessage && looksLike(startFailure, h.held.Bytes(), p) {
		return h.held.Write(p)
	}
	h.past = true
	if err := h.flush(); err != nil {
		return 0, err
	}
	return h.to.Write(p)
}

// looksLike reports whether held followed by p begins with prefix, or is itself
// the beginning of prefix.
func looksLike(prefix, held, p []byte) bool {
	all := slices.Concat(held, p)
	n := min(len(prefix), len(all))
	return bytes.Equal(all[:n], prefix[:n])
}

func (h *holdBack) flush() error {
	_, err := h.held.WriteTo(h.to)
	return err
}

// message returns the text held back.
func (h *holdBack) message() string { return h.held.String() }

// beginning forwards writes and keeps their first bytes.
type beginning struct {
	to   io.Writer
	kept bytes.Buffer
}

// Write implements [io.Writer].
func (b *beginning) Write(p []byte) (int, error) {
	if room := maxMessage - b.kept.Len(); room > 0 {
		_, _ = b.kept.Write(p[:min(len(p), room)])
	}
	return b.to.Write(p)
}

func (b *beginning) message() string { return b.kept.String() }

// drain reads a process's output. Once the process has exited, it waits for output
// no longer than timeout in total and then closes the stream: a child left behind
// may hold it open forever. Time that the caller spends between reads does not
// count.
type drain struct {
	r       io.Reader
	timer   *time.Timer
	mu      sync.Mutex
	left    time.Duration
	since   time.Time
	reading bool
	over    bool
	given   bool
}

func newDrain(r io.Reader, closeStream func(), timeout time.Duration) *drain {
	d := &drain{r: r, left: timeout}
	d.timer = time.AfterFunc(time.Hour, func() {
		d.mu.Lock()
		d.given = d.reading
		d.mu.Unlock()
		closeStream()
	})
	d.timer.Stop()
	return d
}

// Read implements [io.Reader].
func (d *drain) Read(p []byte) (int, error) {
	d.mu.Lock()
	d.reading = true
	d.arm()
	d.mu.Unlock()
	n, err := d.r.Read(p)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading = false
	if d.over && d.timer.Stop() {
		d.left -= time.Since(d.since)
	}
	return n, err
}

// arm starts the timer if a read is waiting and the process has exited.
func (d *drain) arm() {
	if d.reading && d.over {
		d.since = time.Now()
		d.timer.Reset(max(d.left, 0))
	}
}

// ended tells drain that the process has exited.
func (d *drain) ended() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.over {
		d.over = true
		d.arm()
	}
}

// gaveUp reports whether the stream was closed because the timeout expired.
func (d *drain) gaveUp() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.given
}

func (d *drain) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer.Stop()
}
