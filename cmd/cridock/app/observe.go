package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"k8s.io/klog/v2"

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

// metricsServer serves /metrics, /healthz and /readyz, and with profiling also
// /debug/pprof. Its settings may change while it runs. It has one user.
type metricsServer struct {
	metrics http.Handler
	health  func() error

	paths   atomic.Pointer[http.ServeMux]
	addr    string        // with a host; empty: it does not serve
	bound   *net.TCPAddr  // what addr led to
	server  *http.Server  // nil: it does not serve
	stopped chan struct{} // closed when the server has returned
	failed  chan error    // why a server returned; at most one
}

// newMetricsServer returns a server that does not serve yet.
func newMetricsServer(metrics http.Handler, health func() error) *metricsServer {
	return &metricsServer{metrics: metrics, health: health, failed: make(chan error, 1)}
}

// observe serves metrics, and reads the configuration again when it is told to,
// until ctx ends.
func (o *Options) observe(ctx context.Context, m *metricsServer, ready <-chan struct{}) error {
	if err := m.apply(ctx, o.MetricsAddr, o.Profiling); err != nil {
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
func (m *metricsServer) apply(ctx context.Context, addr string, profiling bool) error {
	addr = observeAddr(addr)
	if addr == m.addr {
		m.paths.Store(m.mux(profiling))
		return nil
	}
	l, err := m.listen(ctx, addr)
	if err != nil {
		return fmt.Errorf("metrics-bind-address: %w", err)
	}
	m.stop(ctx)
	m.paths.Store(m.mux(profiling))
	if l != nil {
		klog.FromContext(ctx).Info("Serving metrics", "address", l.Addr().String(), "profiling", profiling)
		m.serve(addr, l)
	}
	return nil
}

// listen opens an address; nil for an empty one. If the server itself uses that port,
// as when only the host changes, listen stops it first, and starts it again on failure.
func (m *metricsServer) listen(ctx context.Context, addr string) (*net.TCPListener, error) {
	if addr == "" {
		return nil, nil
	}
	l, err := listenTCP(ctx, addr)
	if !errors.Is(err, syscall.EADDRINUSE) || !m.usesPort(ctx, addr) {
		return l, err
	}
	formerAddr, former := m.addr, m.bound.String()
	m.stop(ctx)
	if l, err = listenTCP(ctx, addr); err == nil {
		return l, nil
	}
	again, failed := listenTCP(ctx, former)
	if failed != nil {
		return nil, errors.Join(err, fmt.Errorf("metrics are off: %w", failed))
	}
	m.serve(formerAddr, again)
	return nil, err
}

func listenTCP(ctx context.Context, addr string) (*net.TCPListener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// usesPort reports whether the server listens on the port of an address.
func (m *metricsServer) usesPort(ctx context.Context, addr string) bool {
	if m.server == nil {
		return false
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	return err == nil && number == m.bound.Port
}

// serve starts a server on a listener that addr led to.
func (m *metricsServer) serve(addr string, tcp *net.TCPListener) {
	m.addr, m.bound = addr, tcp.Addr().(*net.TCPAddr)
	l := guard.Listen(tcp, metricsConnections())
	server := boundedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.paths.Load().ServeHTTP(w, r) }))
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
	m.server, m.addr = nil, ""
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

// startTracing sends traces to an OTLP collector, if one is set: CRI calls with the
// Docker and CNI calls they make, as part of the kubelet's traces. The returned
// function flushes pending traces, after ctx has ended too.
func (o *Options) startTracing(ctx context.Context) (flush func(), err error) {
	if o.TracingEndpoint == "" {
		return func() {}, nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(o.TracingEndpoint), otlptracegrpc.WithInsecure())
	if err != nil {
		return nil, fmt.Errorf("tracing-endpoint %q: %w", o.TracingEndpoint, err)
	}
	provider := trace.NewTracerProvider(
		trace.WithBatcher(exporter),
		// The kubelet decides what is sampled; cridock starts no traces.
		trace.WithSampler(trace.ParentBased(trace.NeverSample())),
		trace.WithResource(resource.NewSchemaless(semconv.ServiceName("cridock"), semconv.ServiceVersion(o.Version))),
	)
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), observeShutdown)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Some traces were lost")
		}
	}, nil
}
