package streaming

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"golang.org/x/net/websocket"
	"golang.org/x/sync/semaphore"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

func (s *Server) servePortForward(up *upgrade, r *http.Request, request *runtimeapi.PortForwardRequest) {
	ctx, cancel := context.WithCancel(r.Context())
	f := &forwarder{ctx: ctx, runtime: s.runtime, sandboxID: request.PodSandboxId, files: s.files, limit: int64(max(1, s.config.MaxSessionFiles/forwardShare))}
	defer f.open.close()
	defer cancel()
	// The protocols stop reading when the connection closes, not when a context
	// ends.
	stop := context.AfterFunc(ctx, up.abort)
	defer stop()
	r = r.WithContext(ctx)
	switch {
	case wsstream.IsWebSocketRequestWithTunnelingProtocol(r):
		s.serveTunnel(up, r, f)
	case wsstream.IsWebSocketRequest(r):
		s.serveChannels(up, r, f, request.Port)
	default:
		s.serveStreams(up, r, f, up.refuse)
	}
}

// serveStreams serves a SPDY connection, hijacked from w: each forwarded
// connection has a pair of streams.
func (s *Server) serveStreams(w http.ResponseWriter, r *http.Request, f *forwarder, abort func()) {
	if _, err := httpstream.Handshake(r, w, portforward.SupportedProtocols); err != nil {
		return // the client has been told
	}
	pairs := &streamPairs{f: f, abort: abort, timeout: s.config.CreationTimeout, waiting: make(map[string]*streamPair)}
	defer pairs.close()
	// Streams can arrive before UpgradeResponse returns the connection.
	pairs.mu.Lock()
	pairs.conn = spdy.NewResponseUpgrader().UpgradeResponse(spdyUpgrade{w, abort}, r, pairs.add)
	pairs.mu.Unlock()
	if pairs.conn == nil {
		return // likewise
	}
	defer func() { _ = pairs.conn.Close() }()
	pairs.conn.SetIdleTimeout(s.config.IdleTimeout)
	select {
	case <-pairs.conn.CloseChan():
	case <-f.ctx.Done():
	}
}

// serveTunnel serves SPDY inside a WebSocket connection, as used by kubectl
// port-forward: the concatenated messages are a SPDY connection.
func (s *Server) serveTunnel(up *upgrade, r *http.Request, f *forwarder) {
	server := websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error {
			if !slices.Contains(c.Protocol, portforward.WebsocketsSPDYTunnelingPortForwardV1) {
				return fmt.Errorf("protocols %q are not supported, only %q is", c.Protocol, portforward.WebsocketsSPDYTunnelingPortForwardV1)
			}
			c.Protocol = []string{portforward.WebsocketsSPDYTunnelingPortForwardV1}
			return nil
		},
		Handler: func(ws *websocket.Conn) {
			ws.PayloadType = websocket.BinaryFrame
			inner := r.Clone(r.Context())
			inner.Header = http.Header{}
			inner.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
			inner.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
			inner.Header.Set(httpstream.HeaderProtocolVersion, portforward.ProtocolV1Name)
			s.serveStreams(&tunnel{conn: ws, header: http.Header{}}, inner, f, up.refuse)
		},
	}
	server.ServeHTTP(up, r)
}

// tunnel is the ResponseWriter of a SPDY request whose client expects no answer to
// the upgrade: none is sent.
type tunnel struct {
	conn   net.Conn
	header http.Header
}

func (t *tunnel) Header() http.Header         { return t.header }
func (t *tunnel) WriteHeader(int)             {}
func (t *tunnel) Write(p []byte) (int, error) { return len(p), nil }

// Hijack implements [http.Hijacker].
func (t *tunnel) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.conn, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), nil
}

// maxChannelPorts is how many ports the channel numbers have room for.
const maxChannelPorts = 100

