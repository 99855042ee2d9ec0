package streaming

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/semaphore"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/tlsfiles"
	"github.com/cridock/cridock/streaming/guard"
)

const (
	// DefaultAddr is a free port on loopback.
	DefaultAddr = "127.0.0.1:0"
	// DefaultIdleTimeout is the kubelet's default (streamingConnectionIdleTimeout).
	DefaultIdleTimeout = 4 * time.Hour

	// DefaultRequestTimeout bounds how long receiving a request and sending its
	// answer may take, each.
	DefaultRequestTimeout = 10 * time.Second

	// maxHeader bounds a request's headers, in bytes. No client sends a body.
	maxHeader = 32 << 10
)

// Bounds where the configuration sets none: an absolute one, and a share of the
// limit of open files, so that files stay free for the CRI and its Docker
// connections.
const (
	mostWaiting, waitingShare   = 256, 16
	mostSessions, sessionsShare = 4096, 2
	// forwardShare is the divisor for one port-forward client's share of
	// MaxSessionFiles.
	forwardShare = 4
)

// Config configures a [Server].
type Config struct {
	// Addr is the host:port to listen on, [DefaultAddr] if empty. URLs contain the
	// bound address, or loopback instead of a wildcard.
	Addr string
	// CertFile and KeyFile enable TLS; set both or none. They are read again when
	// they change.
	CertFile, KeyFile string
	// ClientCAFile, with TLS, requires clients to have a certificate from one of
	// these authorities. It is read again when it changes.
	ClientCAFile string
	// IdleTimeout is how long a connection may be idle before it is closed;
	// [DefaultIdleTimeout] if zero.
	IdleTimeout time.Duration
	// CreationTimeout bounds how long a SPDY client may take to open its
	// streams, 30 s if zero.
	CreationTimeout time.Duration
	// RequestTimeout bounds each of the TLS handshake, receiving a whole request,
	// and sending an answer that starts no session; [DefaultRequestTimeout] if
	// zero.
	RequestTimeout time.Duration
	// MaxWaiting bounds the connections without a token yet. For each one above,
	// the user or address with the most of them loses its oldest. If zero, 256 or
	// a sixteenth of the process's limit of open files, whichever is less.
	MaxWaiting int
	// MaxSessionFiles bounds the files that sessions have open: an exec or attach
	// has two, a port-forward client one and one for each of its connections.
	// Sessions and connections above it are refused. If zero, 4096 or half of the
	// process's limit of open files, whichever is less.
	MaxSessionFiles int
	// Opened is called when a session starts, with its kind: exec, attach, or
	// portforward (one session for all ports of a client). The returned function
	// is called when the session ends. Opened may be nil.
	Opened func(kind string) (closed func())
}

// Size is the size of a terminal, in characters.
type Size = remotecommand.TerminalSize

// Streams are the streams the client asked for; the others are nil.
type Streams struct {
	// Stdin returns io.EOF when the client closes it or disconnects. A read may
	// block until the Runtime's call has returned.
	Stdin          io.Reader
	Stdout, Stderr io.WriteCloser
	TTY            bool
	// Resize delivers the client's terminal sizes, in order; there may be none.
	// It is nil without TTY.
	Resize <-chan Size
}

// Runtime runs the calls of a [Server]. Their contexts end when the client
// disconnects or the server stops.
type Runtime interface {
	// Exec runs a command until it exits. It returns nil for exit code 0; for any
	// other code an error that is or wraps a k8s.io/utils/exec.ExitError.
	Exec(ctx context.Context, containerID string, cmd []string, s Streams) error
	// Attach connects to a container's main process until that exits.
	Attach(ctx context.Context, containerID string, s Streams) error
	// NetNS opens a pod's network namespace; the caller closes it. nil means the
	// host's.
	NetNS(ctx context.Context, podSandboxID string) (*os.File, error)
}

// Server serves streaming requests. Its methods are safe for concurrent use.
type Server struct {
	config  Config
	runtime Runtime
	tokens  tokens
	tls     *tls.Config
	// files counts the files that sessions have open.
	files *semaphore.Weighted

	mu       sync.Mutex
	listener net.Listener
	base     atomic.Pointer[url.URL]
}

// New returns a server that does not listen yet. Invalid TLS settings are an
// error.
func New(config Config, runtime Runtime) (*Server, error) {
	if config.Addr == "" {
		config.Addr = DefaultAddr
	}
	if config.IdleTimeout == 0 {
		config.IdleTimeout = DefaultIdleTimeout
	}
	if config.CreationTimeout == 0 {
		config.CreationTimeout = remotecommand.DefaultStreamCreationTimeout
	}
	if config.RequestTimeout == 0 {
		config.RequestTimeout = DefaultRequestTimeout
	}
	if config.MaxWaiting == 0 {
		config.MaxWaiting = min(mostWaiting, guard.FileLimit()/waitingShare)
	}
	if config.MaxSessionFiles == 0 {
		config.MaxSessionFiles = min(mostSessions, guard.FileLimit()/sessionsShare)
	}
	s := &Server{config: config, runtime: runtime, files: semaphore.NewWeighted(int64(config.MaxSessionFiles))}
	if (config.CertFile == "") != (config.KeyFile == "") {
		return nil, fmt.Errorf("streaming server: %w: TLS needs both a certificate and a key file", errdefs.ErrInvalidArgument)
	}
	if config.ClientCAFile != "" && config.CertFile == "" {
		return nil, fmt.Errorf("streaming server: %w: a client CA file needs a certificate and a key file", errdefs.ErrInvalidArgument)
	}
	if config.CertFile != "" {
		files := &tlsfiles.Files{Cert: config.CertFile, Key: config.KeyFile, ClientCA: config.ClientCAFile}
		if err := files.Check(); err != nil {
			return nil, fmt.Errorf("streaming server: %w", err)
		}
		s.tls = files.ServerConfig()
	}
	return s, nil
}

