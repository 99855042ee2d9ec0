package streaming

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/httpstream" //nolint:staticcheck // what client-go takes
	"k8s.io/client-go/tools/portforward"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/leakcheck"
	"github.com/cridock/cridock/internal/needs"
	"github.com/cridock/cridock/internal/netns"
	"github.com/cridock/cridock/internal/portclient"
)

// newNetNS creates a network namespace with loopback up and returns its path.
func newNetNS(t *testing.T) string {
	t.Helper()
	needs.Root(t, "makes a network namespace")
	type result struct {
		ns  *os.File
		err error
	}
	made := make(chan result)
	go func() {
		home, err := os.Open("/proc/self/ns/net")
		if err != nil {
			made <- result{err: err}
			return
		}
		defer func() { _ = home.Close() }()
		made <- func() (r result) {
			runtime.LockOSThread()
			if r.err = unix.Unshare(unix.CLONE_NEWNET); r.err != nil {
				return r
			}
			if r.err = loopbackUp(); r.err == nil {
				r.ns, r.err = os.Open("/proc/thread-self/ns/net")
			}
			// A thread that cannot be switched back exits, unless it is the process's first
			// thread, which represents the process in /proc.
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			return r
		}()
	}()
	r := <-made
	if r.err != nil {
		t.Fatalf("make a network namespace: %v", r.err)
	}
	t.Cleanup(func() { _ = r.ns.Close() })
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(r.ns.Fd())))
}

