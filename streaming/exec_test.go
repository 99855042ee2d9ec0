package streaming

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/leakcheck"
)

// clients are kubectl's and crictl's.
var clients = map[string]func(*rest.Config, *url.URL) (remotecommand.Executor, error){
	"SPDY": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(c, http.MethodPost, u)
	},
	"SPDY v2": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		transport, upgrader, err := spdyTransport(c)
		if err != nil {
			return nil, err
		}
		return remotecommand.NewSPDYExecutorForProtocols(transport, upgrader, http.MethodPost, u, "v2.channel.k8s.io")
	},
	"WebSocket v5": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(c, http.MethodGet, u.String())
	},
	"WebSocket v4": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutorForProtocols(c, http.MethodGet, u.String(), "v4.channel.k8s.io")
	},
}

// each runs a test with each client.
func each(t *testing.T, test func(t *testing.T, client func(*url.URL) remotecommand.Executor, name string)) {
	for name, make := range clients {
		t.Run(name, func(t *testing.T) {
			test(t, func(u *url.URL) remotecommand.Executor {
				e, err := make(&rest.Config{Host: u.Host, TLSClientConfig: rest.TLSClientConfig{}}, u)
				if err != nil {
					t.Fatal(err)
				}
				return e
			}, name)
		})
	}
}

func TestExecStreams(t *testing.T) {
	each(t, func(t *testing.T, client func(*url.URL) remotecommand.Executor, name string) {
		s := start(t, Config{}, &fakeRuntime{exec: func(_ context.Context, id string, cmd []string, s Streams) error {
			if id != "c1" || !slices.Equal(cmd, []string{"swap", "x"}) || s.TTY || s.Resize != nil {
				return fmt.Errorf("got %s %q %+v", id, cmd, s)
			}
			if _, err := io.Copy(s.Stdout, s.Stdin); err != nil {
				return err
			}
			_, err := io.WriteString(s.Stderr, "done")
			return err
		}})
		if name == "WebSocket v4" {
			t.Skip("the protocol cannot close stdin alone")
		}
		// All byte values, enough to fill every buffer on the way.
		in := make([]byte, 4<<20)
		_, _ = rand.NewChaCha8([32]byte{}).Read(in) // never fails
		var out, errs bytes.Buffer
		u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c1", Cmd: []string{"swap", "x"}, Stdin: true, Stdout: true, Stderr: true})
		err := client(u).StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: bytes.NewReader(in), Stdout: &out, Stderr: &errs})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), in) || errs.String() != "done" {
			t.Errorf("%d of %d bytes came back, stderr %q", out.Len(), len(in), &errs)
		}
	})
}

func TestExecOnlyAskedStreams(t *testing.T) {
	each(t, func(t *testing.T, client func(*url.URL) remotecommand.Executor, _ string) {
		s := start(t, Config{}, &fakeRuntime{exec: func(_ context.Context, _ string, _ []string, s Streams) error {
			if s.Stdin != nil || s.Stdout == nil || s.Stderr != nil {
				return fmt.Errorf("streams %+v", s)
			}
			return nil
		}})
		u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true})
		if err := client(u).StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard}); err != nil {
			t.Error(err)
		}
	})
}

func TestExecStdinAlone(t *testing.T) {
	each(t, func(t *testing.T, client func(*url.URL) remotecommand.Executor, name string) {
		got := make(chan string, 1)
		s := start(t, Config{}, &fakeRuntime{exec: func(_ context.Context, _ string, _ []string, s Streams) error {
			if s.Stdout != nil || s.Stderr != nil {
				return fmt.Errorf("streams %+v", s)
			}
			b := make([]byte, 2)
			_, err := io.ReadFull(s.Stdin, b)
			got <- string(b)
			return err
		}})
		u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdin: true})
		if err := client(u).StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("hi")}); err != nil {
			t.Error(err)
		}
		if in := <-got; in != "hi" {
			t.Errorf("stdin %q", in)
		}
	})
}

