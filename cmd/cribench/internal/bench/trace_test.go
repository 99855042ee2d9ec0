package bench

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/metadata"

	"github.com/cridock/cridock/cmd/cribench/internal/target"
	"github.com/cridock/cridock/cmd/cribench/internal/timeline"
)

// sendSpans sends a span for each traced call, as a runtime does.
func sendSpans(t *testing.T, c *timeline.Collector) func(context.Context, string, time.Time) {
	return func(ctx context.Context, method string, began time.Time) {
		md, _ := metadata.FromIncomingContext(ctx)
		parent := md.Get("traceparent")
		if len(parent) == 0 {
			return
		}
		ids := strings.Split(parent[0], "-")
		if len(ids) != 4 {
			t.Errorf("traceparent %q", parent)
			return
		}
		trace, err1 := hex.DecodeString(ids[1])
		caller, err2 := hex.DecodeString(ids[2])
		if err := errors.Join(err1, err2); err != nil {
			t.Error(err)
		}
		_, err := c.Export(ctx, &collectortrace.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{
			ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{
				TraceId: trace, SpanId: []byte("12345678"), ParentSpanId: caller, Name: method, Kind: tracepb.Span_SPAN_KIND_SERVER,
				StartTimeUnixNano: uint64(began.UnixNano()), EndTimeUnixNano: uint64(time.Now().UnixNano()),
			}}}},
		}}})
		if err != nil {
			t.Error(err)
		}
	}
}

// failingSource has no events.
type failingSource struct{ err error }

func (f failingSource) Events(context.Context, func(target.Event)) error { return f.err }

func TestTrace(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := timeline.Collect(l)
	defer c.Close()
	server, s := subject(t, "a")
	server.Traced = sendSpans(t, c)
	r, _ := runner(t, config(t), s)
	if err := r.WarmUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The fake has no events, which is no failure.
	got, err := r.Trace(t.Context(), s, 3, c, map[string]EventSource{"CRI": s.Target.(*target.CRI)})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, sp := range got.Spans {
		names = append(names, sp.Name)
	}
	if diff := cmp.Diff([]string{"RunPodSandbox", "CreateContainer", "StartContainer"}, names); diff != "" {
		t.Error(diff)
	}
	if got.Pods != 3 || len(got.Shares) != 4 {
		t.Errorf("%d pods, shares %v, want 3 and those of three calls and their sum", got.Pods, got.Shares)
	}
	if left := server.Sandboxes(); len(left) > 0 {
		t.Errorf("sandboxes left: %v", left)
	}
	broken := errors.New("broken")
	if _, err := r.Trace(t.Context(), s, 1, c, map[string]EventSource{"b": failingSource{broken}}); !errors.Is(err, broken) {
		t.Errorf("got %v, want the failure of the source of events", err)
	}
}
