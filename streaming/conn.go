package streaming

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// statusTimeout bounds how long a client may take to receive the result of a
	// finished call.
	statusTimeout = 30 * time.Second
	// lingerTimeout bounds how long a closed connection waits for the client to
	// close its side; stopTimeout does so while the server stops.
	lingerTimeout = 10 * time.Second
	stopTimeout   = time.Second
	// watchPeriod is how often a connection is checked for a client that has closed
	// it while nobody reads.
	watchPeriod = 5 * time.Second
)

var errClientGone = errors.New("the client has closed the connection")

// upgrade is the ResponseWriter of one request. Its Hijack returns the connection
// as a clientConn. It has no Unwrap, through which cri-streaming would get the
// original ResponseWriter.
type upgrade struct {
	http.ResponseWriter
	// server ends when the server stops.
	server context.Context
	gone   context.CancelCauseFunc
	conn   atomic.Pointer[clientConn]
}

// Hijack implements [http.Hijacker].
func (u *upgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	// The kernel's keepalive finds clients whose machine has died.
	c := &clientConn{Conn: conn, buffered: rw.Reader, gone: u.gone}
	// Set in two steps: checkPeer uses the variable.
	c.watch = time.AfterFunc(time.Hour, c.checkPeer)
	c.watch.Reset(watchPeriod)
	c.unhook = context.AfterFunc(u.server, c.hurry)
	u.conn.Store(c)
	return c, bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c)), nil
}

// finish closes a hijacked connection after the handler has returned. Otherwise
// the server closes it, without waiting for data that the client has not sent.
func (u *upgrade) finish() {
	if c := u.conn.Load(); c != nil {
		c.finish()
		return
	}
	_ = http.NewResponseController(u.ResponseWriter).SetReadDeadline(time.Now())
}

// over must be called when the Runtime's call has returned.
func (u *upgrade) over() {
	if c := u.conn.Load(); c != nil {
		c.over()
	}
}

// abort closes a hijacked connection at once and ends its call.
func (u *upgrade) abort() {
	if c := u.conn.Load(); c != nil {
		c.lose()
		_ = c.Conn.Close()
	}
}

// refuse aborts the connection of a client that violates the protocol, while the
// call runs. Afterwards it does nothing: finish reads the connection too, so the
// protocol's reader may get fragments.
func (u *upgrade) refuse() {
	if c := u.conn.Load(); c != nil && !c.ended() {
		u.abort()
	}
}

// clientConn is an upgraded connection. It detects when the client disconnects and
// closes in an order that loses no data.
type clientConn struct {
	net.Conn
	// buffered returns what the HTTP server read beyond the request, then reads
	// Conn.
	buffered io.Reader
	gone     context.CancelCauseFunc
	watch    *time.Timer
	unhook   func() bool
	closing  sync.Once
	closeErr error
	lost     atomic.Bool

	// deadlines guards the following fields. Once the call is over, the protocol's
	// own deadlines are ignored.
	deadlines        sync.Mutex
	isOver, stopping bool
}

// Read implements [net.Conn]. The protocols here do not use half-closed
// connections, so an error or EOF means that the client is gone.
func (c *clientConn) Read(p []byte) (int, error) {
	n, err := c.buffered.Read(p)
	if err != nil {
		c.lose()
	}
	return n, err
}

func (c *clientConn) lose() {
	c.lost.Store(true)
	c.gone(errClientGone)
}

// checkPeer detects that the client is gone while nobody reads: input that no
// process reads blocks the protocol's reader before it gets to the end.
func (c *clientConn) checkPeer() {
	if peerClosed(c.Conn) {
		c.lose()
		return
	}
	c.watch.Reset(watchPeriod)
}

// peerClosed reports whether the other side has closed a TCP connection.
func peerClosed(conn net.Conn) bool {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = t.NetConn()
	}
	tcp, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		closed = err == nil && (info.State == unix.BPF_TCP_CLOSE_WAIT || info.State == unix.BPF_TCP_CLOSE)
	})
	return closed || err != nil
}

// Close closes the server's side only: a client that is still sending would
// otherwise get a reset, which makes it drop data not read yet. A protocol closes
// during the call only if the client said so.
func (c *clientConn) Close() error {
	c.closing.Do(func() {
		c.gone(errClientGone)
		if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && !c.lost.Load() {
			c.closeErr = half.CloseWrite()
			return
		}
		c.closeErr = c.Conn.Close()
	})
	return c.closeErr
}

// over bounds further writes: a client that does not read would hold the
// connection forever.
func (c *clientConn) over() {
	c.deadlines.Lock()
	defer c.deadlines.Unlock()
	if !c.isOver {
		c.isOver = true
		_ = c.Conn.SetWriteDeadline(time.Now().Add(statusTimeout))
	}
}

func (c *clientConn) ended() bool {
	c.deadlines.Lock()
	defer c.deadlines.Unlock()
	return c.isOver
}

// hurry gives the connection a moment to finish while the server stops.
func (c *clientConn) hurry() {
	c.deadlines.Lock()
	defer c.deadlines.Unlock()
	c.isOver, c.stopping = true, true
	_ = c.Conn.SetDeadline(time.Now().Add(stopTimeout))
}

func (c *clientConn) linger() {
	c.deadlines.Lock()
	defer c.deadlines.Unlock()
	if !c.stopping {
		_ = c.Conn.SetReadDeadline(time.Now().Add(lingerTimeout))
	}
}

// finish closes the connection and waits a limited time for the client to close
// its side.
func (c *clientConn) finish() {
	defer c.unhook()
	c.over()
	_ = c.Close()
	c.watch.Stop()
	if !c.lost.Load() {
		c.linger()
		// The protocol's reader may still be reading too; the data no longer
		// matters to either.
		_, _ = io.Copy(io.Discard, c.Conn)
	}
	_ = c.Conn.Close()
	// checkPeer may have reset it.
	c.watch.Stop()
}

// SetDeadline implements [net.Conn].
func (c *clientConn) SetDeadline(t time.Time) error { return c.setDeadline(c.Conn.SetDeadline, t) }

// SetReadDeadline implements [net.Conn].
func (c *clientConn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(c.Conn.SetReadDeadline, t)
}

// SetWriteDeadline implements [net.Conn].
func (c *clientConn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(c.Conn.SetWriteDeadline, t)
}

func (c *clientConn) setDeadline(set func(time.Time) error, t time.Time) error {
	c.deadlines.Lock()
	defer c.deadlines.Unlock()
	if c.isOver {
		return nil
	}
	return set(t)
}
