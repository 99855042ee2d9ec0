package streaming

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/leakcheck"
	"github.com/cridock/cridock/internal/needs"
	"github.com/cridock/cridock/internal/testca"
	"github.com/cridock/cridock/streaming/guard"
)

// floods are the incomplete requests for which a client without a token can
// make the server wait.
var floods = map[string]string{
	"nothing":            "",
	"header":             "POST /exec/unknown HTTP/1.1\r\nHost: x\r\nX-Slow: ",
	"body":               "POST /exec/unknown HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
	"chunked body":       "POST /exec/unknown HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
	"body, other path":   "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
	"body, other method": "PUT /exec/unknown HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
	"expect":             "POST /exec/unknown HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n",
	"upgrade":            "GET /exec/unknown HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n",
}

// flood opens connections that send the start of a request and then nothing,
// and returns those that the server has not refused at once.
func flood(t *testing.T, addr, send string, count int) []net.Conn {
	t.Helper()
	var conns []net.Conn
	for range count {
		conn, err := net.DialTimeout("tcp", addr, 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, _ = io.WriteString(conn, send) // it may be closed already
		conns = append(conns, conn)
	}
	return conns
}

// closed waits until the server has closed a connection.
func closed(conn net.Conn, timeout time.Duration) error {
	_ = conn.SetReadDeadline(time.Now().Add(timeout))
	_, err := io.Copy(io.Discard, conn)
	if os.IsTimeout(err) {
		return err
	}
	return nil // closed regularly or reset
}

const floodSize = 300

func TestFlood(t *testing.T) {
	for name, send := range floods {
		t.Run(name, func(t *testing.T) {
			quiet := leakcheck.Now(t)
			t.Run("flooded", func(t *testing.T) {
				const bound = 20
				s := start(t, Config{MaxWaiting: bound, RequestTimeout: 5 * time.Second}, echoRuntime())
				before := leakcheck.OpenFiles(t)
				conns := flood(t, s.URL().Host, send, floodSize)
				eventually(t, "the server's side of the flood is within its bound", func() bool {
					return leakcheck.OpenFiles(t)-before-len(conns) <= bound
				})
				// On a busy machine, the timeout also ends a valid request.
				err := tryEcho(t, s)
				for end := time.Now().Add(time.Minute); err != nil && time.Now().Before(end); {
					err = tryEcho(t, s)
				}
				if err != nil {
					t.Error(err)
				}
				for i, conn := range conns {
					if err := closed(conn, time.Minute); err != nil {
						t.Fatalf("connection %d is still open: %v", i, err)
					}
				}
			})
			quiet.Await(t, time.Minute)
		})
	}
}

// attackAddr names the environment variable with the address that the test's
// child process floods.
const attackAddr = "STREAMING_TEST_ATTACK"

func TestMain(m *testing.M) {
	if addr := os.Getenv(attackAddr); addr != "" {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		attack(ctx, addr)
		cancel()
		return
	}
	os.Exit(m.Run())
}

// A valid token is served while another user floods the server.
func TestExecDuringFlood(t *testing.T) {
	needs.Root(t, "becomes another user")
	quiet := leakcheck.Now(t)
	t.Run("flooded", func(t *testing.T) {
		s := start(t, Config{MaxWaiting: 64}, echoRuntime())
		var attackers []*exec.Cmd
		for range 2 {
			child := exec.Command("/proc/self/exe")
			child.Env = []string{attackAddr + "=" + s.URL().Host}
			child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4242, Gid: 4242}}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			attackers = append(attackers, child)
		}
		eventually(t, "as many connections as may wait do", func() bool { return s.listener.(*guard.Listener).Pending() >= 64 })
		for range 10 {
			execEcho(t, s)
		}
		for _, child := range attackers {
			_ = child.Process.Kill()
			_ = child.Wait()
		}
	})
	quiet.Await(t, time.Minute)
}

