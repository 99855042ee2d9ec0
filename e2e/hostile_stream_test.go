package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var streamAttacks = []attack{
	{"a streaming URL is used twice", tokenTwice},
	{"a session is dropped half way", halfSessions},
}

func tokenTwice(t *testing.T, p *pod) {
	main := p.start("twice", "exec sleep 100000")
	for protocol, dial := range executors {
		r := rpc(t, p.runtime.Exec, &runtimeapi.ExecRequest{ContainerId: main.id, Cmd: []string{"sh", "-c", "echo ran >>/ran-" + protocol}, Stdout: true})
		u := main.relay(t, r.Url)
		for i := range 2 {
			e, err := dial(u)
			if err != nil {
				t.Fatal(err)
			}
			if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard}); (err == nil) != (i == 0) {
				t.Errorf("%s: use %d of a URL: %v", protocol, i+1, err)
			}
		}
		if got := main.sh("cat /ran-" + protocol); got != "ran" {
			t.Errorf("%s: it has printed %q", protocol, got)
		}
		// Nor for another kind of session.
		r = rpc(t, p.runtime.Exec, &runtimeapi.ExecRequest{ContainerId: main.id, Cmd: []string{"true"}, Stdout: true})
		for _, kind := range []string{"attach", "portforward", "exec"} {
			answer, err := p.http().Post(strings.Replace(r.Url, "/exec/", "/"+kind+"/", 1), "", nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			if answer.StatusCode != http.StatusNotFound {
				t.Errorf("%s: %s", kind, answer.Status)
			}
		}
	}
}

// halfSessions disconnects between the request for a session and its streams,
// and after an incomplete request.
func halfSessions(t *testing.T, p *pod) {
	main := p.start("half", "exec sleep 100000")
	for i, request := range []string{
		"POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n",
		"GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
		"POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n",
	} {
		r := rpc(t, p.runtime.Exec, &runtimeapi.ExecRequest{ContainerId: main.id, Cmd: []string{"sh", "-c", "echo ran >/ran; exec sleep 4730"}, Stdin: true, Stdout: true})
		u, err := url.Parse(r.Url)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := p.dial(t.Context(), "tcp", u.Host)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, request, u.Path); err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			_ = conn.SetReadDeadline(time.Now().Add(patience)) // only a net.Conn has deadlines
			first := make([]byte, 12)
			if _, err := io.ReadFull(conn, first); err != nil || string(first) != "HTTP/1.1 101" {
				t.Errorf("request %d is answered with %q, %v", i, first, err)
			}
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "no command outlives its client", patience, func() bool { return !strings.Contains(main.sh("ps -o args"), "sleep 4730") })
	var out bytes.Buffer
	if err := main.streamExec(t.Context(), t, "SPDY", remotecommand.StreamOptions{Stdout: &out}, "echo", "works"); err != nil || out.String() != "works\n" {
		t.Errorf("a whole session: %q, %v", out.String(), err)
	}
}

const (
	// hostileMetrics is where cridock serves its metrics, on the node's loopback.
	hostileMetrics = "127.0.0.1:9471"
	// halfOpen is the number of connections that a local user opens to each port.
	halfOpen = 600
	// fileLimit is a common limit of open files per process.
	fileLimit = 1024
)

// starve has a local user open connections that never send what they announce.
func starve(t *testing.T, c *cridock) {
	main := c.runPod(t).start("main", "exec sleep 100000")
	r := rpc(t, c.runtime.Exec, &runtimeapi.ExecRequest{ContainerId: main.id, Cmd: []string{"true"}, Stdout: true})
	u, err := url.Parse(r.Url)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := c.process()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: fileLimit, Max: fileLimit}, nil); err != nil {
		t.Fatal(err)
	}
	for address, request := range map[string]string{
		u.Host:         "POST /exec/none HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
		hostileMetrics: "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
	} {
		defer c.openHalf(t, address, request)()
	}
	for range 10 {
		c.checkServes(t)
		if got := main.in(t).sh("echo works"); got != "works" {
			t.Errorf("exec printed %q", got)
		}
	}
	// A session may have to wait until cridock closes some of the connections.
	var last error
	for end := time.Now().Add(2 * patience); ; time.Sleep(100 * time.Millisecond) {
		var out bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		last = main.in(t).streamExec(ctx, t, "SPDY", remotecommand.StreamOptions{Stdout: &out}, "echo", "works")
		cancel()
		if last == nil && out.String() == "works\n" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("a streaming session fails: %v", last)
		}
		c.checkServes(t)
	}
}

// openHalf opens connections that all send the same, and returns a function
// that closes them.
func (c *cridock) openHalf(t *testing.T, address, request string) (closeAll func()) {
	t.Helper()
	var conns []net.Conn
	closeAll = func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}
	err := c.inNetNS(func() error {
		for range halfOpen {
			conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", address)
			if err != nil {
				return err
			}
			conns = append(conns, conn)
			if _, err := io.WriteString(conn, request); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		// Refused or closed: that is a limit too.
		t.Logf("%d connections to %s, then %v", len(conns), address, err)
	}
	return closeAll
}

// checkServes makes a call over a new connection.
func (c *cridock) checkServes(t *testing.T) {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+c.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := client.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		t.Fatalf("Version: %v", err)
	}
	if _, err := client.ListContainers(ctx, &runtimeapi.ListContainersRequest{}); err != nil {
		t.Fatalf("ListContainers: %v", err)
	}
}
