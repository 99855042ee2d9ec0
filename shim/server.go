package shim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/unixsocket"
	"github.com/cridock/cridock/shim/wire"
)

const (
	// maxMessage is the message limit, in bytes, of the kubelet's and containerd's CRI
	// clients and servers.
	maxMessage = 16 << 20
	// stopGrace is the default of Config.StopGrace.
	stopGrace = 10 * time.Second
	// connectTimeout is how long a new connection may take to open HTTP/2. A shutdown
	// waits that long for a client that sends nothing.
	connectTimeout = 5 * time.Second
	// streamWorkers is the number of goroutines that each serve one request after
	// another.
	streamWorkers = 4
)

// Listen creates the CRI socket for an endpoint of the form unix:///path, with mode
// 0660; a missing directory gets mode 0755. It replaces a socket that nobody listens
// on; a socket in use, or another file there, is errdefs.ErrAlreadyExists.
func Listen(ctx context.Context, endpoint string) (net.Listener, error) {
	path, ok := strings.CutPrefix(endpoint, "unix://")
	if !ok || !filepath.IsAbs(path) {
		return nil, fmt.Errorf("endpoint %q: %w: want unix:///absolute/path", endpoint, errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // as /run; the socket has its own mode
		return nil, fmt.Errorf("create the socket's directory: %w", err)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", endpoint, err)
	}
	if err := os.Chmod(path, 0o660); err != nil { //nolint:gosec // the group of the socket is root's, or who the administrator makes it
		return nil, errors.Join(fmt.Errorf("set the socket's mode: %w", err), l.Close())
	}
	return l, nil
}

// removeStale removes a socket that nobody listens on.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s: %w and is not a socket; remove it or choose another endpoint", path, errdefs.ErrAlreadyExists)
	}
	served, err := unixsocket.Served(ctx, path)
	if err != nil {
		return err
	}
	if served {
		return fmt.Errorf("%s: %w: another process serves it; stop that or choose another endpoint", path, errdefs.ErrAlreadyExists)
	}
	return os.Remove(path)
}

// loggingStream is a stream whose context has the server's logger.
type loggingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *loggingStream) Context() context.Context { return s.ctx }

// Serve serves CRI requests on l until ctx ends; running requests then have
// Config.StopGrace to finish.
func (s *Service) Serve(ctx context.Context, l net.Listener) error {
	logger := klog.FromContext(ctx)
	withLogger := func(ctx context.Context) context.Context { return klog.NewContext(ctx, logger) }
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(wire.NewCodec()),
		grpc.ConnectionTimeout(connectTimeout),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		// For the short reads, growing the stack of a new goroutine is a tenth of the
		// cost. When all workers are busy, requests get new goroutines as usual.
		grpc.NumStreamWorkers(streamWorkers),
		// Clients such as crictl ping more often than gRPC's default allows.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(s.metrics.interceptUnary, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			return interceptUnary(withLogger(ctx), req, info, h)
		}),
		grpc.ChainStreamInterceptor(s.metrics.interceptStream, func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return interceptStream(srv, &loggingStream{ss, withLogger(ss.Context())}, info, h)
		}),
	}
	if s.cfg.Tracing {
		// This joins the client's trace.
		opts = append(opts, grpc.StatsHandler(otelgrpc.NewServerHandler()))
	}
	srv := grpc.NewServer(opts...)
	srv.RegisterService(runtimeService(), s)
	runtimeapi.RegisterImageServiceServer(srv, s)

	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		force := time.AfterFunc(cmp.Or(s.cfg.StopGrace, stopGrace), srv.Stop)
		defer force.Stop()
		srv.GracefulStop()
	})
	err := srv.Serve(l)
	if !stop() {
		<-stopped
		return nil
	}
	return fmt.Errorf("serve CRI on %s: %w", l.Addr(), err)
}
