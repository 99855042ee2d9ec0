// Package unixsocket tells which process serves a unix socket, and a socket that is
// served from one that a killed process left behind.
package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dialTimeout bounds the attempt to connect.
const dialTimeout = time.Second

// Served reports whether a process listens on the stream socket that path leads to,
// also one that is too busy to accept connections. It returns false only if the kernel
// says that nobody listens, or that nothing is there; if it cannot tell, it returns an
// error.
func Served(ctx context.Context, path string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = conn.Close()
		return true, nil
	case errors.Is(err, syscall.EAGAIN): // its backlog is full
		return true, nil
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return false, nil
	default:
		return false, fmt.Errorf("cannot tell whether a process serves %s: %w", path, err)
	}
}

// Peer returns the PID of the process that serves the stream socket at path: the one
// that called listen, from the kernel (SO_PEERCRED, unix(7)). It is 0 for a process
// outside this PID namespace, and 1 for a service manager that passes the socket on.
func Peer(path string) (int, error) {
	conn, err := net.DialTimeout("unix", path, dialTimeout)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) {
		peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if peerErr != nil {
		return 0, fmt.Errorf("SO_PEERCRED of %s: %w", path, peerErr)
	}
	return int(peer.Pid), nil
}
