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
	// frameSystem carries an error of dockerd's own, from API 1.26 on.
	frameSystem = 3
	frameHeader = 8
)

// demultiplex copies a multiplexed stream to its parts until it ends; an end
// inside a frame is io.ErrUnexpectedEOF.
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
			return fmt.Errorf("docker sent a frame of the unknown type %d", header[0])
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

// maxMessage bounds Docker's messages in place of output.
const maxMessage = 64 << 10

// startFailure is what Docker's message begins with when runc has refused a
// start (20.10 to 29). It only decides which stream the message goes to;
// whether the start failed is read from the exec's state.
var startFailure = []byte("OCI runtime exec failed")

// holdBack keeps a message of Docker's that looks like a failed start out of
// stdout, until more output shows that it is the process's own.
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

// looksLike says whether held and then p begin with prefix, as far as they go.
func looksLike(prefix, held, p []byte) bool {
	all := slices.Concat(held, p)
	n := min(len(prefix), len(all))
	return bytes.Equal(all[:n], prefix[:n])
}

func (h *holdBack) flush() error {
	_, err := h.held.WriteTo(h.to)
	return err
}

// message is what was kept.
func (h *holdBack) message() string { return h.held.String() }

// beginning remembers the first bytes of what it passes on.
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

// drain reads a process's output. Once the process has ended it waits for
// output no longer than timeout in total, then it closes the stream: something
// that the process left behind may hold it open for ever. Time that the reader
// takes for itself does not count.
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

// arm sets the timer if there is something to wait for.
func (d *drain) arm() {
	if d.reading && d.over {
		d.since = time.Now()
		d.timer.Reset(max(d.left, 0))
	}
}

// ended says that the process has ended.
func (d *drain) ended() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.over {
		d.over = true
		d.arm()
	}
}

// gaveUp says whether the stream was closed because nothing came any more.
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
