package guard

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cridock/cridock/internal/needs"
)

func listen(t *testing.T, addr string, limit int) *Listener {
	t.Helper()
	inner, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	l := Listen(inner.(*net.TCPListener), limit)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// open connects from an address and accepts the connection.
func open(t *testing.T, l *Listener, from string) (client net.Conn, server *Conn) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	client, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return client, conn.(*Conn)
}

// isOpen reports whether the server still has its side of a connection open.
func isOpen(t *testing.T, server *Conn) bool {
	t.Helper()
	if err := server.SetWriteDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return false
	}
	_, err := server.Write([]byte("x"))
	return err == nil
}

func TestOldestIsShed(t *testing.T) {
	l := listen(t, "127.0.0.1:0", 3)
	var conns []*Conn
	for range 5 {
		_, c := open(t, l, "127.0.0.1")
		conns = append(conns, c)
	}
	for i, c := range conns {
		if got, want := isOpen(t, c), i >= 2; got != want {
			t.Errorf("connection %d is open: %t, want %t", i, got, want)
		}
	}
	if l.Pending() != 3 {
		t.Errorf("%d connections count, want 3", l.Pending())
	}
	if Vouch(conns[0]) || !Vouch(conns[2]) {
		t.Error("a connection that was shed is vouched for, or one that was not is not")
	}
	_ = conns[3].Close()
	if l.Pending() != 1 {
		t.Errorf("%d connections count, want the one that is left", l.Pending())
	}
	// The one that was vouched for survives any flood.
	for range 10 {
		open(t, l, "127.0.0.1")
	}
	if !isOpen(t, conns[2]) {
		t.Error("a connection that was vouched for was shed")
	}
}

// A peer that floods loses its own connections, not those of earlier peers.
func TestPeerWithTheMostIsShed(t *testing.T) {
	l := listen(t, "127.0.0.1:0", 4)
	_, quiet := open(t, l, "127.0.0.1")
	quiet.peer = "somebody else"
	for range 20 {
		open(t, l, "127.0.0.1")
	}
	if !isOpen(t, quiet) {
		t.Error("a peer with one connection was driven out by one with many")
	}
	if l.Pending() != 4 {
		t.Errorf("%d connections count, want 4", l.Pending())
	}
}

// helperAddr names the environment variable with the address that the test's
// child process connects to.
const helperAddr = "GUARD_TEST_ADDR"

func TestMain(m *testing.M) {
	if addr := os.Getenv(helperAddr); addr != "" {
		if conn, err := net.Dial("tcp", addr); err == nil {
			_, _ = io.Copy(io.Discard, conn)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestPeers(t *testing.T) {
	needs.That(t, openSocketUsers().fd >= 0, "the kernel has no socket diagnostics")
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0"} {
		l := listen(t, addr, 10)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		target := l.Addr().String()
		if addr == "[::]:0" {
			target = "127.0.0.1:" + port
		}
		client, err := net.Dial("tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := server.(*Conn).peer, "uid "+strconv.Itoa(os.Getuid()); got != want {
			t.Errorf("%s: peer %q, want %q", addr, got, want)
		}
		_, _ = client.Close(), server.Close()
	}
}

func TestPeerIsAnotherUser(t *testing.T) {
	needs.Root(t, "becomes another user")
	l := listen(t, "127.0.0.1:0", 10)
	needs.That(t, l.users.fd >= 0, "the kernel has no socket diagnostics")
	// A copy that the other user can execute.
	binary := "/proc/self/exe"
	child := exec.Command(binary)
	child.Env = []string{helperAddr + "=" + l.Addr().String()}
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4242, Gid: 4242}}
	err := child.Start()
	needs.That(t, err == nil, "another user cannot run the test: %v", err)
	_ = l.SetDeadline(time.Now().Add(20 * time.Second))
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.(*Conn).peer; got != "uid 4242" {
		t.Errorf("peer %q, want uid 4242", got)
	}
	_ = conn.Close()
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}

// The kernel reports root as the user of a closed socket; nobody may pass as
// root that way.
func TestClosedSocketHasNoUser(t *testing.T) {
	l := listen(t, "127.0.0.1:0", 10)
	client, server := open(t, l, "127.0.0.1")
	from, to := client.LocalAddr().(*net.TCPAddr).AddrPort(), client.RemoteAddr().(*net.TCPAddr).AddrPort()
	_ = client.Close()
	if _, err := io.ReadAll(server); err != nil {
		t.Fatal(err)
	}
	if uid, err := l.users.find(from, to); !errors.Is(err, errNoUser) {
		t.Errorf("user %d, %v", uid, err)
	}
	if uid, err := l.users.find(netip.MustParseAddrPort("127.0.0.1:1"), to); !errors.Is(err, errNoUser) {
		t.Errorf("user %d of a socket that never was, %v", uid, err)
	}
}

// Without the kernel's help, the whole machine is one peer.
func TestUnknownUsersAreOnePeer(t *testing.T) {
	l := listen(t, "127.0.0.1:0", 10)
	_ = l.users.close()
	_, a := open(t, l, "127.0.0.1")
	_, b := open(t, l, "127.0.0.2")
	if a.peer != b.peer || a.peer != "a local user" {
		t.Errorf("peers %q and %q", a.peer, b.peer)
	}
}
