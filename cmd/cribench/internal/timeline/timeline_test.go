package timeline

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/cridock/cridock/cmd/cribench/internal/result"
)

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func collector(t *testing.T) (*Collector, collectortrace.TraceServiceClient) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := Collect(l)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(conn.Close(), c.Close()); err != nil {
			t.Error(err)
		}
	})
	return c, collectortrace.NewTraceServiceClient(conn)
}

// sent makes a span as a runtime sends it.
func sent(t *testing.T, trace, id, parent, name string, kind tracepb.Span_SpanKind, start time.Time, took time.Duration) *tracepb.Span {
	t.Helper()
	raw := func(text string) []byte {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return &tracepb.Span{
		TraceId: raw(trace), SpanId: raw(id), ParentSpanId: raw(parent), Name: name, Kind: kind,
		StartTimeUnixNano: uint64(start.UnixNano()), EndTimeUnixNano: uint64(start.Add(took).UnixNano()),
	}
}

func export(ctx context.Context, client collectortrace.TraceServiceClient, spans ...*tracepb.Span) error {
	_, err := client.Export(ctx, &collectortrace.ExportTraceServiceRequest{
		ResourceSpans: []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{Spans: spans}}}},
	})
	return err
}

func TestAggregateOfReceivedSpans(t *testing.T) {
	c, client := collector(t)
	s := NewStart()
	var header []string
	err := s.Call(t.Context(), "RunPodSandbox", func(ctx context.Context) error {
		md, _ := metadata.FromOutgoingContext(ctx)
		header = md.Get("traceparent")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "00-" + s.trace + "-" + s.calls[0].id + "-01"; len(header) != 1 || header[0] != want {
		t.Errorf("traceparent %q, want %s", header, want)
	}
	began := s.calls[0].start
	s.calls[0].end = began.Add(ms(100))
	const server, step, id = "00000000000000aa", "00000000000000bb", "0123456789ab"
	run := "POST /v1.41/containers/" + id + "/start"
	err = export(t.Context(), client,
		sent(t, s.trace, "00000000000000c1", server, "POST /v1.41/containers/create", tracepb.Span_SPAN_KIND_CLIENT, began.Add(ms(5)), ms(10)),
		sent(t, s.trace, "00000000000000c2", server, run, tracepb.Span_SPAN_KIND_CLIENT, began.Add(ms(20)), ms(40)),
		sent(t, s.trace, step, server, "CNI ADD", tracepb.Span_SPAN_KIND_INTERNAL, began.Add(ms(50)), ms(20)),
		sent(t, s.trace, "00000000000000c3", step, "deeper", tracepb.Span_SPAN_KIND_INTERNAL, began.Add(ms(51)), ms(1)),
		sent(t, s.trace, "00000000000000c4", "00000000000000c4", "of no call", tracepb.Span_SPAN_KIND_INTERNAL, began, ms(1)))
	if err != nil {
		t.Fatal(err)
	}
	// The call's own span comes in a later batch.
	last := sent(t, s.trace, server, s.calls[0].id, "RunPodSandbox", tracepb.Span_SPAN_KIND_SERVER, began.Add(ms(1)), ms(98))
	exported := make(chan error, 1)
	go func() { exported <- export(t.Context(), client, last) }()
	defer func() {
		if err := <-exported; err != nil {
			t.Error(err)
		}
	}()
	got, err := Aggregate(t.Context(), "a", c, []Traced{{s, []Moment{{"start sandbox", began.Add(ms(60))}, {"early", began.Add(-ms(1))}}}})
	if err != nil {
		t.Fatal(err)
	}
	want := result.Timeline{Target: "a", Pods: 1, Spans: []result.Span{
		{Kind: result.KindCall, Name: "RunPodSandbox", Start: 0, Duration: 0.1},
		{Kind: result.KindDocker, Name: "POST /containers/create", Start: 0.005, Duration: 0.01},
		{Kind: result.KindDocker, Name: "POST /containers/…/start", Start: 0.02, Duration: 0.04},
		{Kind: result.KindCNI, Name: "CNI ADD", Start: 0.05, Duration: 0.02},
		{Kind: result.KindStep, Name: "deeper", Start: 0.051, Duration: 0.001},
		{Kind: result.KindEvent, Name: "start sandbox", Start: 0.06},
	}, Shares: []result.Share{
		{Call: "RunPodSandbox", Total: 0.1, Docker: 0.05, CNI: 0.02, Rest: 0.04},
		{Call: "pod start", Total: 0.1, Docker: 0.05, CNI: 0.02, Rest: 0.04},
	}}
	for i := range want.Spans {
		want.Spans[i].Call, want.Spans[i].Pods, want.Spans[i].DurationP99 = "RunPodSandbox", 1, want.Spans[i].Duration
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAggregateOfARuntimeThatSendsNothing(t *testing.T) {
	c, _ := collector(t)
	s := NewStart()
	if err := s.Call(t.Context(), "RunPodSandbox", func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	ended := errors.New("ended")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ended)
	if _, err := Aggregate(ctx, "a", c, []Traced{{Start: s}}); !errors.Is(err, ended) {
		t.Errorf("got %v, want the context's cause", err)
	}
}

func TestKind(t *testing.T) {
	for _, c := range []struct {
		name string
		kind tracepb.Span_SpanKind
		want string
	}{
		{"POST /v1.41/containers/create", tracepb.Span_SPAN_KIND_CLIENT, result.KindDocker},
		{"containerd.services.tasks.v1.Tasks/Start", tracepb.Span_SPAN_KIND_CLIENT, result.KindStep},
		{"CNI ADD", tracepb.Span_SPAN_KIND_INTERNAL, result.KindCNI},
		{"other", tracepb.Span_SPAN_KIND_INTERNAL, result.KindStep},
	} {
		if got := kind(span{name: c.name, kind: c.kind}); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestShort(t *testing.T) {
	for name, want := range map[string]string{
		"POST /v1.41/containers/create":         "POST /containers/create",
		"GET /v1.47/images/a.b:5000/c/d:e/json": "GET /images/…/json",
		"POST /v1.47/containers/0123abcd/start": "POST /containers/…/start",
		"GET /v1.47/containers/json":            "GET /containers/json",
		"CNI ADD":                               "CNI ADD",
	} {
		if got := short(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestSpansAreMediansOfThoseInHalfOfThePods(t *testing.T) {
	pods := make([][]part, 4)
	for i := range pods {
		pods[i] = []part{
			{"c", result.KindDocker, "twice", ms(10 * i), ms(10*i + 1)},
			{"c", result.KindDocker, "twice", ms(100), ms(102)},
		}
	}
	pods[0] = append(pods[0], part{"c", result.KindDocker, "rare", 0, ms(1)})
	got := spans(pods)
	want := []result.Span{
		{Call: "c", Kind: result.KindDocker, Name: "twice", Pods: 4, Start: 0.015, Duration: 0.001, DurationP99: 0.001},
		{Call: "c", Kind: result.KindDocker, Name: "twice (2)", Pods: 4, Start: 0.1, Duration: 0.002, DurationP99: 0.002},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSharesAddUp(t *testing.T) {
	pods := [][]part{{
		{"a", result.KindCall, "a", 0, ms(10)},
		{"a", result.KindDocker, "x", ms(1), ms(4)},
		{"a", result.KindDocker, "y", ms(2), ms(3)}, // within the other
		{"b", result.KindCall, "b", ms(10), ms(30)},
		{"b", result.KindDocker, "z", ms(12), ms(50)}, // goes on after the call
	}}
	want := []result.Share{
		{Call: "a", Total: 0.01, Docker: 0.003, Rest: 0.007},
		{Call: "b", Total: 0.02, Docker: 0.018, Rest: 0.002},
		{Call: "pod start", Total: 0.03, Docker: 0.021, Rest: 0.009},
	}
	if diff := cmp.Diff(want, shares(pods)); diff != "" {
		t.Error(diff)
	}
}
