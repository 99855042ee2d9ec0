package nri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/backoff"
)

// ownSocket returns the path of the socket of the library's own. The library leaves the
// connections of plugins open at the end, so that a plugin would not notice it. Plugins
// therefore connect to another socket, and [forward] ends their connections.
func (p *Plugins) ownSocket() string { return p.cfg.SocketPath + ".own" }

// listen makes a socket for root only.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// The umask has kept others out so far: to connect is to write.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// forward connects who connects to l to the socket at path, until ctx ends. It closes l.
// It tries again if a connection cannot be accepted, as without free file descriptors.
func forward(ctx context.Context, l net.Listener, path string) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var g errgroup.Group
	pause := backoff.Backoff{Min: 5 * time.Millisecond, Max: time.Second}
	for {
		in, err := l.Accept()
		if err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
			klog.FromContext(ctx).Error(err, "Cannot accept the connection of an NRI plugin; trying again")
			_ = pause.Wait(ctx, nil)
			continue
		}
		if err != nil {
			err = errors.Join(err, g.Wait())
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("NRI: %w", err)
		}
		pause.Reset()
		g.Go(func() error {
			if err := pass(ctx, in, path); err != nil {
				klog.FromContext(ctx).Error(err, "Cannot connect an NRI plugin")
			}
			return nil
		})
	}
}

// pass copies between a connection and a new one to path, until one of them or ctx
// ends. It closes both.
func pass(ctx context.Context, in net.Conn, path string) error {
	defer func() { _ = in.Close() }()
	out, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return err
	}
	end := sync.OnceFunc(func() { _, _ = in.Close(), out.Close() })
	defer end()
	defer context.AfterFunc(ctx, end)()
	var both sync.WaitGroup
	for _, side := range []struct{ to, from net.Conn }{{in, out}, {out, in}} {
		both.Go(func() {
			defer end()
			_, _ = io.Copy(side.to, side.from)
		})
	}
	both.Wait()
	return nil
}
