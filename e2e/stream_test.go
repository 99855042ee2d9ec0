package e2e

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
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/portclient"
)

// relay makes a streaming URL on the node's loopback reachable from the test.
func (c *cridock) relay(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var pipes sync.WaitGroup
	target := u.Host
	pipes.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			pipes.Go(func() { c.join(in, target) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); pipes.Wait() })
	u.Host = l.Addr().String()
	return u
}

// join connects a connection to an address of the node until both are closed.
func (c *cridock) join(in net.Conn, target string) {
	defer func() { _ = in.Close() }()
	var out net.Conn
	err := c.inNetNS(func() (err error) {
		out, err = (&net.Dialer{}).DialContext(context.Background(), "tcp", target)
		return err
	})
	if err != nil {
		return
	}
	defer func() { _ = out.Close() }()
	var both sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{in: out, out: in} {
		both.Go(func() {
			_, _ = io.Copy(to, from)
			_ = to.(*net.TCPConn).CloseWrite()
		})
	}
	both.Wait()
}

// executors are kubectl's clients, by protocol.
var executors = map[string]func(*url.URL) (remotecommand.Executor, error){
	"SPDY": func(u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(&rest.Config{Host: u.Host}, http.MethodPost, u)
	},
	"WebSocket": func(u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(&rest.Config{Host: u.Host}, http.MethodGet, u.String())
	},
}

// streamExec runs a command in a streaming session.
func (c *ctr) streamExec(ctx context.Context, t *testing.T, protocol string, o remotecommand.StreamOptions, cmd ...string) error {
	t.Helper()
	r := rpc(t, c.runtime.Exec, &runtimeapi.ExecRequest{
		ContainerId: c.id, Cmd: cmd, Tty: o.Tty, Stdin: o.Stdin != nil, Stdout: o.Stdout != nil, Stderr: o.Stderr != nil,
	})
	e, err := executors[protocol](c.relay(t, r.Url))
	if err != nil {
		t.Fatal(err)
	}
	return e.StreamWithContext(ctx, o)
}

func TestStreamExec(t *testing.T) {
	t.Parallel()
	sharedCridock(t, "cni").streamExecs(t)
}

// streamExecs runs commands in sessions of both protocols.
func (c *cridock) streamExecs(t *testing.T, options ...podOption) {
	main := c.runPod(t, options...).start("main", "sleep 1000")
	for protocol := range executors {
		t.Run(protocol, func(t *testing.T) {
			// All byte values, of a size that fills every buffer on the way, and an end of
			// input that the command sees.
			in := make([]byte, 4<<20)
			_, _ = rand.NewChaCha8([32]byte{}).Read(in) // never fails
			var out, errs bytes.Buffer
			err := main.streamExec(t.Context(), t, protocol, remotecommand.StreamOptions{Stdin: bytes.NewReader(in), Stdout: &out, Stderr: &errs}, "sh", "-c", "cat; echo done >&2")
			if err != nil || !bytes.Equal(out.Bytes(), in) || errs.String() != "done\n" {
				t.Errorf("%d of %d bytes came back, stderr %q, %v", out.Len(), len(in), &errs, err)
			}
			var code utilexec.CodeExitError
			err = main.streamExec(t.Context(), t, protocol, remotecommand.StreamOptions{Stdout: io.Discard}, "sh", "-c", "exit 42")
			if !errors.As(err, &code) || code.Code != 42 {
				t.Errorf("exit 42 arrives as %v", err)
			}
			err = main.streamExec(t.Context(), t, protocol, remotecommand.StreamOptions{Stdout: io.Discard, Stderr: &errs}, "/no/such/command")
			if !errors.As(err, &code) || code.Code != 126 && code.Code != 127 {
				t.Errorf("a missing command arrives as %v", err)
			}
			out.Reset()
			// Before API 1.42, Docker only accepts the size once the command runs.
			err = main.streamExec(t.Context(), t, protocol, remotecommand.StreamOptions{
				Stdout: &out, Tty: true, TerminalSizeQueue: &oneSize{width: 123, height: 45},
			}, "sh", "-c", `until [ -n "$(stty size 2>/dev/null)" ]; do sleep 0.1; done; stty size`)
			if err != nil || strings.TrimSpace(out.String()) != "45 123" {
				t.Errorf("the terminal's first size arrives as %q, %v", out.String(), err)
			}
		})
	}
}

// oneSize is a terminal that is never resized.
type oneSize struct {
	width, height uint16
	told          bool
}

func (s *oneSize) Next() *remotecommand.TerminalSize {
	if s.told {
		return nil
	}
	s.told = true
	return &remotecommand.TerminalSize{Width: s.width, Height: s.height}
}

