package timeline

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/metadata"

	"github.com/cridock/cridock/cmd/cribench/internal/result"
)

// Start is the start of one pod. Its methods are not safe for concurrent use.
type Start struct {
	trace string
	calls []call
}

// call is a CRI call as its client sees it.
type call struct {
	id, name   string
	start, end time.Time
}

// Moment is an event about a container or sandbox.
type Moment struct {
	Name string
	At   time.Time
}

// part is one span of a pod start, relative to the start of the pod.
type part struct {
	call, kind, name string
	start, end       time.Duration
}

// NewStart returns a start with its own trace.
func NewStart() *Start { return &Start{trace: randomHex(16)} }

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Call makes a CRI call with a context that has it traced.
func (s *Start) Call(ctx context.Context, name string, make func(context.Context) error) error {
	id := randomHex(8)
	// The format is that of https://www.w3.org/TR/trace-context/; 01: sampled.
	ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", "00-"+s.trace+"-"+id+"-01")
	began := time.Now()
	err := make(ctx)
	s.calls = append(s.calls, call{id: id, name: name, start: began, end: time.Now()})
	return err
}

// Parts waits for the spans of the calls and combines them with moments, those
// before the first call excluded.
func (s *Start) parts(ctx context.Context, c *Collector, moments []Moment) ([]part, error) {
	ids := make([]string, len(s.calls))
	for i, call := range s.calls {
		ids[i] = call.id
	}
	spans, err := c.trace(ctx, s.trace, ids)
	if err != nil {
		return nil, err
	}
	began := s.calls[0].start
	var parts []part
	for _, call := range s.calls {
		parts = append(parts, part{call.name, result.KindCall, call.name, call.start.Sub(began), call.end.Sub(began)})
	}
	byID := map[string]span{}
	for _, sp := range spans {
		byID[sp.id] = sp
	}
	for _, sp := range spans {
		if name := s.callOf(sp, byID); name != "" && sp.kind != tracepb.Span_SPAN_KIND_SERVER {
			parts = append(parts, part{name, kind(sp), short(sp.name), sp.start.Sub(began), sp.end.Sub(began)})
		}
	}
	for _, m := range moments {
		if name := s.callAt(m.At); name != "" {
			parts = append(parts, part{name, result.KindEvent, m.Name, m.At.Sub(began), m.At.Sub(began)})
		}
	}
	slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(a.start, b.start) })
	return parts, nil
}

// callOf returns the call above a span; "" if there is none.
func (s *Start) callOf(sp span, byID map[string]span) string {
	for range len(byID) + 1 { // a hostile trace may have a loop
		for _, call := range s.calls {
			if sp.parent == call.id {
				return call.name
			}
		}
		sp = byID[sp.parent]
	}
	return ""
}

// callAt returns the last call that began before a time; "" if there is none.
func (s *Start) callAt(at time.Time) string {
	name := ""
	for _, call := range s.calls {
		if !at.Before(call.start) {
			name = call.name
		}
	}
	return name
}

func kind(s span) string {
	switch {
	case s.kind == tracepb.Span_SPAN_KIND_CLIENT && strings.Contains(s.name, " /"): // "METHOD /path"
		return result.KindDocker
	case strings.HasPrefix(s.name, "CNI "):
		return result.KindCNI
	}
	return result.KindStep
}

var (
	apiVersion = regexp.MustCompile(` /v[0-9]+\.[0-9]+/`)
	objectID   = regexp.MustCompile(`/(containers|exec|images|networks)/(.+)/([a-z]+)$`)
)

// short returns the name of a Docker call without API version and object.
func short(name string) string {
	return objectID.ReplaceAllString(apiVersion.ReplaceAllString(name, " /"), "/$1/…/$3")
}
