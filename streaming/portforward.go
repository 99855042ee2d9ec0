package streaming

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"

	"golang.org/x/net/websocket"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

func (s *Server) servePortForward(up *upgrade, r *http.Request, request *runtimeapi.PortForwardRequest) {
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		s.serveTunnel(up, r, request)
		return
	}
	s.forwardPorts(up, up, r, request)
}

// forwardPorts serves a port-forward connection that w hands out.
func (s *Server) forwardPorts(up *upgrade, w http.ResponseWriter, r *http.Request, request *runtimeapi.PortForwardRequest) {
	ctx, cancel := context.WithCancel(r.Context())
	f := &forwarder{ctx: ctx, runtime: s.runtime}
	defer f.open.close()
	defer cancel()
	// cri-streaming serves until the connection ends, whatever the context says.
	stop := context.AfterFunc(r.Context(), up.abort)
	defer stop()
	portforward.ServePortForward(w, r, f, request.PodSandboxId, "", &portforward.V4Options{Ports: request.Port},
		s.config.IdleTimeout, s.config.CreationTimeout, portforward.SupportedProtocols)
}

// serveTunnel serves SPDY inside a WebSocket connection, as kubectl
// port-forward speaks it: the messages' contents in order are a SPDY
// connection.
func (s *Server) serveTunnel(up *upgrade, r *http.Request, request *runtimeapi.PortForwardRequest) {
	server := websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error {
			if !slices.Contains(c.Protocol, portforward.WebsocketsSPDYTunnelingPortForwardV1) {
				return fmt.Errorf("protocols %q are not supported, %q is", c.Protocol, portforward.WebsocketsSPDYTunnelingPortForwardV1)
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
			s.forwardPorts(up, &tunnel{conn: ws, header: http.Header{}}, inner, request)
		},
	}
	server.ServeHTTP(up, r)
}

// tunnel is the ResponseWriter of a SPDY request whose upgrade the client takes
// for granted: no answer is sent.
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

// forwarder connects the streams of one client to ports of its pod.
type forwarder struct {
	// ctx is that of the client's connection; cri-streaming passes none.
	ctx     context.Context
	runtime Runtime
	open    sessions
}

// PortForward implements [portforward.PortForwarder].
func (f *forwarder) PortForward(_ context.Context, podSandboxID, _ string, port int32, stream io.ReadWriteCloser) error {
	if !f.open.begin() {
		return nil
	}
	defer f.open.end()
	netns, err := f.runtime.NetNS(f.ctx, podSandboxID)
	if err != nil {
		return err
	}
	conn, err := dialLocalhost(f.ctx, netns, port)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	err = splice(f.ctx, conn, stream)
	if f.ctx.Err() != nil {
		klog.FromContext(f.ctx).V(4).Info("Port-forward ended with its client", "sandboxID", podSandboxID, "port", port, "err", err)
		return nil
	}
	return err
}

// splice copies in both directions until both have ended, passing each end on,
// or until one fails or ctx ends.
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
	case <-fromClient: //nolint:errcheck // its own error says no more
		// The pod may have closed before it took everything, as any server may.
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
