package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/tlsfiles"
	"github.com/cridock/cridock/shim"
	"github.com/cridock/cridock/streaming/guard"
)

const (
	// observeShutdown bounds flushing and pending answers at shutdown, and how long
	// receiving a request may take.
	observeShutdown = 5 * time.Second
	// observeWrite bounds how long sending an answer may take.
	observeWrite = 30 * time.Second
	// observeIdle is longer than usual scrape intervals.
	observeIdle = 2 * time.Minute
	// observeHeader bounds a request's headers, in bytes; observeConnections the
	// number of connections.
	observeHeader      = 16 << 10
	observeConnections = 64
)

// observeAddr adds loopback as the host to an address that has only a port. An empty
// address stays empty.
func observeAddr(addr string) string {
	if addr == "" {
		return ""
	}
	if !strings.Contains(addr, ":") {
		addr = ":" + addr
	}
	if strings.HasPrefix(addr, ":") {
		addr = "127.0.0.1" + addr
	}
	return addr
}

// metricsEndpoint is where metrics are served.
type metricsEndpoint struct {
	addr string // host:port or unix:///path; empty: nowhere
	tls  tlsPaths
}

// tlsPaths are the files of a server's TLS; without Cert it has none.
type tlsPaths struct{ Cert, Key, ClientCA string }

func (p tlsPaths) files() *tlsfiles.Files {
	return &tlsfiles.Files{Cert: p.Cert, Key: p.Key, ClientCA: p.ClientCA}
}

func (o *Options) metricsEndpoint() metricsEndpoint {
	return metricsEndpoint{addr: observeAddr(o.MetricsAddr), tls: tlsPaths{o.MetricsTLSCert, o.MetricsTLSKey, o.MetricsTLSClientCA}}
}

// check returns an error if the TLS files cannot be used.
func (e metricsEndpoint) check() error {
	if e.tls.Cert == "" {
		return nil
	}
	if err := e.tls.files().Check(); err != nil {
		return fmt.Errorf("metrics-tls-cert: %w", err)
	}
	return nil
}

// listen opens the endpoint.
func (e metricsEndpoint) listen(ctx context.Context) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(e.addr, "unix://")
	if !isUnix {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", e.addr)
		if err != nil {
			return nil, fmt.Errorf("metrics-bind-address: %w", err)
		}
		return l, nil
	}
	// Whoever can write to the directory can replace the socket.
	if err := (ownDir{setting: "its directory", path: filepath.Dir(path), mode: 0o755, shared: true}).prepare(); err != nil {
		return nil, fmt.Errorf("metrics-bind-address: directory %s: %w", filepath.Dir(path), err)
	}
	l, err := shim.Listen(ctx, e.addr)
	if err != nil {
		return nil, fmt.Errorf("metrics-bind-address: %w", err)
	}
	return l, nil
}

// metricsServer serves /metrics, /healthz and /readyz, and with profiling also
// /debug/pprof. Its settings may change while it runs. It has one user.
type metricsServer struct {
	metrics http.Handler
	health  func() error

	paths   atomic.Pointer[http.ServeMux]
	at      metricsEndpoint // where it serves; empty: nowhere
	bound   *net.TCPAddr    // what at led to; nil: not a TCP address
	server  *http.Server    // nil: it does not serve
	stopped chan struct{}   // closed when the server has returned
	failed  chan error      // why a server returned; at most one
}

// newMetricsServer returns a server that does not serve yet.
func newMetricsServer(metrics http.Handler, health func() error) *metricsServer {
	return &metricsServer{metrics: metrics, health: health, failed: make(chan error, 1)}
}

