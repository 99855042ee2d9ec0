package streaming

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// dialTimeout bounds a connection attempt to a pod's localhost; only a packet
// filter inside the pod can make it slow.
const dialTimeout = 10 * time.Second

// dialLocalhost connects to a TCP port on localhost in a network namespace, nil
// for the host's; first over IPv4, then IPv6. The error is errdefs.ErrUnavailable
// if nothing listens.
func dialLocalhost(ctx context.Context, netns *os.File, port int32) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var conn net.Conn
	err := inNetNS(netns, func() (err error) {
		conn, err = dialFirst(ctx, port, "127.0.0.1", "::1")
		return err
	})
	if err != nil {
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

// inNetNS calls fn on a thread inside a network namespace, or directly if target
// is nil. fn must make its sockets on the goroutine that calls it.
func inNetNS(target *os.File, fn func() error) error {
	if target == nil {
		return fn()
	}
	result := make(chan error, 1)
	go func() { result <- enter(target, fn) }()
	return <-result
}

// enter must run on its own goroutine. If the thread cannot return to its
// namespace, it exits with the goroutine.
func enter(target *os.File, fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("network namespace: %w", err)
	}
	defer func() { _ = home.Close() }()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("network namespace %s: %w", target.Name(), err)
	}
	err = fn()
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}
