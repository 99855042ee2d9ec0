package process

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cridock/cridock/shim/engine"
)

const (
	// maxBacklog limits the output that waits for a slow client of Attach. When a
	// client does not read, dockerd stops reading the container's output, which
	// blocks the container: such a client is cut off instead.
	maxBacklog = 8 << 20
	// flushTimeout limits how long a client may take to read the remaining output
	// after the container has exited.
	flushTimeout = time.Minute
)

// Attach connects a client to a container's main process until that exits, ctx
// ends, or, with stdin, the input has ended and the container was not created
// with StdinOnce (Docker's rule). TTY must be the container's own setting. Only
// output from now on is sent. The container never waits for the client.
// exited must return nil when the container has exited: Docker also attaches to a
// container that has just exited, and then waits for its next start.
//
// errdefs.ErrResourceExhausted: the client is not reading its output.
// errdefs.ErrNotFound, errdefs.ErrFailedPrecondition: as for Exec.
func (r *Runner) Attach(ctx context.Context, containerID string, st Streams, exited func(context.Context) error) error {
	// Docker attaches to stopped containers too, and waits for their start.
	if err := r.checkRunning(ctx, containerID); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := r.engine.ContainerAttach(ctx, containerID, engine.AttachOptions{
		Stdin: st.Stdin != nil, Stdout: st.Stdout != nil, Stderr: st.Stderr != nil && !st.TTY,
	})
	if err != nil {
		return classify(containerID, err)
	}
	defer func() { _ = stream.Close() }()
	if st.TTY && st.Resize != nil {
		go resize(ctx, Size{}, st.Resize, func(ctx context.Context, height, width uint) error {
			return r.engine.ContainerResize(ctx, containerID, height, width)
		})
	}
	if st.Stdin != nil {
		go feed(stream, st.Stdin, false)
	}
	client := newBacklog(maxBacklog)
	go client.deliver(cancel)
	out := newDrain(stream, func() { _ = stream.Close() }, r.drainTimeout)
	defer out.stop()
	go func() {
		if exited(ctx) == nil {
			out.ended()
		}
	}()
	_, err = copyOutput(out, &command{Streams: Streams{TTY: st.TTY, Stdout: client.writer(st.Stdout), Stderr: client.writer(st.Stderr)}})
	if out.gaveUp() {
		err = nil
	}
	if err != nil {
		client.abandon()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("attach to container %s: %w", containerID, err)
	}
	return client.finish(ctx)
}

// backlog forwards output to a client that may be slow. Writes to it never block;
// they fail when too much output is waiting.
type backlog struct {
	mu      sync.Mutex
	changed sync.Cond
	waiting []chunk
	size    int
	limit   int
	closed  bool
	// done is closed when everything is delivered or delivery has failed; err is
	// set before that.
	done chan struct{}
	err  error
}

// chunk is a piece of output of one stream.
type chunk struct {
	to   io.Writer
	data []byte
}

func newBacklog(limit int) *backlog {
	b := &backlog{limit: limit, done: make(chan struct{})}
	b.changed.L = &b.mu
	return b
}

// writer returns the writer for one stream of the client, nil if to is nil.
func (b *backlog) writer(to io.Writer) io.Writer {
	if to == nil {
		return nil
	}
	return &backlogWriter{b: b, to: to}
}

type backlogWriter struct {
	b  *backlog
	to io.Writer
}

// Write implements [io.Writer].
func (w *backlogWriter) Write(p []byte) (int, error) {
	b := w.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, io.ErrClosedPipe
	}
	if b.size+len(p) > b.limit {
		return 0, fmt.Errorf("%w: the client is not reading its output: %d bytes are waiting", errdefs.ErrResourceExhausted, b.size)
	}
	b.size += len(p)
	b.waiting = append(b.waiting, chunk{to: w.to, data: append([]byte(nil), p...)})
	b.changed.Signal()
	return len(p), nil
}

// deliver writes to the client until the backlog is closed and empty. It passes a
// write error to failed.
func (b *backlog) deliver(failed context.CancelCauseFunc) {
	defer close(b.done)
	for {
		next, ok := b.next()
		if !ok {
			return
		}
		for _, c := range next {
			if _, err := c.to.Write(c.data); err != nil {
				b.abandon()
				b.err = err
				failed(err)
				return
			}
			b.mu.Lock()
			b.size -= len(c.data)
			b.mu.Unlock()
		}
	}
}

// next waits for output and returns false if there will be no more.
func (b *backlog) next() ([]chunk, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.waiting) == 0 && !b.closed {
		b.changed.Wait()
	}
	next := b.waiting
	b.waiting = nil
	return next, len(next) > 0
}

// abandon closes the backlog and drops waiting output.
func (b *backlog) abandon() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting, b.closed = nil, true
	b.changed.Signal()
}

// finish waits until the client has everything.
func (b *backlog) finish(ctx context.Context) error {
	b.mu.Lock()
	b.closed = true
	b.changed.Signal()
	b.mu.Unlock()
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(flushTimeout):
		return fmt.Errorf("%w: the client is not reading its output", errdefs.ErrResourceExhausted)
	}
}
