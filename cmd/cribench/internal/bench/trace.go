package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cridock/cridock/cmd/cribench/internal/result"
	"github.com/cridock/cridock/cmd/cribench/internal/target"
	"github.com/cridock/cridock/cmd/cribench/internal/timeline"
)

// spanTimeout is how long the last spans may take: runtimes send them in batches,
// by default every five seconds.
const spanTimeout = 30 * time.Second

// EventSource has events about containers, see [target.CRI.Events].
type EventSource interface {
	Events(ctx context.Context, f func(target.Event)) error
}

// Trace starts and removes pods at a subject, one at a time, and returns the timeline
// of their starts, with the events of the sources by name. Run [Runner.WarmUp] before.
func (r *Runner) Trace(ctx context.Context, s Subject, pods int, c *timeline.Collector, sources map[string]EventSource) (t result.Timeline, err error) {
	defer r.progress.Close()
	var events timeline.Events
	stop := watch(ctx, &events, sources)
	defer func() { err = errors.Join(err, stop()) }()
	// The first pod is for the event streams: it is certain that they have begun after
	// its events.
	r.progress.Stage("trace", pods+1)
	var starts []timeline.Traced
	for i := range pods + 1 {
		traced, err := r.tracePod(ctx, s, &events)
		if err != nil {
			return t, fmt.Errorf("%s: %w", s.Name(), err)
		}
		if i > 0 {
			starts = append(starts, traced)
		}
		r.progress.Step()
	}
	ctx, cancel := context.WithTimeout(ctx, spanTimeout)
	defer cancel()
	return timeline.Aggregate(ctx, s.Name(), c, starts)
}

// watch keeps the events of all sources until stop, which returns their failures.
func watch(ctx context.Context, events *timeline.Events, sources map[string]EventSource) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, len(sources))
	for name, source := range sources {
		go func() {
			err := source.Events(ctx, events.Add(name))
			if cause := context.Cause(ctx); cause != nil && errors.Is(err, cause) || errors.Is(err, target.ErrUnsupported) {
				err = nil
			}
			ended <- err
		}()
	}
	return func() error {
		cancel()
		var errs []error
		for range sources {
			errs = append(errs, <-ended)
		}
		return errors.Join(errs...)
	}
}

// tracePod starts a pod with one container, waits for its first line, and removes it.
func (r *Runner) tracePod(ctx context.Context, s Subject, events *timeline.Events) (timeline.Traced, error) {
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	start := timeline.NewStart()
	p, err := r.newPod(s)
	if err != nil {
		return timeline.Traced{}, err
	}
	for _, step := range []struct {
		call string
		make func(context.Context) error
	}{
		{"RunPodSandbox", func(ctx context.Context) error { return p.run(ctx, discard) }},
		{"CreateContainer", func(ctx context.Context) error { return p.create(ctx, r.config.Command, discard) }},
		{"StartContainer", func(ctx context.Context) error { return s.StartContainer(ctx, p.containers[0]) }},
	} {
		if err := start.Call(ctx, step.call, step.make); err != nil {
			return timeline.Traced{}, err
		}
	}
	if err := p.ready(ctx); err != nil {
		return timeline.Traced{}, err
	}
	ended := time.Now()
	if err := p.end(ctx, discard); err != nil {
		return timeline.Traced{}, err
	}
	traced := timeline.Traced{Start: start}
	for _, m := range events.Of(map[string]string{p.sandbox: "sandbox", p.containers[0]: "container"}) {
		if m.At.Before(ended) {
			traced.Moments = append(traced.Moments, m)
		}
	}
	return traced, nil
}
