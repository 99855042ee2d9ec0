package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/backoff"
	"github.com/cridock/cridock/shim/engine"
)

const (
	// firstSizeTimeout is how long a start waits for the size of the client's
	// terminal, which arrives right after the request.
	firstSizeTimeout = 100 * time.Millisecond
	// drainTimeout is how long to wait for output after a process has exited.
	// Docker has it by then; only a child that holds the output open can add more.
	drainTimeout = 2 * time.Second
	// checkPeriod is when Docker is first asked whether a process with open
	// output still runs, in case an event was lost; the interval then doubles up
	// to maxCheckPeriod.
	checkPeriod    = 10 * time.Second
	maxCheckPeriod = 5 * time.Minute
	// Docker closes a process's streams and records its exit independently. While
	// no event arrives, it is asked again after minCheck; the interval doubles up
	// to maxCheck.
	minCheck = time.Millisecond
	maxCheck = time.Second
	// resizeRetry is how long after a failed resize the next attempt is made.
	resizeRetry = 500 * time.Millisecond
)

// StartError says that a process could not be started.
type StartError struct {
	// ExitCode is Docker's: 126, or 127 from some releases if there is no such
	// command.
	ExitCode int
	// Message is Docker's.
	Message string
}

func (e *StartError) Error() string { return "process was not started: " + e.Message }

// Streams are a client's streams of a process. Nil ones are not opened.
type Streams struct {
	// TTY gives the process a terminal: all output is on Stdout then.
	TTY            bool
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
}

// command is one exec.
type command struct {
	Streams
	containerID string
	cmd         []string
	// started is set when Docker has agreed to start it.
	started bool
}

// Exec runs a command in a container with a client's streams and
// returns its exit code; a command that could not be started has 126 or 127 and
// Docker's message on Stderr. When ctx ends, the command and all its descendants
// are killed. (A killed process whose parent is gone too becomes a child of the
// container's first process, which may or may not reap it.) Stdin may be read
// until a read fails, even after Exec has returned.
//
// errdefs.ErrNotFound: no such container. errdefs.ErrFailedPrecondition: it is
// not running.
func (r *Runner) Exec(ctx context.Context, containerID string, cmd []string, st Streams) (exitCode int, err error) {
	code, err := r.run(ctx, &command{Streams: st, containerID: containerID, cmd: cmd})
	var failed *StartError
	if !errors.As(err, &failed) {
		return code, err
	}
	// With a terminal, the message was on stdout like everything else.
	if !st.TTY && st.Stderr != nil {
		if _, err := fmt.Fprintln(st.Stderr, failed.Message); err != nil {
			return 0, err
		}
	}
	return failed.ExitCode, nil
}

// run runs a command and returns its exit code, or a *StartError.
func (r *Runner) run(ctx context.Context, c *command) (int, error) {
	if len(c.cmd) == 0 {
		return 0, fmt.Errorf("cmd: %w: is empty", errdefs.ErrInvalidArgument)
	}
	execID, err := r.engine.ExecCreate(ctx, c.containerID, container.ExecOptions{
		Cmd: c.cmd, Tty: c.TTY, AttachStdin: c.Stdin != nil, AttachStdout: c.Stdout != nil, AttachStderr: c.Stderr != nil && !c.TTY,
	})
	if err != nil {
		return 0, classify(c.containerID, err)
	}
	first := firstSize(ctx, c)
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	ended, forget := r.watch(execID)
	defer forget()
	message, err := r.converse(ctx, execID, c, first, ended)
	if err == nil {
		var code int
		if code, err = r.result(ctx, execID, ended, message); err == nil {
			return code, c.release(message)
		}
	}
	if ctx.Err() == nil {
		// When a container exits, its execs fail with errors that have no class.
		if gone := r.checkRunning(ctx, c.containerID); gone != nil {
			return 0, gone
		}
	}
	var failed *StartError
	if errors.As(err, &failed) {
		return 0, err
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	} else if !c.started {
		return 0, err
	}
	// Whatever went wrong, no client is left to use the process. The class is that of
	// the first error: the kubelet takes a timeout for a failed probe, and nothing else.
	if kerr := r.kill(ctx, c.containerID, execID); kerr != nil {
		err = fmt.Errorf("%w; then %v", err, kerr) //nolint:errorlint // see above
	}
	return 0, err
}

// release writes text that was held back as Docker's message but is the process's
// own output.
func (c *command) release(message string) error {
	if c.TTY || c.Stdout == nil || message == "" {
		return nil
	}
	_, err := io.WriteString(c.Stdout, message)
	return err
}

// firstSize returns a terminal's initial size, zero if its client does not send one
// in time.
func firstSize(ctx context.Context, c *command) Size {
	if !c.TTY || c.Resize == nil {
		return Size{}
	}
	select {
	case size := <-c.Resize:
		return size
	case <-time.After(firstSizeTimeout):
	case <-ctx.Done():
	}
	return Size{}
}