// observe serves metrics, and reads the configuration again when it is told to,
// until ctx ends.
func (o *Options) observe(ctx context.Context, m *metricsServer, ready <-chan struct{}) error {
	if err := m.apply(ctx, o.metricsEndpoint(), o.Profiling); err != nil {
		return err
	}
	defer m.stop(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-m.failed:
			return fmt.Errorf("metrics: %w", err)
		case <-o.reloads:
			o.reload(ctx, closed(ready), m)
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// apply makes these the settings. If it fails, the former ones remain.
func (m *metricsServer) apply(ctx context.Context, at metricsEndpoint, profiling bool) error {
	if at == m.at {
		m.paths.Store(m.mux(profiling))
		return nil
	}
	l, err := m.listen(ctx, at)
	if err != nil {
		return err
	}
	m.stop(ctx)
	m.paths.Store(m.mux(profiling))
	if l != nil {
		klog.FromContext(ctx).Info("Serving metrics", "address", l.Addr().String(), "tls", at.tls.Cert != "", "profiling", profiling)
		m.serve(ctx, at, l)
	}
	return nil
}

// listen opens an endpoint; nil for an empty one. If the server itself uses that port,
// as when only the host changes, listen stops it first, and starts it again on failure.
func (m *metricsServer) listen(ctx context.Context, at metricsEndpoint) (net.Listener, error) {
	if at.addr == "" {
		return nil, nil
	}
	if err := at.check(); err != nil {
		return nil, err
	}
	l, err := at.listen(ctx)
	if !errors.Is(err, syscall.EADDRINUSE) || !m.usesPort(ctx, at.addr) {
		return l, err
	}
	former := m.at
	bound := metricsEndpoint{addr: m.bound.String()}
	m.stop(ctx)
	if l, err = at.listen(ctx); err == nil {
		return l, nil
	}
	again, failed := bound.listen(ctx)
	if failed != nil {
		return nil, errors.Join(err, fmt.Errorf("metrics are off: %w", failed))
	}
	m.serve(ctx, former, again)
	return nil, err
}

// usesPort reports whether the server listens on the port of an address.
func (m *metricsServer) usesPort(ctx context.Context, addr string) bool {
	if m.bound == nil {
		return false
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	return err == nil && number == m.bound.Port
}

// serve starts a server on a listener of an endpoint.
func (m *metricsServer) serve(ctx context.Context, at metricsEndpoint, l net.Listener) {
	m.at = at
	// A unix socket needs no bound: who may connect to it is as good as root.
	if tcp, ok := l.(*net.TCPListener); ok {
		m.bound = tcp.Addr().(*net.TCPAddr)
		l = guard.Listen(tcp, metricsConnections())
	}
	if at.tls.Cert != "" {
		l = tls.NewListener(l, at.tls.files().ServerConfig())
	}
	server := boundedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.paths.Load().ServeHTTP(w, r) }))
	server.ErrorLog = tlsfiles.ErrorLog(klog.FromContext(ctx), "Metrics server logged a message")
	stopped := make(chan struct{})
	m.server, m.stopped = server, stopped
	go func() {
		defer close(stopped)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			select {
			case m.failed <- err:
			default:
			}
		}
	}()
}

// stop ends the server; running requests have observeShutdown to finish. ctx may have
// ended.
func (m *metricsServer) stop(ctx context.Context) {
	if m.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), observeShutdown)
	defer cancel()
	if err := m.server.Shutdown(ctx); err != nil {
		_ = m.server.Close()
	}
	<-m.stopped
	m.server, m.bound, m.at = nil, nil, metricsEndpoint{}
}

func (m *metricsServer) mux(profiling bool) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := m.health(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	if profiling {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// boundedServer bounds the resources that a client can hold. A profile or trace
// may take as long as its request says.
func boundedServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: observeShutdown,
		ReadTimeout:       observeShutdown,
		WriteTimeout:      observeWrite,
		IdleTimeout:       observeIdle,
		MaxHeaderBytes:    observeHeader,
	}
}

// metricsConnections returns the bound on connections to the metrics server. For
// each one above, the peer with the most connections loses its oldest.
func metricsConnections() int { return max(1, min(observeConnections, guard.FileLimit()/32)) }
