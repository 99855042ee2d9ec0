package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/client"
	"k8s.io/klog/v2"
)

const (
	shortTimeout = 10 * time.Second
	longTimeout  = 2 * time.Minute
	// idleConnections limits the pool; dockerd itself applies no back-pressure.
	idleConnections = 64
	idleTimeout     = time.Minute
)

// Client talks to one Docker Engine. Its methods are safe for concurrent use.
type Client struct {
	endpoint string
	conn     atomic.Pointer[connection]
	caps     atomic.Pointer[Capabilities]
	observe  Observer
}

// connection is one negotiated pair of clients: calls share a connection pool;
// each stream has its own connection, tied to its context.
type connection struct {
	calls, streams *client.Client
}

// Observer is called after each call with its kind ("container inspect"),
// duration and error (nil on success).
type Observer func(kind string, took time.Duration, err error)

// New returns a client for an endpoint such as unix:///var/run/docker.sock. It
// does not connect. observe may be nil.
func New(endpoint string, observe Observer) (*Client, error) {
	if observe == nil {
		observe = func(string, time.Duration, error) {}
	}
	c := &Client{endpoint: endpoint, observe: observe}
	conn, err := c.connect()
	if err != nil {
		return nil, fmt.Errorf("docker endpoint %q: %w: %w", endpoint, errdefs.ErrInvalidArgument, err)
	}
	c.conn.Store(conn)
	return c, nil
}

// Endpoint returns the address given to New.
func (c *Client) Endpoint() string { return c.endpoint }

// Close closes idle connections.
func (c *Client) Close() error {
	conn := c.conn.Load()
	return errors.Join(conn.calls.Close(), conn.streams.Close())
}

// connect returns a new pair of clients, which negotiates at its first call. The
// Docker client only negotiates downwards, so an upgraded daemon needs a new
// pair.
func (c *Client) connect() (*connection, error) {
	pool := &http.Transport{MaxIdleConns: idleConnections, MaxIdleConnsPerHost: idleConnections, IdleConnTimeout: idleTimeout}
	calls, err := client.NewClientWithOpts(client.WithHTTPClient(&http.Client{Transport: pool}),
		client.WithHost(c.endpoint), client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, err
	}
	// A connection tied to one request must not serve another.
	single := &http.Transport{DisableKeepAlives: true}
	streams, err := client.NewClientWithOpts(client.WithHTTPClient(&http.Client{Transport: single}),
		client.WithHost(c.endpoint), client.WithAPIVersionNegotiation(), client.WithDialContext(dialTied(calls.Dialer())))
	if err != nil {
		return nil, err
	}
	return &connection{calls: calls, streams: streams}, nil
}

// dialTied returns a dialer whose connections are closed when their dial context
// ends: the Docker client's hijacked connections ignore the context.
func dialTied(dial func(context.Context) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		if half, ok := conn.(halfCloser); ok {
			return &tiedConn{halfCloser: half, stop: stop}, nil
		}
		return conn, nil
	}
}

type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// tiedConn releases its context hook when it is closed.
type tiedConn struct {
	halfCloser
	stop func() bool
}

func (t *tiedConn) Close() error {
	t.stop()
	return t.halfCloser.Close()
}

// call runs one request within timeout (zero: none); it counts and times it and
// classifies its error.
func (c *Client) call(ctx context.Context, kind string, timeout time.Duration, fn func(context.Context, *client.Client) error) error {
	return c.run(ctx, kind, timeout, c.conn.Load().calls, fn)
}

// stream is call for requests that take over their connection.
func (c *Client) stream(ctx context.Context, kind string, fn func(context.Context, *client.Client) error) error {
	return c.run(ctx, kind, 0, c.conn.Load().streams, fn)
}

func (c *Client) run(ctx context.Context, kind string, timeout time.Duration, cl *client.Client, fn func(context.Context, *client.Client) error) error {
	callCtx := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		callCtx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	start := time.Now()
	err := classify(ctx, c.endpoint, timeout, fn(callCtx, cl))
	took := time.Since(start)
	c.observe(kind, took, err)
	klog.FromContext(ctx).V(4).Info("Docker call", "call", kind, "duration", took, "err", err)
	return err
}

// classify adds the class of transport failures; the Docker client has already
// classified dockerd's own errors.
func classify(ctx context.Context, endpoint string, timeout time.Duration, err error) error {
	var netErr net.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		// The caller's context ended: report that, whatever the transport reported.
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("docker at %s did not answer within %v: %w: %w", endpoint, timeout, errdefs.ErrUnavailable, context.DeadlineExceeded)
	case client.IsErrConnectionFailed(err):
		return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &netErr):
		return fmt.Errorf("docker at %s closed the connection: %w: %w", endpoint, errdefs.ErrUnavailable, err)
	default:
		return ClassifyText(err)
	}
}

const (
	// diskFull is the system's text for ENOSPC, in errors of dockerd and of the
	// programs it runs. Seen on Docker 20.10, 26.1 and 28.5.
	diskFull = "no space left on device"
	// containerdAway ends dockerd's errors while its containerd restarts. Seen
	// on Docker 20.10 (transport is closing: unavailable), on 26.1 (error reading
	// from server: EOF: unavailable) and on both (connection error: desc =
	// "transport: ... connection refused": unavailable).
	containerdAway = ": unavailable"
)

// ClassifyText classifies an error by its text where dockerd gives nothing else:
// in responses with status 500 and in message streams. It returns nil for nil.
func ClassifyText(err error) error {
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), diskFull):
		return fmt.Errorf("%w: %w", errdefs.ErrResourceExhausted, err)
	case errdefs.IsInvalidArgument(err), errdefs.IsNotFound(err), errdefs.IsConflict(err):
		return err // its text contains names from the request, which could match below
	case strings.HasSuffix(err.Error(), containerdAway):
		return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
	}
	return err
}