// A process may exit before it has read its input; its output must arrive
// anyway, even if the client is still sending.
func TestExecOutputSurvivesUnreadInput(t *testing.T) {
	each(t, func(t *testing.T, client func(*url.URL) remotecommand.Executor, _ string) {
		want := strings.Repeat("output", 100000)
		s := start(t, Config{}, &fakeRuntime{exec: func(_ context.Context, _ string, _ []string, s Streams) error {
			_, err := io.ReadFull(s.Stdin, make([]byte, 10))
			if err == nil {
				_, err = io.WriteString(s.Stdout, want)
			}
			return errors.Join(err, ExitError(3))
		}})
		for range 20 {
			var out bytes.Buffer
			u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdin: true, Stdout: true})
			err := client(u).StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: bytes.NewReader(make([]byte, 8<<20)), Stdout: &out})
			if err == nil || !strings.Contains(err.Error(), "code 3") || out.String() != want {
				t.Fatalf("%d of %d bytes, %v", out.Len(), len(want), err)
			}
		}
	})
}

func TestExecExitCode(t *testing.T) {
	each(t, func(t *testing.T, client func(*url.URL) remotecommand.Executor, name string) {
		for _, code := range []int{1, 126, 127, 137, 255} {
			s := start(t, Config{}, &fakeRuntime{exec: func(context.Context, string, []string, Streams) error {
				return fmt.Errorf("wrapped: %w", ExitError(code))
			}})
			u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true})
			err := client(u).StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard})
			var exit utilexec.CodeExitError
			// Protocols before version 4 only have a text.
			if name == "SPDY v2" && err != nil && strings.Contains(err.Error(), fmt.Sprintf("exit code %d", code)) {
				continue
			}
			if !errors.As(err, &exit) || exit.Code != code {
				t.Errorf("exit code %d arrives as %v", code, err)
			}
		}
	})
}

func TestExecError(t *testing.T) {
	each(t, func(t *testing.T, client func(*url.URL) remotecommand.Executor, _ string) {
		s := start(t, Config{}, &fakeRuntime{exec: func(context.Context, string, []string, Streams) error {
			return errors.New("the engine is away")
		}})
		u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true})
		err := client(u).StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "the engine is away") {
			t.Errorf("got %v", err)
		}
	})
}

// sizes are the sizes of a client's terminal.
type sizes []remotecommand.TerminalSize

func (s *sizes) Next() *remotecommand.TerminalSize {
	if len(*s) == 0 {
		return nil
	}
	next := (*s)[0]
	*s = (*s)[1:]
	return &next
}

func TestTerminalSizes(t *testing.T) {
	each(t, func(t *testing.T, client func(*url.URL) remotecommand.Executor, name string) {
		if name == "SPDY v2" {
			t.Skip("the protocol has no sizes")
		}
		want := []Size{{Width: 80, Height: 24}, {Width: 132, Height: 50}}
		for _, kind := range []string{"exec", "attach"} {
			run := func(_ context.Context, s Streams) error {
				if !s.TTY {
					return errors.New("no TTY")
				}
				for _, w := range want {
					if got := <-s.Resize; got != w {
						return fmt.Errorf("size %+v, want %+v", got, w)
					}
				}
				return nil
			}
			s := start(t, Config{}, &fakeRuntime{
				exec:   func(ctx context.Context, _ string, _ []string, s Streams) error { return run(ctx, s) },
				attach: func(ctx context.Context, _ string, s Streams) error { return run(ctx, s) },
			})
			u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Tty: true, Stdout: true})
			if kind == "attach" {
				resp, err := s.Attach(&runtimeapi.AttachRequest{ContainerId: "c", Tty: true, Stdout: true})
				if err != nil {
					t.Fatal(err)
				}
				u = parse(t, resp.Url)
			}
			err := client(u).StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard, Tty: true,
				TerminalSizeQueue: &sizes{{Width: 80, Height: 24}, {Width: 132, Height: 50}}})
			if err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
	})
}

