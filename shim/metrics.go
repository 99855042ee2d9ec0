package shim

import (
	"context"
	"net/http"
	"path"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/cridock/cridock/shim/index"
)

// Metrics holds cridock's own Prometheus metrics. Create one per process, before
// the engine's client and the service, which both report to it.
type Metrics struct {
	registry    *prometheus.Registry
	rpcs        *prometheus.HistogramVec
	docker      *prometheus.HistogramVec
	differences *prometheus.CounterVec
	reconnects  prometheus.Counter
	undrained   prometheus.Counter
	cutOff      prometheus.Counter
	pulls       *prometheus.HistogramVec
	pulledBytes *prometheus.CounterVec
	layers      *prometheus.CounterVec
	registries  boundedLabels
	sessions    *prometheus.GaugeVec
	waits       *prometheus.GaugeVec
}

// latencies are buckets in seconds for CRI and Docker calls, from a read from
// memory to a slow pull.
var latencies = []float64{.0001, .0005, .001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}

// NewMetrics returns cridock's metrics and those of the Go runtime and the process.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		rpcs: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cridock_rpc_duration_seconds", Help: "Duration of CRI calls by method and gRPC code; streams from start to end.", Buckets: latencies,
		}, []string{"method", "code"}),
		docker: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cridock_docker_call_duration_seconds", Help: "Duration of Docker calls by kind and result (ok, not_found, conflict, unavailable, error).", Buckets: latencies,
		}, []string{"call", "result"}),
		differences: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cridock_index_differences_total", Help: "Differences between the index and Docker's list without an event, by kind.",
		}, []string{"kind"}),
		reconnects: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "cridock_docker_disconnects_total", Help: "Times the connection to Docker and its event stream was lost.",
		}),
		undrained: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "cridock_log_undrained_exits_total", Help: "Exits published before the container's log was complete.",
		}),
		cutOff: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "cridock_events_cut_off_total", Help: "Subscribers to container events that were cut off as too slow.",
		}),
		pulls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cridock_image_pull_duration_seconds", Help: "Duration of image pulls by result (ok, error).", Buckets: []float64{.1, .5, 1, 5, 10, 30, 60, 120, 300, 600, 1800},
		}, []string{"result"}),
		pulledBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cridock_image_pull_bytes_total", Help: "Compressed bytes of image layers that pulls have downloaded, by the image's registry; other for all but the first 32 registries.",
		}, []string{"registry"}),
		layers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cridock_image_pull_layers_total", Help: "Image layers that pulls have downloaded, by the image's registry; other for all but the first 32 registries.",
		}, []string{"registry"}),
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "cridock_streaming_sessions", Help: "Open streaming sessions by kind (exec, attach, portforward).",
		}, []string{"kind"}),
		waits: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "cridock_requests_waiting", Help: "Requests that wait for work they share or that excludes them (lock: another operation on the same object, plugins: the start of NRI plugins, pull, stop).",
		}, []string{"for"}),
	}
	m.registry.MustRegister(m.rpcs, m.docker, m.differences, m.reconnects, m.undrained, m.cutOff, m.pulls, m.pulledBytes, m.layers, m.sessions, m.waits,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// ObserveDocker records a Docker call; it is an engine.Observer.
func (m *Metrics) ObserveDocker(call string, took time.Duration, err error) {
	m.docker.WithLabelValues(call, dockerResult(err)).Observe(took.Seconds())
}

func dockerResult(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errdefs.IsNotFound(err):
		return "not_found"
	case errdefs.IsConflict(err):
		return "conflict"
	case errdefs.IsUnavailable(err):
		return "unavailable"
	default:
		return "error"
	}
}

// indexObserver returns an observer that counts the index's events.
func (m *Metrics) indexObserver() index.Observer {
	return index.Observer{
		Difference:   func(d index.Difference) { m.differences.WithLabelValues(string(d)).Inc() },
		Disconnected: m.reconnects.Inc,
		Undrained:    m.undrained.Inc,
		CutOff:       m.cutOff.Inc,
	}
}

func (m *Metrics) observePull(took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.pulls.WithLabelValues(result).Observe(took.Seconds())
}

// observeLayers counts what a pull has downloaded. Whoever creates pods chooses the
// registries, so their number is bounded.
func (m *Metrics) observeLayers(registry string, bytes int64, layers int) {
	label := m.registries.label(registry)
	m.pulledBytes.WithLabelValues(label).Add(float64(bytes))
	m.layers.WithLabelValues(label).Add(float64(layers))
}

const (
	// maxLabels bounds the values of a label that others choose.
	maxLabels = 32
	// otherLabel stands for the values above that bound.
	otherLabel = "other"
)

// boundedLabels are the first values of a label. The zero value is ready.
type boundedLabels struct {
	mu    sync.Mutex
	known map[string]bool
}

// label returns a value, or otherLabel if there are too many others already.
func (b *boundedLabels) label(value string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil {
		b.known = map[string]bool{}
	}
	if !b.known[value] && len(b.known) >= maxLabels {
		return otherLabel
	}
	b.known[value] = true
	return value
}

// session counts one streaming session until the returned function is called.
func (m *Metrics) session(kind string) (end func()) {
	g := m.sessions.WithLabelValues(kind)
	g.Inc()
	return g.Dec
}

// waiting counts one request that waits until the returned function is called.
func (m *Metrics) waiting(what string) (end func()) {
	g := m.waits.WithLabelValues(what)
	g.Inc()
	return g.Dec
}

func (m *Metrics) interceptUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := handler(ctx, req)
	m.observeRPC(info.FullMethod, start, err)
	return resp, err
}

func (m *Metrics) interceptStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	start := time.Now()
	err := handler(srv, ss)
	m.observeRPC(info.FullMethod, start, err)
	return err
}

func (m *Metrics) observeRPC(method string, start time.Time, err error) {
	m.rpcs.WithLabelValues(path.Base(method), status.Code(err).String()).Observe(time.Since(start).Seconds())
}

// gauges returns the collectors whose values are read when they are scraped.
func (s *Service) gauges() []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	counter := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value)
	}
	return []prometheus.Collector{
		gauge("cridock_index_sandboxes", "Sandboxes in the index.", func() float64 { n, _, _ := s.index.Sizes(); return float64(n) }),
		gauge("cridock_index_containers", "Containers in the index.", func() float64 { _, n, _ := s.index.Sizes(); return float64(n) }),
		gauge("cridock_index_images", "Images in the index.", func() float64 { _, _, n := s.index.Sizes(); return float64(n) }),
		gauge("cridock_logs_followed", "Containers whose log is followed.", func() float64 { return float64(s.logs.Stats().Containers) }),
		gauge("cridock_logs_troubled", "Containers whose last attempt to read or write the log failed.", func() float64 { return float64(s.logs.Stats().Troubled) }),
		gauge("cridock_logs_lag_bytes", "Bytes in Docker's logs that are not yet in the CRI logs.", func() float64 { return float64(s.logs.Stats().LagBytes) }),
		counter("cridock_logs_lines_total", "Log records copied to CRI logs.", func() float64 { return float64(s.logs.Stats().Lines) }),
		counter("cridock_logs_written_bytes_total", "Bytes written to CRI logs.", func() float64 { return float64(s.logs.Stats().CRIBytes) }),
		counter("cridock_logs_losses_total", "Times Docker deleted log records before they were copied.", func() float64 { return float64(s.logs.Stats().Losses) }),
		counter("cridock_logs_errors_total", "Attempts to read or write a log that failed and were retried.", func() float64 { return float64(s.logs.Stats().Errors) }),
	}
}
