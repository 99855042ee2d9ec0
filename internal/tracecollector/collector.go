// Package tracecollector receives traces in tests.
package tracecollector

import (
	"context"
	"encoding/hex"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Collector receives spans as an OpenTelemetry collector does, over OTLP on gRPC. Its methods are safe for concurrent use.
type Collector struct {
	collectortrace.UnimplementedTraceServiceServer
	addr string

	mu         sync.Mutex
	spans      []*tracepb.Span
	headers    metadata.MD       // of the last export
	attributes map[string]string // of the process that sent it
}

// Serve returns a Collector that serves on l, which it closes when the test ends;
// without TLS unless the options have it.
func Serve(t testing.TB, l net.Listener, options ...grpc.ServerOption) *Collector {
	c, srv := &Collector{addr: l.Addr().String()}, grpc.NewServer(options...)
	collectortrace.RegisterTraceServiceServer(srv, c)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

// Addr returns the address, host:port, to send spans to.
func (c *Collector) Addr() string { return c.addr }

// Export implements the OTLP service.
func (c *Collector) Export(ctx context.Context, r *collectortrace.ExportTraceServiceRequest) (*collectortrace.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers, _ = metadata.FromIncomingContext(ctx)
	c.attributes = map[string]string{}
	for _, resource := range r.GetResourceSpans() {
		for _, a := range resource.GetResource().GetAttributes() {
			c.attributes[a.GetKey()] = a.GetValue().GetStringValue()
		}
		for _, scope := range resource.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
	return &collectortrace.ExportTraceServiceResponse{}, nil
}

// Spans returns the spans received so far.
func (c *Collector) Spans() []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// Sender returns the headers of the last export, and the string attributes of the
// process that sent it; nil before the first.
func (c *Collector) Sender() (headers metadata.MD, attributes map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.headers, c.attributes
}

// Children returns the names of the spans below the call of a gRPC method that is
// itself below the span caller, whose ID is in hexadecimal.
func (c *Collector) Children(caller, method string) []string {
	spans := c.Spans()
	var names []string
	for _, call := range spans {
		if hex.EncodeToString(call.ParentSpanId) != caller || !strings.HasSuffix(call.Name, "/"+method) {
			continue
		}
		for _, s := range spans {
			if string(s.ParentSpanId) == string(call.SpanId) && string(s.TraceId) == string(call.TraceId) {
				names = append(names, s.Name)
			}
		}
	}
	return names
}
