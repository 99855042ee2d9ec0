package process

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/backoff"
	"github.com/cridock/cridock/shim/engine"
)

const (
	minRetry = 100 * time.Millisecond
	maxRetry = time.Second
)

// Engine is what a Runner needs from Docker.
type Engine interface {
	engine.Execs
	engine.Events
	ContainerAttach(ctx context.Context, id string, o engine.AttachOptions) (*engine.Stream, error)
	ContainerResize(ctx context.Context, id string, height, width uint) error
	ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error)
}

// Size is the size of a terminal, in characters.
type Size = remotecommand.TerminalSize

// Runner runs processes. Its methods are safe for concurrent use.
type Runner struct {
	engine Engine
	// The constants of the same names, except in tests.
	checkPeriod, drainTimeout, killTimeout, deathTimeout time.Duration

	mu sync.Mutex
	// running holds the running execs by ID.
	running map[string]*exit
}

// New returns a Runner. Without Run it works too, but when something else holds a
// process's output open, it must poll Docker to learn that the process has exited.
func New(e Engine) *Runner {
	return &Runner{
		engine: e, checkPeriod: checkPeriod, drainTimeout: drainTimeout, killTimeout: killTimeout, deathTimeout: deathTimeout,
		running: make(map[string]*exit),
	}
}

// exit signals that one process has exited. It has no exit code: Docker lets a
// container label overwrite the code in an event.
type exit struct {
	once sync.Once
	// done is closed when the process has exited.
	done chan struct{}
}

func (e *exit) set() { e.once.Do(func() { close(e.done) }) }

// watch starts to wait for an exec's exit; forget stops it.
func (r *Runner) watch(execID string) (e *exit, forget func()) {
	e = &exit{done: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running[execID] = e
	return e, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.running, execID)
	}
}

// Run follows Docker's exec_die events until ctx ends and reconnects as needed. It
// returns nil.
func (r *Runner) Run(ctx context.Context) error {
	wanted := filters.NewArgs(filters.Arg("type", string(events.ContainerEventType)), filters.Arg("event", string(events.ActionExecDie)))
	retry := backoff.Backoff{Min: minRetry, Max: maxRetry}
	for {
		began := time.Now()
		err := r.follow(ctx, wanted)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > maxRetry {
			// Logged once, not at each attempt while Docker is away.
			klog.FromContext(ctx).V(2).Info("Lost the stream of Docker's exec events", "err", err)
			retry.Reset()
		}
		if retry.Wait(ctx, nil) != nil {
			return nil
		}
	}
}

func (r *Runner) follow(ctx context.Context, wanted filters.Args) error {
	messages, failed := r.engine.Events(ctx, wanted)
	for {
		select {
		case m := <-messages:
			r.mu.Lock()
			e := r.running[m.Actor.Attributes["execID"]]
			r.mu.Unlock()
			if e != nil {
				e.set()
			}
		case err := <-failed:
			return err
		}
	}
}

// classify gives Docker's errors the class that the CRI expects.
func classify(containerID string, err error) error {
	if errdefs.IsConflict(err) {
		// Not running, paused or restarting: Docker says which.
		return fmt.Errorf("container %s: %w: %v", containerID, errdefs.ErrFailedPrecondition, err) //nolint:errorlint // its own class is not the CRI's
	}
	return fmt.Errorf("container %s: %w", containerID, err)
}

// checkRunning returns an error if a container's processes cannot be reached.
func (r *Runner) checkRunning(ctx context.Context, containerID string) error {
	info, err := r.engine.ContainerInspect(ctx, containerID)
	if err != nil {
		return classify(containerID, err)
	}
	if info.State == nil || !info.State.Running {
		return fmt.Errorf("container %s: %w: not running", containerID, errdefs.ErrFailedPrecondition)
	}
	return nil
}