// TestStreamExecDropped: no process outlives a client that has disconnected.
func TestStreamExecDropped(t *testing.T) {
	t.Parallel()
	main := sharedCridock(t, "cni").runPod(t).start("main", "sleep 1000")
	for protocol := range executors {
		ctx, leave := context.WithCancel(t.Context())
		started := &firstWrite{seen: make(chan struct{})}
		done := make(chan error, 1)
		go func() {
			in, _ := io.Pipe() // a terminal with no input
			done <- main.streamExec(ctx, t, protocol, remotecommand.StreamOptions{Stdin: in, Stdout: started, Tty: true}, "sh", "-c", "echo started; sleep 4720")
		}()
		select {
		case <-started.seen:
		case err := <-done:
			t.Fatalf("%s: the command ended before the client: %v", protocol, err)
		}
		leave()
		<-done //nolint:errcheck // it was told to leave
		eventually(t, "the command ends with its client", time.Minute, func() bool {
			return !strings.Contains(main.sh("ps -o args"), "sleep 4720")
		})
	}
}

// firstWrite signals the first write.
type firstWrite struct {
	once sync.Once
	seen chan struct{}
}

func (w *firstWrite) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.seen) })
	return len(p), nil
}

func TestStreamAttach(t *testing.T) {
	t.Parallel()
	sharedCridock(t, "cni").attaches(t)
}

// attaches has clients of both protocols attach to containers.
func (c *cridock) attaches(t *testing.T, options ...podOption) {
	for protocol := range executors {
		t.Run(protocol, func(t *testing.T) {
			main := c.runPod(t, options...).start("main", "while read line; do echo got $line; echo err $line >&2; done; echo end", func(cfg *runtimeapi.ContainerConfig) {
				cfg.Stdin, cfg.StdinOnce = true, true
			})
			// Another client only watches: it sees the first client's output.
			r := rpc(t, main.runtime.Attach, &runtimeapi.AttachRequest{ContainerId: main.id, Stdout: true})
			watcher, err := executors[protocol](main.relay(t, r.Url))
			if err != nil {
				t.Fatal(err)
			}
			seen := &firstWrite{seen: make(chan struct{})}
			watched := make(chan error, 1)
			go func() {
				watched <- watcher.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: seen})
			}()
			r = rpc(t, main.runtime.Attach, &runtimeapi.AttachRequest{ContainerId: main.id, Stdin: true, Stdout: true, Stderr: true})
			e, err := executors[protocol](main.relay(t, r.Url))
			if err != nil {
				t.Fatal(err)
			}
			in, typed := io.Pipe()
			go typeUntil(typed, seen.seen)
			var out, errs bytes.Buffer
			if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: &out, Stderr: &errs}); err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(out.String(), "got one\n") || !strings.HasSuffix(out.String(), "got two\nend\n") || !strings.HasSuffix(errs.String(), "err two\n") {
				t.Errorf("stdout %q, stderr %q", &out, &errs)
			}
			if err := <-watched; err != nil {
				t.Errorf("the second client's session: %v", err)
			}
			if s := main.exited(); s.ExitCode != 0 {
				t.Errorf("the container, whose input has ended, exits with %d", s.ExitCode)
			}
			if got := main.logText(); !strings.Contains(got, "got two") {
				t.Errorf("the log is %q", got)
			}
		})
	}
}

// typeUntil types a line again and again until its effect is seen, then a final
// one.
func typeUntil(w *io.PipeWriter, seen <-chan struct{}) {
	defer func() { _ = w.Close() }()
	for {
		if _, err := io.WriteString(w, "one\n"); err != nil {
			return
		}
		select {
		case <-seen:
			_, _ = io.WriteString(w, "two\n")
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func TestPortForward(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	t.Run("pod network", func(t *testing.T) { c.forwards(t, 8080) })
	t.Run("host network", func(t *testing.T) { c.forwards(t, 18090, hostNetwork) })
}

// forwards has clients of each protocol reach a port on a pod's loopback.
func (c *cridock) forwards(t *testing.T, port int, options ...podOption) {
	p := c.runPod(t, options...)
	p.start("web", fmt.Sprintf("echo hello >/tmp/index.html; exec httpd -f -p 127.0.0.1:%d -h /tmp", port))
	// Wait here: the clients end for good when nothing listens.
	p.output("client", fmt.Sprintf("for i in $(seq 600); do wget -qO- http://127.0.0.1:%d/ && exit; sleep 0.1; done; exit 1", port))
	for protocol, dial := range portclient.Protocols() {
		t.Run(protocol, func(t *testing.T) {
			r := rpc(t, p.runtime.PortForward, &runtimeapi.PortForwardRequest{PodSandboxId: p.id, Port: []int32{int32(port)}})
			local := portclient.Forward(t, dial, p.relay(t, r.Url), port)
			var body string
			eventually(t, "the web server answers", time.Minute, func() bool {
				resp, err := http.Get("http://" + local + "/")
				if err != nil {
					return false
				}
				defer func() { _ = resp.Body.Close() }()
				b, err := io.ReadAll(resp.Body)
				body = string(b)
				return err == nil && resp.StatusCode == http.StatusOK
			})
			if body != "hello\n" {
				t.Errorf("the answer is %q", body)
			}
		})
	}
}