// serveChannels serves a WebSocket connection with two channels for each port of
// the CRI request, for data and errors. The first message on each is the port's
// number.
func (s *Server) serveChannels(up *upgrade, r *http.Request, f *forwarder, ports []int32) {
	if len(ports) > maxChannelPorts {
		http.Error(up, fmt.Sprintf("%d ports, want at most %d", len(ports), maxChannelPorts), http.StatusBadRequest)
		return
	}
	var channels []wsstream.ChannelType
	for range ports {
		channels = append(channels, wsstream.ReadWriteChannel, wsstream.WriteChannel)
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		"": {Binary: true, Channels: channels},
		"v4." + wsstream.ChannelWebSocketProtocol:       {Binary: true, Channels: channels},
		"v4." + wsstream.Base64ChannelWebSocketProtocol: {Binary: false, Channels: channels},
	})
	conn.SetIdleTimeout(s.config.IdleTimeout)
	_, streams, err := conn.Open(webSocketUpgrade{up, up.refuse}, r)
	if err != nil {
		klog.FromContext(r.Context()).V(2).Info("WebSocket request was not upgraded", "err", err)
		return
	}
	defer func() { _ = conn.Close() }()
	var forwards sync.WaitGroup
	for i, port := range ports {
		data, errs := streams[2*i], streams[2*i+1]
		number := binary.LittleEndian.AppendUint16(nil, uint16(port)) //nolint:gosec // it was checked
		for _, channel := range []io.Writer{data, errs} {
			if _, err := channel.Write(number); err != nil {
				return
			}
		}
		forwards.Go(func() {
			defer func() { _, _ = data.Close(), errs.Close() }()
			if err := f.forward(port, data); err != nil {
				_, _ = io.WriteString(errs, err.Error())
			}
		})
	}
	forwards.Wait()
}

// forwarder connects a client's streams to ports of its pod.
type forwarder struct {
	// ctx is that of the client's connection.
	ctx       context.Context
	runtime   Runtime
	sandboxID string
	// files is the server's; this client may use up to limit of them.
	files *semaphore.Weighted
	limit int64
	used  atomic.Int64
	open  sessions
}

var errTooManyConnections = fmt.Errorf("too many connections are open: %w", errdefs.ErrResourceExhausted)

// forward connects a stream to a port until both directions have ended. The error
// is for the client.
func (f *forwarder) forward(port int32, stream io.ReadWriteCloser) error {
	if !f.open.begin() {
		return nil
	}
	defer f.open.end()
	err := f.connect(port, stream)
	if err == nil || f.ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("error forwarding port %d to pod %s: %w", port, f.sandboxID, err)
}

func (f *forwarder) connect(port int32, stream io.ReadWriteCloser) error {
	logger := klog.FromContext(f.ctx).WithValues("sandboxID", f.sandboxID, "port", port)
	defer f.used.Add(-1)
	if f.used.Add(1) > f.limit || !f.files.TryAcquire(1) {
		logger.Info("Port not forwarded, too many connections are open", "maxConnections", f.limit)
		return errTooManyConnections
	}
	defer f.files.Release(1)
	conn, err := f.dial(port)
	if err != nil {
		if f.ctx.Err() == nil {
			logger.Info("Port not forwarded", "err", err)
		}
		return err
	}
	defer func() { _ = conn.Close() }()
	err = splice(f.ctx, conn, stream)
	if err != nil {
		logger.V(2).Info("Forwarded connection failed", "err", err)
	}
	return err
}

func (f *forwarder) dial(port int32) (*net.TCPConn, error) {
	netns, err := f.runtime.NetNS(f.ctx, f.sandboxID)
	if err != nil {
		return nil, err
	}
	if netns != nil {
		defer func() { _ = netns.Close() }()
	}
	return dialLocalhost(f.ctx, netns, port)
}

// splice copies in both directions until both have ended, forwarding each EOF, or
// until one fails or ctx ends.
func splice(ctx context.Context, conn *net.TCPConn, stream io.ReadWriteCloser) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	fromClient := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, stream)
		fromClient <- errors.Join(err, conn.CloseWrite())
	}()
	if _, err := io.Copy(stream, conn); err != nil {
		// The other direction ends when the caller resets the stream.
		return err
	}
	if _, ok := stream.(httpstream.Stream); !ok {
		// A WebSocket channel cannot be closed in one direction.
		return nil
	}
	if err := stream.Close(); err != nil {
		return err
	}
	select {
	case <-fromClient: //nolint:errcheck // its error adds nothing
		// The pod may have closed before it read everything, as any server may.
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
