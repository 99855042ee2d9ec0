package shim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/translate"
)

const (
	// killWait bounds the wait for an exit after SIGKILL: a process in an
	// uninterruptible sleep cannot be killed.
	killWait = 15 * time.Second
	// maxGrace keeps a hostile timeout from overflowing a duration.
	maxGrace = 365 * 24 * time.Hour
)

// StopContainer sends the container's stop signal once and SIGKILL when the
// grace period is over, and returns when the exit is visible and the log
// complete. A second call joins the first; the shorter grace period wins. It is
// success if the container is not running or does not exist.
func (s *Service) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	resp := &runtimeapi.StopContainerResponse{}
	c, err := s.index.Container(ctx, r.GetContainerId())
	if err != nil {
		return resp, ignoreNotFound(err)
	}
	grace := min(max(time.Duration(r.GetTimeout()), 0), maxGrace/time.Second) * time.Second
	if err := s.stops.stop(ctx, c, grace); err != nil {
		return resp, err
	}
	return resp, s.plugins.exited(ctx, c)
}

// stop kills a running container when the grace period is over; see StopContainer.
func (p *stopper) stop(ctx context.Context, c *translate.Container, grace time.Duration) error {
	if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil
	}
	stop, first := p.join(c.ID, time.Now().Add(grace))
	defer p.waiting()()
	if first {
		// A stop continues without its caller, as it would in Docker.
		finish := func(err error) { p.finish(c.ID, stop, err) }
		if err := p.work.run(ctx, func() error { return p.run(context.WithoutCancel(ctx), c, stop) }, finish); err != nil {
			finish(err)
		}
	}
	select {
	case <-stop.done:
		return stop.err
	case <-ctx.Done():
		return fmt.Errorf("container %s is still being stopped: %w", c.ID, context.Cause(ctx))
	}
}

// run does the one stop of a container that all callers share.
func (p *stopper) run(ctx context.Context, c *translate.Container, stop *stopping) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	exited := make(chan error, 1)
	if err := p.work.start(func() { exited <- p.index.WaitExited(ctx, c.ID) }); err != nil {
		return err
	}

	if stop.remaining() > 0 {
		if err := p.signal(ctx, c, stopSignal(c)); err != nil {
			return err
		}
		if done, err := p.awaitGrace(exited, stop); done {
			return err
		}
	}
	if err := p.signal(ctx, c, "SIGKILL"); err != nil {
		return err
	}
	select {
	case err := <-exited:
		return err
	case <-time.After(killWait):
		return fmt.Errorf("container %s is still running %v after SIGKILL: %w", c.ID, killWait, context.DeadlineExceeded)
	}
}

// stopSignal returns a container's stop signal, SIGTERM by default. It is SIGKILL
// for an adopted container whose image names an invalid signal: Docker sends it no
// other.
func stopSignal(c *translate.Container) string {
	switch {
	case c.StopSignal == "":
		return "SIGTERM"
	case translate.CRISignal(c.StopSignal) == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT:
		return "SIGKILL"
	}
	return c.StopSignal
}

// awaitGrace waits for the exit until the end of the grace period, which may shrink.
// done means that the stop is over: the container has exited, or err says why not.
func (p *stopper) awaitGrace(exited <-chan error, stop *stopping) (done bool, err error) {
	for remaining := stop.remaining(); remaining > 0; remaining = stop.remaining() {
		timer := time.NewTimer(remaining)
		select {
		case err := <-exited:
			timer.Stop()
			return true, err
		case <-stop.shortened:
			timer.Stop()
		case <-timer.C:
		case <-p.ending:
			// The period may be hours. The next process starts it anew.
			timer.Stop()
			return true, fmt.Errorf("cridock is shutting down before the grace period has ended: %w", errdefs.ErrUnavailable)
		}
	}
	return false, nil
}

// signal sends a signal. A container that has just exited needs none; the index is
// then synced, as it may not know yet.
func (p *stopper) signal(ctx context.Context, c *translate.Container, signal string) error {
	err := p.engine.ContainerKill(ctx, c.ID, signal)
	if errdefs.IsConflict(err) || errdefs.IsNotFound(err) {
		klog.FromContext(ctx).V(4).Info("Container was gone before the signal", "containerID", c.ID, "signal", signal)
		return p.index.Sync(ctx, c.ID)
	}
	if err != nil {
		return fmt.Errorf("send %s to container %s: %w", signal, c.ID, err)
	}
	return nil
}

// stopper stops containers; at any time it has at most one stop of each.
type stopper struct {
	engine interface {
		ContainerKill(ctx context.Context, id, signal string) error
	}
	index interface {
		Sync(ctx context.Context, id string) error
		WaitExited(ctx context.Context, id string) error
	}
	work    *operations
	waiting func() (done func()) // counts callers
	ending  <-chan struct{}      // closed when shutdown begins

	mu    sync.Mutex
	stops map[string]*stopping
}

// stopping is one stop.
type stopping struct {
	done      chan struct{}
	err       error         // valid once done is closed
	shortened chan struct{} // holds a token when the deadline was moved
	since     time.Time

	mu       sync.Mutex
	deadline time.Time
}

// join returns the stop of a container, with a deadline no later than the
// given one, and whether the caller is the one to run it.
func (p *stopper) join(id string, deadline time.Time) (stop *stopping, first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if stop, ok := p.stops[id]; ok {
		stop.shorten(deadline)
		return stop, false
	}
	if p.stops == nil {
		p.stops = map[string]*stopping{}
	}
	stop = &stopping{done: make(chan struct{}), shortened: make(chan struct{}, 1), since: time.Now(), deadline: deadline}
	p.stops[id] = stop
	return stop, true
}

// running returns the stops in progress, in no order.
func (p *stopper) running() []Operation {
	p.mu.Lock()
	defer p.mu.Unlock()
	stops := make([]Operation, 0, len(p.stops))
	for id, stop := range p.stops {
		stops = append(stops, Operation{Kind: "StopContainer", Object: id, Since: stop.since})
	}
	return stops
}

// finish hands the result to all callers.
func (p *stopper) finish(id string, stop *stopping, err error) {
	p.mu.Lock()
	delete(p.stops, id)
	p.mu.Unlock()
	stop.err = ignoreNotFound(err)
	close(stop.done)
}

func (t *stopping) shorten(deadline time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !deadline.Before(t.deadline) {
		return
	}
	t.deadline = deadline
	select {
	case t.shortened <- struct{}{}:
	default:
	}
}

func (t *stopping) remaining() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Until(t.deadline)
}
