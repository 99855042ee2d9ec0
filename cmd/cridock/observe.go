package main

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
	// observeShutdown bounds what is flushed and answered at the end, and how
	// long a request may take to come.
	observeShutdown = 5 * time.Second
	// observeWrite bounds how long a client may take for its answer.
	observeWrite = 30 * time.Second
	// observeIdle is longer than scrapers usually pause.
	observeIdle = 2 * time.Minute
	// observeHeader bounds a request, in bytes, observeConnections the clients.
	observeHeader      = 16 << 10
	observeConnections = 64
)

// observeAddr makes loopback the host of an address that has only a port.
func observeAddr(addr string) string {
	if !strings.Contains(addr, ":") {
		addr = ":" + addr
	}
	if strings.HasPrefix(addr, ":") {
		addr = "127.0.0.1" + addr
	}
	return addr
}

// serveMetrics answers /metrics, /healthz and /readyz, and with profiling also
// /debug/pprof, until ctx ends.
func (o *options) serveMetrics(ctx context.Context, metrics http.Handler, health func() error) error {
	if o.metricsAddr == "" {
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
	if o.profiling {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", observeAddr(o.metricsAddr))
	if err != nil {
		return fmt.Errorf("metrics-bind-address: %w", err)
	}
	l = guard.Listen(l.(*net.TCPListener), metricsConnections())
	klog.FromContext(ctx).Info("Metrics are served", "address", l.Addr().String(), "profiling", o.profiling)
	srv := metricsServer(mux)
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), observeShutdown)
		defer cancel()
		_ = srv.Shutdown(ctx) // what still runs ends with the process
	})
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// metricsServer bounds what a client can hold of the server. A profile or trace
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

// metricsConnections bounds the connections to the metrics server. Whoever has
// the most of them loses the oldest when there are more.
func metricsConnections() int { return max(1, min(observeConnections, guard.FileLimit()/32)) }

// startTracing sends traces to an OTLP collector, if one is set: CRI calls with
// the Docker and CNI calls below them, joined to the kubelet's own. The returned
// function flushes what is left.
func (o *options) startTracing(ctx context.Context) (flush func(context.Context) error, err error) {
	if o.tracingEndpoint == "" {
		return func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(o.tracingEndpoint), otlptracegrpc.WithInsecure())
	if err != nil {
		return nil, fmt.Errorf("tracing-endpoint %q: %w", o.tracingEndpoint, err)
	}
	provider := trace.NewTracerProvider(
		trace.WithBatcher(exporter),
		// The kubelet decides what is sampled; cridock adds nothing of its own.
		trace.WithSampler(trace.ParentBased(trace.NeverSample())),
		trace.WithResource(resource.NewSchemaless(semconv.ServiceName("cridock"), semconv.ServiceVersion(version))),
	)
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	return provider.Shutdown, nil
}
