package timeline

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// Collector receives spans over OTLP on gRPC. Its methods are safe for concurrent use.
type Collector struct {
	collectortrace.UnimplementedTraceServiceServer

	server *grpc.Server
	served chan error

	mu    sync.Mutex
	spans map[string][]span // by trace
	more  chan struct{}     // closed when spans arrive
}

// span is a received span. The IDs are in hexadecimal.
type span struct {
	id, parent, name string
	kind             tracepb.Span_SpanKind
	start, end       time.Time
}

// Collect serves on l, without TLS, until Close.
func Collect(l net.Listener) *Collector {
	c := &Collector{server: grpc.NewServer(), served: make(chan error, 1), spans: map[string][]span{}, more: make(chan struct{})}
	collectortrace.RegisterTraceServiceServer(c.server, c)
	go func() { c.served <- c.server.Serve(l) }()
	return c
}

// Close stops the server and its listener.
func (c *Collector) Close() error {
	c.server.Stop()
	return <-c.served
}

// Export implements the OTLP service.
func (c *Collector) Export(_ context.Context, r *collectortrace.ExportTraceServiceRequest) (*collectortrace.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				trace := hex.EncodeToString(s.GetTraceId())
				c.spans[trace] = append(c.spans[trace], span{
					id: hex.EncodeToString(s.GetSpanId()), parent: hex.EncodeToString(s.GetParentSpanId()),
					name: s.GetName(), kind: s.GetKind(), start: nano(s.GetStartTimeUnixNano()), end: nano(s.GetEndTimeUnixNano()),
				})
			}
		}
	}
	close(c.more)
	c.more = make(chan struct{})
	return &collectortrace.ExportTraceServiceResponse{}, nil
}

func nano(n uint64) time.Time { return time.Unix(0, int64(n)) }

// trace waits until a trace has the spans of all calls, whose IDs are their parents,
// and returns all spans. A call's span ends after, and so is sent after, those of
// what it waited for.
func (c *Collector) trace(ctx context.Context, id string, calls []string) ([]span, error) {
	for {
		c.mu.Lock()
		spans, more := slices.Clone(c.spans[id]), c.more
		c.mu.Unlock()
		missing := slices.DeleteFunc(slices.Clone(calls), func(call string) bool {
			return slices.ContainsFunc(spans, func(s span) bool { return s.parent == call })
		})
		if len(missing) == 0 {
			return spans, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, fmt.Errorf("no spans of %d of %d calls arrived, is the runtime's collector set to this address? %w", len(missing), len(calls), context.Cause(ctx))
		}
	}
}