// converse starts an exec and copies its streams until they end. It returns
// Docker's message if there is one in place of output.
func (r *Runner) converse(ctx context.Context, execID string, c *command, first Size, ended *exit) (message string, err error) {
	// Resizing and watching end with the conversation.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.engine.ExecStart(ctx, execID, c.TTY, [2]uint{uint(first.Height), uint(first.Width)})
	if err != nil {
		return "", err
	}
	c.started = true
	defer func() { _ = stream.Close() }()
	if c.TTY && c.Resize != nil {
		go resize(ctx, first, c.Resize, func(ctx context.Context, height, width uint) error {
			return r.engine.ExecResize(ctx, execID, height, width)
		})
	}
	if c.Stdin != nil {
		go feed(stream, c.Stdin, c.TTY)
	}
	out := newDrain(stream, func() { _ = stream.Close() }, r.drainTimeout)
	defer out.stop()
	go r.watchEnd(ctx, execID, ended, out)
	message, err = copyOutput(out, c)
	if out.gaveUp() {
		// The process has exited; a child of it holds its output open.
		err = nil
	}
	return message, err
}

// copyOutput copies a process's output until it ends.
func copyOutput(stream io.Reader, c *command) (message string, err error) {
	stdout, stderr := c.Stdout, c.Stderr
	if stdout == nil {
		stdout = io.Discard
	}
	if stderr == nil {
		stderr = io.Discard
	}
	if c.TTY {
		start := &beginning{to: stdout}
		_, err := io.Copy(start, stream)
		return start.message(), err
	}
	held := &holdBack{to: stdout}
	if err := demultiplex(stream, held, stderr); err != nil {
		return "", err
	}
	return held.message(), nil
}

// feed forwards a client's input, and its end unless there is a terminal: a
// terminal's input never ends, and dockerd would drop the output too.
func feed(stream *engine.Stream, stdin io.Reader, tty bool) {
	_, err := io.Copy(stream, stdin)
	if err == nil && !tty {
		_ = stream.CloseWrite()
	}
}

// watchEnd notifies out when the process has exited. It returns when ctx ends.
func (r *Runner) watchEnd(ctx context.Context, execID string, ended *exit, out *drain) {
	pause := r.checkPeriod
	check := time.NewTimer(pause)
	defer check.Stop()
	for {
		select {
		case <-ended.done:
			out.ended()
			return
		case <-ctx.Done():
			return
		case <-check.C:
			pause = min(2*pause, maxCheckPeriod)
			check.Reset(pause)
			if info, err := r.engine.ExecInspect(ctx, execID); err == nil && info.Pid > 0 && !info.Running {
				ended.set()
			}
		}
	}
}

// result returns the exit code of an exec whose streams have ended. message is
// Docker's reason if there was no process.
func (r *Runner) result(ctx context.Context, execID string, ended *exit, message string) (int, error) {
	noted := ended.done
	pause := backoff.Backoff{Min: minCheck, Max: maxCheck}
	for {
		info, err := r.engine.ExecInspect(ctx, execID)
		switch {
		case err != nil:
			return 0, fmt.Errorf("exit code: %w", err)
		case !info.Running && info.Pid == 0:
			return 0, startError(info.ExitCode, message)
		case !info.Running:
			return info.ExitCode, nil
		}
		klog.FromContext(ctx).V(5).Info("Docker has not recorded an exec's exit yet", "execID", execID)
		if err := pause.Wait(ctx, noted); err != nil {
			return 0, err
		}
		select {
		case <-noted:
			noted = nil // the event causes one extra inspect
		default:
		}
	}
}

// startError returns the error of an exec without a process. Docker leaves the
// code at 0 if it refused the start itself, for example in a paused container.
func startError(code int, message string) error {
	if code == 0 {
		code = 126
	}
	message = strings.TrimSpace(message)
	if message == "" {
		message = fmt.Sprintf("exit code %d", code)
	}
	return &StartError{ExitCode: code, Message: message}
}

// resize applies terminal sizes until there are no more or ctx ends. Docker applies
// a size only once the process runs, which on a busy node can take longer than it
// waits, so a size that was refused is applied again unless a newer one arrives.
func resize(ctx context.Context, size Size, sizes <-chan Size, apply func(ctx context.Context, height, width uint) error) {
	for {
		var again <-chan time.Time // nil: nothing to apply again
		if size.Height > 0 && size.Width > 0 {
			if err := apply(ctx, uint(size.Height), uint(size.Width)); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).V(2).Info("Cannot resize terminal; will retry", "err", err)
				again = time.After(resizeRetry)
			}
		}
		if sizes == nil && again == nil {
			return
		}
		select {
		case newer, ok := <-sizes:
			if ok {
				size = newer
			} else if sizes = nil; again == nil {
				return
			}
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}
