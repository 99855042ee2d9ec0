// Package guard keeps clients without credentials from using up a server's
// connections, and with them the process's file descriptors.
//
// A [Listener] bounds the connections that nobody has vouched for. It never stops
// accepting: otherwise whoever fills it would lock out everybody else. Instead,
// for each connection above the bound it closes the oldest one of the peer with
// the most such connections. A client that sends its request at once is served
// before its connection can become the oldest, and a peer that floods the server
// only evicts itself.
//
// A peer is an IPv4 address or an IPv6 /64. Local addresses identify nobody, as
// anyone can use all of 127.0.0.0/8: there the peer is the user who owns the
// other end, from the kernel's socket diagnostics. /proc/net/tcp has the same
// information, but each lookup would read the whole flood. Clients whose user
// cannot be determined count as one peer.
package guard

import (
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Listener is a TCP listener with a bound on connections not vouched for. It is
// safe for concurrent use.
type Listener struct {
	*net.TCPListener
	max   int
	users *socketUsers

	mu sync.Mutex
	// pending are the connections that nobody has vouched for, oldest first.
	pending []*Conn
}

// Listen wraps a listener: at most limit of its connections wait for Vouch at any
// time. Closing the Listener closes inner, but no connections.
func Listen(inner *net.TCPListener, limit int) *Listener {
	return &Listener{TCPListener: inner, max: max(limit, 1), users: openSocketUsers()}
}

// Conn is an accepted connection.
type Conn struct {
	*net.TCPConn
	listener *Listener
	peer     string
	// shed is true if the connection was closed to make room; guarded by
	// listener.mu.
	shed bool
}

// Accept waits for a connection. It may close an older one.
func (l *Listener) Accept() (net.Conn, error) {
	conn, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	c := &Conn{TCPConn: conn, listener: l, peer: l.peerOf(conn)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = append(l.pending, c)
	if len(l.pending) > l.max {
		l.shed()
	}
	return c, nil
}

// shed closes the oldest connection of the peer that has the most.
func (l *Listener) shed() {
	count := make(map[string]int, len(l.pending))
	for _, c := range l.pending {
		count[c.peer]++
	}
	victim := 0
	for i, c := range l.pending {
		if count[c.peer] > count[l.pending[victim].peer] {
			victim = i
		}
	}
	c := l.pending[victim]
	l.pending = slices.Delete(l.pending, victim, victim+1)
	c.shed = true
	_ = c.SetLinger(0) // free the kernel's resources at once too
	_ = c.TCPConn.Close()
}

// Close stops listening.
func (l *Listener) Close() error {
	return errors.Join(l.TCPListener.Close(), l.users.close())
}

// Pending returns the number of open connections that nobody has vouched for.
func (l *Listener) Pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending)
}

// forget removes a connection from the list and reports whether it was not shed.
func (l *Listener) forget(c *Conn) (open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.pending, c); i >= 0 {
		l.pending = slices.Delete(l.pending, i, i+1)
	}
	return !c.shed
}

// Close closes the connection.
func (c *Conn) Close() error {
	c.listener.forget(c)
	return c.TCPConn.Close()
}

// Vouch marks a connection's client as authorized: the connection no longer counts
// towards the bound. conn was accepted by a [Listener], or is TLS on such a
// connection. It returns false if the connection was closed to make room.
func Vouch(conn net.Conn) bool {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = t.NetConn()
	}
	c, ok := conn.(*Conn)
	return !ok || c.listener.forget(c)
}

// peerOf returns the name of the peer whose connections are counted together.
func (l *Listener) peerOf(conn *net.TCPConn) string {
	remote, local := conn.RemoteAddr().(*net.TCPAddr), conn.LocalAddr().(*net.TCPAddr)
	if remote.IP.IsLoopback() || remote.IP.Equal(local.IP) {
		uid, err := l.users.find(remote.AddrPort(), local.AddrPort())
		if err != nil {
			return "a local user"
		}
		return fmt.Sprintf("uid %d", uid)
	}
	if ip := remote.IP.To4(); ip != nil {
		return ip.String()
	}
	return remote.IP.Mask(net.CIDRMask(64, 128)).String()
}

// FileLimit returns the number of files that this process may have open.
func FileLimit() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 1024 // systemd's default soft limit
	}
	return int(min(limit.Cur, math.MaxInt32))
}
