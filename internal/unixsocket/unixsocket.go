// Package unixsocket tells a unix socket that a process serves from one that a killed
// process left behind.
package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"
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