// Listen binds the address; from then on Exec, Attach and PortForward return URLs.
// Run calls it if needed. Further calls do nothing.
func (s *Server) Listen(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		return nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.config.Addr)
	if err != nil {
		return fmt.Errorf("streaming server: %w", err)
	}
	s.listener = guard.Listen(l.(*net.TCPListener), s.config.MaxWaiting)
	base := &url.URL{Scheme: "http", Host: reachable(l.Addr().(*net.TCPAddr))}
	if s.tls != nil {
		base.Scheme = "https"
		s.listener = tls.NewListener(s.listener, s.tls)
	} else if !l.Addr().(*net.TCPAddr).IP.IsLoopback() {
		klog.FromContext(ctx).Info("Anyone on the network who sees its URL can read and use a streaming session: set a certificate and key, or a loopback address",
			"address", l.Addr().String(), "settings", []string{"streaming-tls-cert", "streaming-tls-key", "streaming-bind-addr"})
	}
	s.base.Store(base)
	return nil
}

// reachable returns an address that the kubelet on this machine can connect to.
func reachable(a *net.TCPAddr) string {
	host := a.IP.String()
	if a.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, fmt.Sprint(a.Port))
}

// URL returns the server's base URL; nil before Listen.
func (s *Server) URL() *url.URL { return s.base.Load() }

// Run serves until ctx ends; then it closes all connections, cancels all calls of
// the Runtime and waits for them. Call it once.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var open sessions
	server := s.httpServer(ctx, s.handler(&open))
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	klog.FromContext(ctx).Info("Streaming server listens", "url", s.URL().String())
	err := server.Serve(s.listener)
	cancel()
	open.close()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("streaming server: %w", err)
}

// httpServer returns a server whose connections serve one request each: either it
// becomes a session, or the connection has no further use.
func (s *Server) httpServer(ctx context.Context, handler http.Handler) *http.Server {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: s.config.RequestTimeout,
		ReadTimeout:       s.config.RequestTimeout,
		WriteTimeout:      s.config.RequestTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:          tlsfiles.ErrorLog(klog.FromContext(ctx), "Streaming server logged a message"),
		Protocols:         new(http.Protocols),
	}
	server.SetKeepAlivesEnabled(false)
	// An HTTP/2 connection cannot be upgraded.
	server.Protocols.SetHTTP1(true)
	return server
}

// connKey is the key of a connection in its requests' contexts.
type connKey struct{}

// Exec returns a URL that runs the command once. It does not check whether the
// container exists. Errors are errdefs.ErrInvalidArgument,
// errdefs.ErrResourceExhausted (too many unused URLs) and errdefs.ErrUnavailable
// (before Listen).
func (s *Server) Exec(r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if err := checkStreams(r.GetContainerId(), r.GetTty(), r.GetStdin(), r.GetStdout(), r.GetStderr()); err != nil {
		return nil, err
	}
	if len(r.GetCmd()) == 0 {
		return nil, fmt.Errorf("cmd: %w: is empty", errdefs.ErrInvalidArgument)
	}
	u, err := s.admit("exec", r)
	return &runtimeapi.ExecResponse{Url: u}, err
}

// Attach is like Exec, for the container's main process.
func (s *Server) Attach(r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if err := checkStreams(r.GetContainerId(), r.GetTty(), r.GetStdin(), r.GetStdout(), r.GetStderr()); err != nil {
		return nil, err
	}
	u, err := s.admit("attach", r)
	return &runtimeapi.AttachResponse{Url: u}, err
}

// PortForward is like Exec, for the pod's TCP ports.
func (s *Server) PortForward(r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if r.GetPodSandboxId() == "" {
		return nil, fmt.Errorf("pod_sandbox_id: %w: is empty", errdefs.ErrInvalidArgument)
	}
	for i, p := range r.GetPort() {
		if p < 1 || p > 65535 {
			return nil, fmt.Errorf("port[%d]: %w: %d is not a TCP port", i, errdefs.ErrInvalidArgument, p)
		}
	}
	u, err := s.admit("portforward", r)
	return &runtimeapi.PortForwardResponse{Url: u}, err
}

// checkStreams checks the CRI's rules for ExecRequest and AttachRequest.
func checkStreams(containerID string, tty, stdin, stdout, stderr bool) error {
	switch {
	case containerID == "":
		return fmt.Errorf("container_id: %w: is empty", errdefs.ErrInvalidArgument)
	case tty && stderr:
		return fmt.Errorf("stderr: %w: a terminal has no separate stderr, tty and stderr cannot both be true", errdefs.ErrInvalidArgument)
	case !stdin && !stdout && !stderr:
		return fmt.Errorf("%w: one of stdin, stdout and stderr must be true", errdefs.ErrInvalidArgument)
	}
	return nil
}

func (s *Server) admit(kind string, request any) (string, error) {
	base := s.URL()
	if base == nil {
		return "", fmt.Errorf("streaming server: %w: not listening yet", errdefs.ErrUnavailable)
	}
	token, err := s.tokens.put(request)
	if err != nil {
		return "", err
	}
	return base.JoinPath(kind, token).String(), nil
}
