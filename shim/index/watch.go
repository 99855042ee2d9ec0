package index

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// Transition is one visible change of a sandbox or container.
type Transition struct {
	Type runtimeapi.ContainerEventType
	Time time.Time
	// ID of the sandbox or container, SandboxID of the pod's sandbox.
	ID, SandboxID string
	// Sandbox or Container is the changed object's new state, or its last state if
	// it was deleted.
	Sandbox   *translate.Sandbox
	Container *translate.Container
	// Pod and Members are the whole pod right after the change, oldest member
	// first. For a removed sandbox Pod is its last state, and nil after a minute.
	Pod     *translate.Sandbox
	Members []*translate.Container
}

// Subscription delivers transitions.
type Subscription struct {
	// C is closed when the subscription has ended; then Err says why.
	C   <-chan Transition
	c   chan Transition
	err error // set before c is closed
}

// Err returns why the subscription ended. It may be called once C is closed.
func (s *Subscription) Err() error { return s.err }

// Subscribe delivers every transition from now on, until ctx ends. Transitions of
// one ID arrive in order. A lost connection to Docker loses none: they are
// delivered when a sync finds the changes. buffer is how many may wait: a
// subscriber that lags further behind is cut off with
// errdefs.ErrResourceExhausted and delays nobody. Subscribe waits for the first
// sync as reads do.
func (ix *Index) Subscribe(ctx context.Context, buffer int) (*Subscription, error) {
	if err := ix.Ready(ctx); err != nil {
		return nil, err
	}
	c := make(chan Transition, buffer)
	s := &Subscription{C: c, c: c}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.life == nil {
		return nil, fmt.Errorf("index: %w: not running", errdefs.ErrUnavailable)
	}
	ix.watchers[s] = struct{}{}
	context.AfterFunc(ctx, func() {
		ix.mu.Lock()
		defer ix.mu.Unlock()
		ix.endLocked(s, context.Cause(ctx))
	})
	return s, nil
}

// endLocked closes a subscription with an error.
func (ix *Index) endLocked(s *Subscription, err error) {
	if _, ok := ix.watchers[s]; !ok {
		return
	}
	delete(ix.watchers, s)
	s.err = err
	close(s.c)
}

func (ix *Index) endSubscriptions(err error) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	for s := range ix.watchers {
		ix.endLocked(s, err)
	}
}

// Announce tells subscribers about a sandbox whose network has been set up. Call
// it once Options.Complete is true for the sandbox; a second call does nothing.
func (ix *Index) Announce(id string) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if r := ix.records[id]; r != nil && r.object != nil {
		ix.tellLocked(r, r.object)
	}
}

// incomplete reports whether subscribers must not be told of an object yet.
func (ix *Index) incomplete(o object) bool {
	s, ok := o.(sandbox)
	return ok && ix.announce && ix.opts.Complete != nil && !s.exited() && !ix.opts.Complete(s.Sandbox)
}

// tellLocked sends the transitions between the state that subscribers know and a newer
// one. ix.mu keeps them in order.
func (ix *Index) tellLocked(r *record, now object) {
	before := r.told
	if ix.incomplete(now) || before == nil && (now == nil || r.concealed) {
		return
	}
	r.told = now
	if !ix.announce || len(ix.watchers) == 0 {
		return
	}
	for _, kind := range changes(before, now) {
		o := now
		if o == nil {
			o = r.last
		}
		t := ix.transitionLocked(kind, o)
		for s := range ix.watchers {
			select {
			case s.c <- t:
			default:
				ix.endLocked(s, fmt.Errorf("events: %w: the subscriber is %d events behind", errdefs.ErrResourceExhausted, cap(s.c)))
				if ix.opts.Observer.CutOff != nil {
					ix.opts.Observer.CutOff()
				}
			}
		}
	}
}

const (
	created = runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT
	started = runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT
	stopped = runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
	deleted = runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
)

// changes returns the steps from one state to another, including intermediate
// steps that were not seen, except whole runs.
func changes(before, now object) []runtimeapi.ContainerEventType {
	if now == nil {
		return []runtimeapi.ContainerEventType{deleted}
	}
	var steps []runtimeapi.ContainerEventType
	ran := now.running() || now.exited() && now.startedAt() != 0 && !startFailed(now)
	if before == nil {
		steps = append(steps, created)
	}
	switch {
	case before != nil && before.running() && now.running() && before.startedAt() != now.startedAt():
		steps = append(steps, stopped, started)
	case before != nil && before.running() && now.exited() && before.startedAt() != now.startedAt():
		steps = append(steps, stopped, started, stopped)
	case before != nil && before.running() && now.exited():
		steps = append(steps, stopped)
	case before != nil && before.running() || sameEnd(before, now):
	case now.running():
		steps = append(steps, started)
	case now.exited() && ran:
		steps = append(steps, started, stopped)
	case now.exited():
		steps = append(steps, stopped)
	}
	return steps
}

func startFailed(o object) bool {
	c, ok := o.(member)
	return ok && c.StartFailed
}

// transitionLocked describes a transition of an object.
func (ix *Index) transitionLocked(kind runtimeapi.ContainerEventType, o object) Transition {
	t := Transition{Type: kind, Time: time.Now(), ID: o.id()}
	switch o := o.(type) {
	case sandbox:
		t.Sandbox, t.Pod, t.SandboxID = o.Sandbox, o.Sandbox, o.ID
	case member:
		t.Container, t.SandboxID = o.Container, o.SandboxID
		if r := ix.records[o.SandboxID]; r != nil {
			if s, ok := cmp.Or(r.object, r.last).(sandbox); ok {
				t.Pod = s.Sandbox
			}
		}
	}
	for _, r := range ix.records {
		if c, ok := r.object.(member); ok && c.SandboxID == t.SandboxID && !r.concealed {
			t.Members = append(t.Members, c.Container)
		}
	}
	slices.SortFunc(t.Members, func(a, b *translate.Container) int {
		return cmp.Or(cmp.Compare(a.CreatedAt, b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return t
}
