package streaming

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cridock/cridock/internal/netns"
)

// dialTimeout bounds a connection attempt to a pod's localhost; only a packet
// filter inside the pod can make it slow.
const dialTimeout = 10 * time.Second

// dialLocalhost connects to a TCP port on localhost in a network namespace, nil
// for the host's; first over IPv4, then IPv6. The error is errdefs.ErrUnavailable
// if nothing listens.
func dialLocalhost(ctx context.Context, target *os.File, port int32) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var conn net.Conn
	err := netns.Do(target, func() (err error) {
		conn, err = dialFirst(ctx, port, "127.0.0.1", "::1")
		return err
	})
	if err != nil {
		if conn != nil { // connected, but the thread could not come back
			_ = conn.Close()
		}
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// dialFirst connects to the first address that accepts. Addresses must be literal:
// for a name, other threads would resolve it and make the socket.
func dialFirst(ctx context.Context, port int32, addrs ...string) (net.Conn, error) {
	var d net.Dialer
	var errs []error
	for _, addr := range addrs {
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(addr, strconv.Itoa(int(port))))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	if err := errs[0]; errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("nothing listens on port %d of %v in the pod: %w: %w", port, addrs, errdefs.ErrUnavailable, err)
	}
	return nil, errors.Join(errs...)
}