func TestAttach(t *testing.T) {
	each(t, func(t *testing.T, client func(*url.URL) remotecommand.Executor, _ string) {
		s := start(t, Config{}, &fakeRuntime{attach: func(_ context.Context, id string, s Streams) error {
			_, err := io.WriteString(s.Stdout, id)
			return err
		}})
		resp, err := s.Attach(&runtimeapi.AttachRequest{ContainerId: "c7", Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := client(parse(t, resp.Url)).StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff("c7", out.String()); diff != "" {
			t.Error(diff)
		}
	})
}

// When a client disconnects, the call's context is cancelled, whichever streams
// it has, and nothing is left behind.
func TestDroppedClients(t *testing.T) {
	quiet := leakcheck.Now(t)
	each(t, func(t *testing.T, client func(*url.URL) remotecommand.Executor, _ string) {
		var started, ended atomic.Int64
		s := start(t, Config{}, &fakeRuntime{exec: func(ctx context.Context, _ string, _ []string, s Streams) error {
			started.Add(1)
			defer ended.Add(1)
			if _, err := io.WriteString(s.Stdout, "ready"); err != nil {
				return err
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}})
		const total, parallel = 130, 13
		var wg sync.WaitGroup
		for range parallel {
			wg.Go(func() {
				for i := range total / parallel {
					ctx, drop := context.WithCancel(t.Context())
					tty := i%2 == 0
					u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdin: i%3 == 0, Stdout: true, Tty: tty})
					o := remotecommand.StreamOptions{Stdout: writerFunc(func(p []byte) (int, error) { drop(); return len(p), nil }), Tty: tty}
					if i%3 == 0 {
						o.Stdin = blockingReader{ctx}
					}
					if err := client(u).StreamWithContext(ctx, o); !errors.Is(err, context.Canceled) {
						t.Errorf("dropped client: %v", err)
					}
					drop()
				}
			})
		}
		wg.Wait()
		eventually(t, "all calls have ended", func() bool { return ended.Load() == total })
	})
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	quiet.Await(t, time.Minute)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// blockingReader is a terminal without input.
type blockingReader struct{ ctx context.Context }

func (b blockingReader) Read([]byte) (int, error) { <-b.ctx.Done(); return 0, io.EOF }

// Input that nobody reads hides the end of the connection behind it.
func TestDroppedClientWithInputInFlight(t *testing.T) {
	each(t, func(t *testing.T, client func(*url.URL) remotecommand.Executor, _ string) {
		t.Parallel()
		ended, ready, sent := make(chan struct{}), make(chan struct{}), make(chan struct{})
		s := start(t, Config{}, &fakeRuntime{exec: func(ctx context.Context, _ string, _ []string, s Streams) error {
			defer close(ended)
			close(ready)
			<-ctx.Done()
			return nil
		}})
		ctx, drop := context.WithCancel(t.Context())
		defer drop()
		left := 4 // times 32 KiB: more than the protocol's reader accepts, less than the kernel buffers
		in := readerFunc(func(p []byte) (int, error) {
			if left--; left < 0 {
				close(sent)
				<-ctx.Done()
				return 0, io.EOF
			}
			return len(p), nil
		})
		u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdin: true, Stdout: true})
		go func() {
			_ = client(u).StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: io.Discard})
		}()
		<-ready
		<-sent
		drop()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Error("the call does not end")
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A client that does not read its output is cut off once the call is over.
func TestStuckClientWhenServerStops(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	stuck := make(chan struct{})
	s, err := New(Config{}, &fakeRuntime{exec: func(ctx context.Context, _ string, _ []string, s Streams) error {
		go func() {
			defer close(stuck)
			for p := make([]byte, 1<<16); ; {
				if _, err := s.Stdout.Write(p); err != nil {
					return
				}
			}
		}()
		<-ctx.Done()
		return context.Cause(ctx)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true})
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\nOrigin: http://x\r\n\r\n", u.Path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	stop()
	for _, end := range []<-chan struct{}{stuck} {
		select {
		case <-end:
		case <-time.After(20 * time.Second):
			t.Fatal("a stuck client holds the call")
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