// attack keeps up to 100 connections open until ctx is cancelled.
func attack(ctx context.Context, addr string) {
	var conns []net.Conn
	for ctx.Err() == nil {
		conn, err := net.DialTimeout("tcp", addr, 20*time.Second)
		if err != nil {
			break
		}
		_, _ = io.WriteString(conn, floods["header"])
		time.Sleep(time.Millisecond) // two attackers must leave the server a processor
		if conns = append(conns, conn); len(conns) > 100 {
			time.Sleep(10 * time.Millisecond) // the server must accept faster than they come
			_ = conns[0].Close()
			conns = conns[1:]
		}
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// A connection with a wrong token is closed, even if its request is incomplete.
func TestWrongTokenIsClosedAtOnce(t *testing.T) {
	s := start(t, Config{RequestTimeout: time.Hour}, echoRuntime())
	for name, send := range floods {
		if name == "nothing" || name == "header" {
			continue
		}
		conn := flood(t, s.URL().Host, send, 1)[0]
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		answer, err := io.ReadAll(conn)
		if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 40")) || !bytes.Contains(answer, []byte("Connection: close")) {
			t.Errorf("%s: answer %q, %v", name, answer, err)
		}
	}
}

// A silent connection is closed at the deadline, with or without TLS.
func TestRequestTimeout(t *testing.T) {
	ca := testca.New(t, "ca")
	_, config := tlsServer(t, ca, nil)
	config.RequestTimeout = 100 * time.Millisecond
	hasty := start(t, config, echoRuntime())
	plain := start(t, Config{RequestTimeout: 100 * time.Millisecond}, echoRuntime())
	for name, addr := range map[string]string{"plain": plain.URL().Host, "before the handshake": hasty.URL().Host} {
		if err := closed(flood(t, addr, "", 1)[0], 20*time.Second); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	trusting := &tls.Config{RootCAs: ca.Pool()}
	conn, err := tls.Dial("tcp", hasty.URL().Host, trusting)
	for err != nil && config.RequestTimeout < 10*time.Second { // a slow machine needs more for the handshake
		config.RequestTimeout *= 2
		conn, err = tls.Dial("tcp", start(t, config, echoRuntime()).URL().Host, trusting)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := closed(conn, 20*time.Second); err != nil {
		t.Errorf("after the handshake: %v", err)
	}
}

// Endless headers cannot exhaust memory.
func TestLongHeader(t *testing.T) {
	s := start(t, Config{}, echoRuntime())
	conn := flood(t, s.URL().Host, "GET / HTTP/1.1\r\nHost: x\r\nX-Long: ", 1)[0]
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	for sent := 0; ; sent += 1 << 10 {
		if sent > 1<<20 {
			t.Fatal("a megabyte of headers is taken")
		}
		if _, err := io.WriteString(conn, strings.Repeat("x", 1<<10)); err != nil {
			return
		}
		if sent == 128<<10 {
			answer, err := io.ReadAll(conn)
			if err == nil && !bytes.Contains(answer, []byte("431")) {
				t.Errorf("answer %q", answer)
			}
			return
		}
	}
}

// Running sessions do not count against the limit for new connections, and vice
// versa.
func TestSessionsAndWaitingAreCountedApart(t *testing.T) {
	release := make(chan struct{})
	s := start(t, Config{MaxWaiting: 2, MaxSessionFiles: 8}, &fakeRuntime{exec: func(ctx context.Context, _ string, _ []string, s Streams) error {
		if _, err := io.WriteString(s.Stdout, "ready"); err != nil {
			return err
		}
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}})
	begin := func() (ready chan struct{}, done chan error) {
		ready, done = make(chan struct{}, 1), make(chan error, 1)
		u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true})
		e, err := clients["SPDY"](restConfig(u), u)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			done <- e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: writerFunc(func(p []byte) (int, error) {
				ready <- struct{}{}
				return len(p), nil
			})})
		}()
		return ready, done
	}
	var ends []chan error
	for range 4 {
		ready, done := begin()
		<-ready
		ends = append(ends, done)
	}
	flood(t, s.URL().Host, floods["header"], 20)
	if _, done := begin(); !strings.Contains(fmt.Sprint(<-done), "too many streaming sessions") {
		t.Error("a fifth session of two files has begun, 8 files are allowed")
	}
	close(release)
	for _, done := range ends {
		if err := <-done; err != nil {
			t.Errorf("a session that ran during the flood: %v", err)
		}
	}
	// The sessions' files have been closed.
	eventually(t, "a session begins", func() bool {
		_, done := begin()
		return <-done == nil
	})
}

func TestDefaultBounds(t *testing.T) {
	s, err := New(Config{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c := s.config; c.MaxWaiting < 1 || c.MaxWaiting > mostWaiting || c.MaxSessionFiles < 1 || c.MaxSessionFiles > mostSessions {
		t.Errorf("bounds %d and %d", c.MaxWaiting, c.MaxSessionFiles)
	}
}

func echoRuntime() *fakeRuntime {
	return &fakeRuntime{exec: func(_ context.Context, _ string, _ []string, s Streams) error {
		_, err := io.Copy(s.Stdout, s.Stdin)
		return err
	}}
}

// execEcho runs one exec with a valid token, which must succeed.
func execEcho(t *testing.T, s *Server) {
	t.Helper()
	if err := tryEcho(t, s); err != nil {
		t.Error(err)
	}
}

// tryEcho runs one exec with a valid token.
func tryEcho(t *testing.T, s *Server) error {
	t.Helper()
	u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"cat"}, Stdin: true, Stdout: true})
	e, err := clients["SPDY"](restConfig(u), u)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	err = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out})
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if err != nil {
		return fmt.Errorf("exec with a valid token: %q, %w", &out, err)
	}
	if out.String() != "hello" {
		return fmt.Errorf("exec with a valid token: %q", &out)
	}
	return nil
}

// rawSPDY starts an exec over SPDY and returns the connection.
func rawSPDY(t *testing.T, s *Server, request *runtimeapi.ExecRequest) net.Conn {
	t.Helper()
	u := execURL(t, s, request)
	conn := flood(t, u.Host, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n", u.Path), 1)[0]
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if answer := make([]byte, 12); true {
		if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "HTTP/1.1 101" {
			t.Fatalf("answer %q, %v", answer, err)
		}
	}
	return conn
}

// A client that has a token but opens no streams is disconnected.
func TestCreationTimeout(t *testing.T) {
	quiet := leakcheck.Now(t)
	t.Run("session", func(t *testing.T) {
		s := start(t, Config{CreationTimeout: 100 * time.Millisecond}, &fakeRuntime{exec: func(context.Context, string, []string, Streams) error {
			return errors.New("the call has begun")
		}})
		conn := rawSPDY(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true})
		if err := closed(conn, 20*time.Second); err != nil {
			t.Error(err)
		}
	})
	quiet.Await(t, time.Minute)
}
