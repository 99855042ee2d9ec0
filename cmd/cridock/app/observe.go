package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
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

// observeAddr adds loopback as the host to an address that has only a port.
func observeAddr(addr string) string {
	if !strings.Contains(addr, ":") {
		addr = ":" + addr
	}
	if strings.HasPrefix(addr, ":") {
		addr = "127.0.0.1" + addr
	}
	return addr
}

// serveMetrics serves /metrics, /healthz and /readyz, and with profiling also
// /debug/pprof, until ctx ends.
func (o *Options) serveMetrics(ctx context.Context, metrics http.Handler, health func() error) error {
	if o.MetricsAddr == "" {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := health(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	if o.Profiling {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", observeAddr(o.MetricsAddr))
	if err != nil {
		return fmt.Errorf("metrics-bind-address: %w", err)
	}
	l = guard.Listen(l.(*net.TCPListener), metricsConnections())
	klog.FromContext(ctx).Info("Serving metrics", "address", l.Addr().String(), "profiling", o.Profiling)
	srv := metricsServer(mux)
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), observeShutdown)
		defer cancel()
		_ = srv.Shutdown(ctx) // requests still running end with the process
	})
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// metricsServer bounds the resources that a client can hold. A profile or trace
// may take as long as its request says.
func metricsServer(handler http.Handler) *http.Server {
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
