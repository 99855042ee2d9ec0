package process

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/shim/engine"
)

// frame returns a frame of one of Docker's multiplexed streams.
func frame(kind byte, data string) string {
	header := make([]byte, frameHeader)
	header[0] = kind
	binary.BigEndian.PutUint32(header[4:], uint32(len(data)))
	return string(header) + data
}

func TestDemultiplex(t *testing.T) {
	large := strings.Repeat("x", 1<<20)
	for name, c := range map[string]struct{ in, stdout, stderr, err string }{
		"empty":             {},
		"both":              {in: frame(1, "a") + frame(2, "b") + frame(1, "") + frame(1, "c\x00"), stdout: "ac\x00", stderr: "b"},
		"large":             {in: frame(1, large) + frame(2, large), stdout: large, stderr: large},
		"message of docker": {in: frame(1, "a") + frame(3, "broken"), stdout: "a", err: "docker: broken"},
		"cut header":        {in: frame(1, "a") + "\x01\x00", stdout: "a", err: "unexpected EOF"},
		"cut frame":         {in: frame(1, "abc")[:frameHeader+2], stdout: "ab", err: "2 of 3 bytes of a frame: unexpected EOF"},
		"not frames":        {in: "plain text", err: "unknown type"},
	} {
		var stdout, stderr bytes.Buffer
		// One byte at a time: frames may arrive in any pieces.
		err := demultiplex(&oneByte{strings.NewReader(c.in)}, &stdout, &stderr)
		if stdout.String() != c.stdout || stderr.String() != c.stderr {
			t.Errorf("%s: %d and %d bytes", name, stdout.Len(), stderr.Len())
		}
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v, want %q", name, err, c.err)
		}
	}
}

type oneByte struct{ r io.Reader }

func (o *oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }

func TestHoldBack(t *testing.T) {
	message := string(startFailure) + ": no such file\r\n"
	for name, c := range map[string]struct {
		writes      []string
		passed, own string
	}{
		"nothing":           {},
		"output":            {writes: []string{"OC", "TET", "s"}, passed: "OCTETs"},
		"message":           {writes: []string{message}, own: message},
		"message in pieces": {writes: []string{message[:3], message[3:30], message[30:]}, own: message},
		"too much":          {writes: []string{message, strings.Repeat("x", maxMessage)}, passed: message + strings.Repeat("x", maxMessage)},
	} {
		var to bytes.Buffer
		h := &holdBack{to: &to}
		for _, w := range c.writes {
			if n, err := h.Write([]byte(w)); n != len(w) || err != nil {
				t.Errorf("%s: %d, %v", name, n, err)
			}
		}
		if to.String() != c.passed || h.message() != c.own {
			t.Errorf("%s: passed %q, kept %q", name, to.String(), h.message())
		}
	}
}

func TestCapped(t *testing.T) {
	c := &capped{left: 5}
	if n, err := io.Copy(c, strings.NewReader("12345678")); n != 8 || err != nil {
		t.Error(n, err)
	}
	if got := c.kept.String(); got != "12345" {
		t.Errorf("kept %q", got)
	}
}

// closer is a reader that blocks until it is closed or has data.
type closer struct {
	data   chan string
	closed chan struct{}
}

func (c *closer) Read(p []byte) (int, error) {
	select {
	case s := <-c.data:
		return copy(p, s), nil
	case <-c.closed:
		return 0, os.ErrClosed
	}
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &closer{data: make(chan string), closed: make(chan struct{})}
		d := newDrain(c, func() { close(c.closed) }, drainTimeout)
		defer d.stop()
		read := func() error {
			_, err := d.Read(make([]byte, 10))
			return err
		}
		// A process may be silent for as long as it runs.
		go func() { time.Sleep(time.Hour); c.data <- "x" }()
		if err := read(); err != nil {
			t.Fatal(err)
		}
		d.ended()
		d.ended()
		began := time.Now()
		go func() {
			for {
				time.Sleep(drainTimeout / 8)
				select {
				case c.data <- "x":
				case <-c.closed:
					return
				}
			}
		}()
		n := 0
		for read() == nil {
			n++
		}
		if took := time.Since(began); took != drainTimeout || n != 7 && n != 8 {
			t.Errorf("gave up after %v and %d reads", took, n)
		}
		if !d.gaveUp() {
			t.Error("does not say that it gave up")
		}
		time.Sleep(drainTimeout) // the writer finishes
	})
}

func TestDrainOfSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &closer{data: make(chan string, 100), closed: make(chan struct{})}
		for range 100 {
			c.data <- "x"
		}
		d := newDrain(c, func() { close(c.closed) }, drainTimeout)
		defer d.stop()
		d.ended()
		for i := range 100 {
			if _, err := d.Read(make([]byte, 10)); err != nil {
				t.Fatalf("cut after %d of 100 reads", i)
			}
			time.Sleep(drainTimeout)
		}
	})
}

func TestBacklog(t *testing.T) {
	b := newBacklog(10)
	block := make(chan struct{})
	var got bytes.Buffer
	w := b.writer(writerFunc(func(p []byte) (int, error) { <-block; return got.Write(p) }))
	go b.deliver(func(error) { t.Error("the client has failed") })
	for range 2 {
		if n, err := w.Write([]byte("12345")); n != 5 || err != nil {
			t.Fatal(n, err)
		}
	}
	if _, err := w.Write([]byte("6")); !errdefs.IsResourceExhausted(err) {
		t.Errorf("byte 11 of 10: %v", err)
	}
	close(block)
	if err := b.finish(t.Context()); err != nil || got.String() != "1234512345" {
		t.Errorf("%q, %v", &got, err)
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a closed backlog takes output")
	}
}

func TestBacklogClientFails(t *testing.T) {
	b := newBacklog(10)
	failed := make(chan error, 1)
	w := b.writer(writerFunc(func(p []byte) (int, error) { return 0, io.ErrClosedPipe }))
	go b.deliver(func(err error) { failed <- err })
	_, _ = w.Write([]byte("x"))
	if err := <-failed; !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	if err := b.finish(t.Context()); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

// A process that is not an exec of the container is never killed.
func TestKillTreeSparesOthers(t *testing.T) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		setsid bool
		id     string
	}{
		"another cgroup": {true, "0123456789abcdef"},
		"not a session":  {false, string(groups)},
	} {
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: c.setsid}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if n, err := killTree(cmd.Process.Pid, c.id, deathTimeout); !errdefs.IsFailedPrecondition(err) || n != 0 {
			t.Errorf("%s: %d, %v", name, n, err)
		}
		if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = cmd.Process.Kill()
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
		if n, err := killTree(cmd.Process.Pid, c.id, deathTimeout); n != 0 || err != nil {
			t.Errorf("%s: before its parent waits: %d, %v", name, n, err)
		}
		_ = cmd.Wait()
		// A process that is gone is no error.
		if n, err := killTree(cmd.Process.Pid, c.id, deathTimeout); n != 0 || err != nil {
			t.Errorf("%s: after its end: %d, %v", name, n, err)
		}
	}
}

// hanging is an Engine that does not start execs, and then is gone.
type hanging struct{ Engine }

func (hanging) ExecCreate(context.Context, string, container.ExecOptions) (string, error) {
	return "e1", nil
}

func (hanging) ExecStart(ctx context.Context, _ string, _ bool, _ [2]uint) (*engine.Stream, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (hanging) ExecInspect(context.Context, string) (container.ExecInspect, error) {
	return container.ExecInspect{}, errdefs.ErrUnavailable
}

// TestTimeoutStaysOne: a timeout is one even if the process cannot be killed.
func TestTimeoutStaysOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, _, err := New(hanging{}).ExecSync(t.Context(), "c1", []string{"sleep"}, time.Second)
		if !errors.Is(err, context.DeadlineExceeded) || errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), errdefs.ErrUnavailable.Error()) {
			t.Errorf("%v; want a timeout that says what happened then", err)
		}
	})
}

// fakeEvents is an Engine with only events, whose connection breaks.
type fakeEvents struct {
	Engine
	calls  atomic.Int64
	events chan events.Message
	broken chan error
}

func (f *fakeEvents) Events(context.Context, filters.Args) (<-chan events.Message, <-chan error) {
	f.calls.Add(1)
	return f.events, f.broken
}

func TestRunFollowsEventsAcrossBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeEvents{events: make(chan events.Message), broken: make(chan error)}
		r := New(f)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		e, forget := r.watch("e1")
		for range 3 {
			f.broken <- io.ErrUnexpectedEOF
		}
		for _, attributes := range []map[string]string{{}, {"execID": "other"}, {"execID": "e1"}} {
			f.events <- events.Message{Actor: events.Actor{Attributes: attributes}}
		}
		<-e.done
		if n := f.calls.Load(); n != 4 {
			t.Errorf("%d connections, want 4", n)
		}
		forget()
		if len(r.running) > 0 {
			t.Error("a forgotten exec is kept")
		}
		stop()
		f.broken <- context.Canceled
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
