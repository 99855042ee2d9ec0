package streaming

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
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

	"github.com/cridock/cridock/streaming/guard"
)

const (
	// DefaultAddr is loopback only, with a free port.
	DefaultAddr = "127.0.0.1:0"
	// DefaultIdleTimeout is what the kubelet allows by default
	// (streamingConnectionIdleTimeout).
	DefaultIdleTimeout = 4 * time.Hour

	// DefaultRequestTimeout is what a request may take to come, and its answer
	// to go.
	DefaultRequestTimeout = 10 * time.Second

	// maxHeader bounds a request, in bytes. Nobody sends a body.
	maxHeader = 32 << 10
)

// Bounds where the configuration has none. Whatever the limit of open files is,
// most of it stays free for the CRI and its Docker connections.
const (
	mostWaiting, waitingShare   = 256, 16
	mostSessions, sessionsShare = 4096, 2
	// forwardShare is what one port-forward client can have of all sessions.
	forwardShare = 4
)

// Config says how the server is reached.
type Config struct {
	// Addr is the host:port to listen on, [DefaultAddr] if empty. The URLs
	// contain the address that was bound; loopback instead of a wildcard.
	Addr string
	// CertFile and KeyFile turn TLS on; both or none. They are read again when
	// they change.
	CertFile, KeyFile string
	// ClientCAFile, with TLS, makes clients show a certificate of one of these
	// authorities. It is read again when it changes.
	ClientCAFile string
	// IdleTimeout ends connections on which nothing happens,
	// [DefaultIdleTimeout] if zero.
	IdleTimeout time.Duration
	// CreationTimeout bounds how long a SPDY client may take to open its
	// streams, 30 s if zero.
	CreationTimeout time.Duration
	// RequestTimeout bounds the TLS handshake, the coming of a whole request and
	// the sending of an answer that is no session, each;
	// [DefaultRequestTimeout] if zero.
	RequestTimeout time.Duration
	// MaxWaiting bounds the connections that have not shown a token yet. More
	// cost the user or address with the most of them its oldest. If zero, 256 or
	// a sixteenth of the open files that the process may have.
	MaxWaiting int
	// MaxSessionFiles bounds the files that sessions have open: an exec or attach
	// has two, a port-forward client one and one for each of its connections.
	// What would be above it is refused. If zero, 4096 or half of the open files
	// that the process may have.
	MaxSessionFiles int
	// Opened is told of each session that begins, with its kind: exec, attach or
	// portforward, one for all ports of a client. What it returns is called at
	// the session's end. nil: nobody is told.
	Opened func(kind string) (closed func())
}

// Size is that of a terminal, in characters.
type Size = remotecommand.TerminalSize

// Streams are those the client asked for; the others are nil.
type Streams struct {
	// Stdin ends with io.EOF when the client closes it or goes away. A read
	// may block until the Runtime's call has returned.
	Stdin          io.Reader
	Stdout, Stderr io.WriteCloser
	TTY            bool
	// Resize delivers the client's terminal sizes, the first one first; it may
	// stay silent. Nil without TTY.
	Resize <-chan Size
}

// Runtime is what the server needs from the world. Contexts end when the client
// goes away or the server stops.
type Runtime interface {
	// Exec runs a command until it has ended: nil if with exit code 0; any
	// other code is an error that is or wraps a k8s.io/utils/exec.ExitError.
	Exec(ctx context.Context, containerID string, cmd []string, s Streams) error
	// Attach connects to a container's main process until that ends.
	Attach(ctx context.Context, containerID string, s Streams) error
	// NetNS opens a pod's network namespace; the caller closes it. nil is the
	// host's.
	NetNS(ctx context.Context, podSandboxID string) (*os.File, error)
}

// Server serves streaming requests. Its methods are safe for concurrent use.
type Server struct {
	config  Config
	runtime Runtime
	tokens  tokens
	tls     *tls.Config
	// files are those that sessions may have open.
	files *semaphore.Weighted

	mu       sync.Mutex
	listener net.Listener
	base     atomic.Pointer[url.URL]
}

// New makes a server that does not listen yet.
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
		files := &tlsFiles{cert: config.CertFile, key: config.KeyFile, clientCA: config.ClientCAFile}
		if _, err := files.config(); err != nil {
			return nil, fmt.Errorf("streaming server: %w", err)
		}
		s.tls = files.serverConfig()
	}
	return s, nil
}

// Listen binds the address; from then on the server gives URLs. Run does it if
// nobody has. A second call does nothing.
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
		klog.FromContext(ctx).Info("Streaming sessions are readable and open to whoever sees their URL on the network: set a certificate and key, or a loopback address",
			"address", l.Addr().String(), "settings", []string{"streaming-tls-cert", "streaming-tls-key", "streaming-bind-addr"})
	}
	s.base.Store(base)
	return nil
}

// reachable is an address that the kubelet on this machine can connect to.
func reachable(a *net.TCPAddr) string {
	host := a.IP.String()
	if a.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, fmt.Sprint(a.Port))
}

// URL is the server's own address, nil before Listen.
func (s *Server) URL() *url.URL { return s.base.Load() }

// Run serves until ctx ends; then it closes all connections, ends the contexts
// of all calls of the Runtime and waits for them. A server runs once.
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

// httpServer is a server whose connections serve one request each: either it
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
		ErrorLog:          log.New(serverLog{klog.FromContext(ctx)}, "", 0),
		Protocols:         new(http.Protocols),
	}
	server.SetKeepAlivesEnabled(false)
	// An HTTP/2 connection cannot be upgraded.
	server.Protocols.SetHTTP1(true)
	return server
}

// connKey is where a request's context has its connection.
type connKey struct{}

// serverLog takes what the HTTP server logs. Any peer can cause lines about its
// own handshake, as many as it likes: those are not for every log.
type serverLog struct{ logger klog.Logger }

// Write implements [io.Writer].
func (l serverLog) Write(line []byte) (int, error) {
	logger := l.logger
	if bytes.Contains(line, []byte("TLS handshake error")) {
		logger = logger.V(4)
	}
	logger.Info("Streaming server", "message", string(bytes.TrimSpace(line)))
	return len(line), nil
}

// Exec answers a URL that runs the command once. It does not know whether the
// container exists. errdefs.ErrInvalidArgument, errdefs.ErrResourceExhausted.
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

// Attach is as Exec, for the container's main process.
func (s *Server) Attach(r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if err := checkStreams(r.GetContainerId(), r.GetTty(), r.GetStdin(), r.GetStdout(), r.GetStderr()); err != nil {
		return nil, err
	}
	u, err := s.admit("attach", r)
	return &runtimeapi.AttachResponse{Url: u}, err
}

// PortForward is as Exec, for the pod's TCP ports.
func (s *Server) PortForward(r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if r.GetPodSandboxId() == "" {
		return nil, fmt.Errorf("pod_sandbox_id: %w: is empty", errdefs.ErrInvalidArgument)
	}
	for i, p := range r.GetPort() {
		if p < 1 || p > 65535 {
			return nil, fmt.Errorf("port[%d]: %w: %d is no TCP port", i, errdefs.ErrInvalidArgument, p)
		}
	}
	u, err := s.admit("portforward", r)
	return &runtimeapi.PortForwardResponse{Url: u}, err
}

// checkStreams holds the rules of the CRI proto for ExecRequest and
// AttachRequest.
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
		return "", fmt.Errorf("streaming server: %w: does not listen yet", errdefs.ErrUnavailable)
	}
	token, err := s.tokens.put(request)
	if err != nil {
		return "", err
	}
	return base.JoinPath(kind, token).String(), nil
}