// openNS opens a namespace of newNetNS; "" is the host's.
func openNS(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	return os.Open(path)
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// listenIn serves connections on an address inside a network namespace.
func listenIn(t *testing.T, path, addr string, serve func(*net.TCPConn)) int {
	t.Helper()
	ns, err := openNS(path)
	if err != nil {
		t.Fatal(err)
	}
	if ns != nil {
		defer func() { _ = ns.Close() }()
	}
	var l net.Listener
	err = netns.Do(ns, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer func() { _ = c.Close() }()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); open.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

func eachPortClient(t *testing.T, test func(t *testing.T, forward func(s *Server, port int) (local string))) {
	for name, dial := range portclient.Protocols() {
		t.Run(name, func(t *testing.T) {
			test(t, func(s *Server, port int) string { return forwardPort(t, s, dial, port) })
		})
	}
}

// forwardPort runs a client until the test ends and returns its local address.
func forwardPort(t *testing.T, s *Server, dial portclient.Dial, port int) string {
	t.Helper()
	resp, err := s.PortForward(&runtimeapi.PortForwardRequest{PodSandboxId: "pod", Port: []int32{int32(port)}})
	if err != nil {
		t.Fatal(err)
	}
	return portclient.Forward(t, dial, parse(t, resp.Url), port)
}

func connect(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

func podIn(path string) *fakeRuntime {
	return &fakeRuntime{netns: func(_ context.Context, id string) (*os.File, error) {
		if id != "pod" {
			return nil, fmt.Errorf("unknown pod %q", id)
		}
		return openNS(path)
	}}
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

func TestPortForward(t *testing.T) {
	pod := newNetNS(t)
	eachPortClient(t, func(t *testing.T, forward func(*Server, int) string) {
		for name, where := range map[string]struct{ netns, addr string }{
			"IPv4":         {pod, "127.0.0.1:0"},
			"IPv6":         {pod, "[::1]:0"},
			"both":         {pod, "[::]:0"},
			"host network": {"", "127.0.0.1:0"},
		} {
			port := listenIn(t, where.netns, where.addr, echo)
			local := forward(start(t, Config{}, podIn(where.netns)), port)
			// Many in parallel, each with its own content and half-closed.
			var clients sync.WaitGroup
			for i := range 50 {
				c := connect(t, local)
				clients.Go(func() {
					want := strings.Repeat(fmt.Sprint(i), 10000)
					go func() {
						_, _ = io.WriteString(c, want)
						_ = c.CloseWrite()
					}()
					got, err := io.ReadAll(c)
					if err != nil || string(got) != want {
						t.Errorf("%s, connection %d: %d of %d bytes, %v", name, i, len(got), len(want), err)
					}
				})
			}
			clients.Wait()
		}
	})
}

// TestOpened counts sessions: one for all connections of a client.
func TestOpened(t *testing.T) {
	port := listenIn(t, "", "127.0.0.1:0", echo)
	eachPortClient(t, func(t *testing.T, forward func(*Server, int) string) {
		var open, all atomic.Int32
		t.Cleanup(func() {
			if open.Load() != 0 {
				t.Errorf("%d sessions are open after the server's end", open.Load())
			}
		})
		s := start(t, Config{Opened: func(kind string) func() {
			if kind != "portforward" {
				t.Errorf("a session of kind %q", kind)
			}
			open.Add(1)
			all.Add(1)
			return func() { open.Add(-1) }
		}}, podIn(""))
		local := forward(s, port)
		for range 2 {
			c := connect(t, local)
			_, _ = io.WriteString(c, "x")
			_ = c.CloseWrite()
			if got, err := io.ReadAll(c); err != nil || string(got) != "x" {
				t.Errorf("answer %q, %v", got, err)
			}
			if open.Load() != 1 || all.Load() != 1 {
				t.Errorf("%d sessions are open of %d, want one", open.Load(), all.Load())
			}
		}
	})
}

func TestPortForwardHalfClose(t *testing.T) {
	pod := newNetNS(t)
	eachPortClient(t, func(t *testing.T, forward func(*Server, int) string) {
		// Answers only when the client has closed its side.
		port := listenIn(t, pod, "127.0.0.1:0", func(c *net.TCPConn) {
			in, _ := io.ReadAll(c)
			_, _ = fmt.Fprintf(c, "%d bytes", len(in))
		})
		local := forward(start(t, Config{}, podIn(pod)), port)
		c := connect(t, local)
		if _, err := c.Write(make([]byte, 12345)); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "12345 bytes" {
			t.Errorf("answer %q, %v", got, err)
		}
	})
}

func TestPortForwardVolume(t *testing.T) {
	total := int64(1 << 30)
	if testing.Short() || raceDetector {
		total = 32 << 20
	}
	pod := newNetNS(t)
	eachPortClient(t, func(t *testing.T, forward func(*Server, int) string) {
		received := make(chan [32]byte, 1)
		port := listenIn(t, pod, "127.0.0.1:0", func(c *net.TCPConn) {
			h := sha256.New()
			_, _ = io.Copy(h, c)
			received <- [32]byte(h.Sum(nil))
			_, _ = io.CopyN(c, rand.NewChaCha8([32]byte{2}), total)
		})
		local := forward(start(t, Config{}, podIn(pod)), port)
		c := connect(t, local)
		began := time.Now()
		sent, answer := sha256.New(), sha256.New()
		if _, err := io.CopyN(io.MultiWriter(c, sent), rand.NewChaCha8([32]byte{1}), total/8); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got := <-received; got != [32]byte(sent.Sum(nil)) {
			t.Error("the pod received something else")
		}
		if n, err := io.Copy(answer, c); err != nil || n != total {
			t.Errorf("%d of %d bytes came back: %v", n, total, err)
		}
		t.Logf("%d MiB from and %d MiB to the pod in %v", total>>20, total>>23, time.Since(began))
		want := sha256.New()
		_, _ = io.CopyN(want, rand.NewChaCha8([32]byte{2}), total)
		if [32]byte(answer.Sum(nil)) != [32]byte(want.Sum(nil)) {
			t.Error("the client received something else")
		}
	})
}

func TestPortForwardNothingListens(t *testing.T) {
	pod := newNetNS(t)
	ns, err := openNS(pod)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ns.Close() }()
	_, err = dialLocalhost(t.Context(), ns, 4242)
	if err == nil || !strings.Contains(err.Error(), "nothing listens on port 4242") {
		t.Errorf("got %v", err)
	}
	for name, dial := range portclient.Protocols() {
		if got := forwardError(t, start(t, Config{}, podIn(pod)), dial, 4242); !strings.Contains(got, "nothing listens on port 4242") {
			t.Errorf("%s: the client is told %q", name, got)
		}
	}
}

// forwardError returns what the server tells a client about a port.
func forwardError(t *testing.T, s *Server, dial func(*url.URL) (httpstream.Dialer, error), port int) string {
	t.Helper()
	resp, err := s.PortForward(&runtimeapi.PortForwardRequest{PodSandboxId: "pod"})
	if err != nil {
		t.Fatal(err)
	}
	dialer, err := dial(parse(t, resp.Url))
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	headers := http.Header{"Port": {strconv.Itoa(port)}, "Requestid": {"1"}, "Streamtype": {"error"}}
	errs, err := conn.CreateStream(headers)
	if err != nil {
		t.Fatal(err)
	}
	headers.Set("streamType", "data")
	if _, err := conn.CreateStream(headers); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(errs)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

// Threads return to the host's network namespace.
func TestThreadsComeBack(t *testing.T) {
	pod, err := openNS(newNetNS(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pod.Close() }()
	home, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var calls sync.WaitGroup
	for range 50 {
		calls.Go(func() { _, _ = dialLocalhost(t.Context(), pod, 4242) })
	}
	calls.Wait()
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(threads) == 0 {
		t.Fatal(err)
	}
	eventually(t, "all threads are in the host's network namespace", func() bool {
		for _, thread := range threads {
			if ns, err := os.Readlink(thread); err == nil && ns != home {
				return false
			}
		}
		return true
	})
}

// When a client disconnects, its connections into the pod are closed, even if
// the pod would keep them open forever.
func TestPortForwardDroppedClient(t *testing.T) {
	pod := newNetNS(t)
	quiet := leakcheck.Now(t)
	for name, dial := range portclient.Protocols() {
		t.Run(name, func(t *testing.T) {
			opened, closed := make(chan struct{}, 100), make(chan struct{}, 100)
			port := listenIn(t, pod, "127.0.0.1:0", func(c *net.TCPConn) {
				opened <- struct{}{}
				// Ignores, as some servers do, that the client has closed its side.
				for err := error(nil); err == nil; time.Sleep(time.Millisecond) {
					_, err = c.Write([]byte("tick"))
				}
				closed <- struct{}{}
			})
			s := start(t, Config{}, podIn(pod))
			t.Run("client", func(t *testing.T) {
				local := forwardPort(t, s, dial, port)
				for range 20 {
					_ = connect(t, local)
				}
				for range 20 {
					<-opened
				}
			})
			for range 20 {
				select {
				case <-closed:
				case <-time.After(time.Minute):
					t.Fatal("a connection into the pod stays open")
				}
			}
		})
	}
	quiet.Await(t, time.Minute)
}

// When the server stops, its clients are disconnected.
func TestPortForwardServerStops(t *testing.T) {
	pod := newNetNS(t)
	arrived := make(chan struct{}, len(portclient.Protocols()))
	port := listenIn(t, pod, "127.0.0.1:0", func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		arrived <- struct{}{}
		_, _ = io.Copy(io.Discard, c)
	})
	for name, dial := range portclient.Protocols() {
		ctx, stop := context.WithCancel(t.Context())
		s, err := New(Config{}, podIn(pod))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Listen(ctx); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		local := forwardPort(t, s, dial, port)
		c := connect(t, local)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		<-arrived
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: Run: %v", name, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s: Run does not end", name)
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("%s: the connection stays open: %v", name, err)
		}
	}
}
