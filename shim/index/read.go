package index

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cridock/cridock/translate"
)

// lookAgain is how often WaitExited inspects on its own: a lost event must not
// delay a stop until the next relist.
const lookAgain = 5 * time.Second

// view is what readers see. It never changes.
type view struct {
	objects    map[string]object
	sandboxes  []*translate.Sandbox
	containers []*translate.Container
	members    map[string][]*translate.Container // by sandbox
	// all also has concealed objects; nil if there are none.
	all *view
}

// current returns the view, a new one if something has changed.
func (ix *Index) current() *view {
	if v := ix.view.Load(); v != nil {
		return v
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if v := ix.view.Load(); v != nil {
		return v
	}
	v := viewOf(ix.records, false)
	for _, r := range ix.records {
		if r.concealed {
			v.all = viewOf(ix.records, true)
			break
		}
	}
	ix.view.Store(v)
	return v
}

// viewOf returns a view of records, with those that are concealed or without.
func viewOf(records map[string]*record, concealed bool) *view {
	v := &view{objects: make(map[string]object, len(records)), members: map[string][]*translate.Container{}}
	for id, r := range records {
		if r.concealed && !concealed {
			continue
		}
		switch o := r.object.(type) {
		case sandbox:
			v.objects[id], v.sandboxes = o, append(v.sandboxes, o.Sandbox)
		case member:
			v.objects[id], v.containers = o, append(v.containers, o.Container)
		}
	}
	slices.SortFunc(v.sandboxes, func(a, b *translate.Sandbox) int {
		return cmp.Or(cmp.Compare(a.CreatedAt, b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(v.containers, func(a, b *translate.Container) int {
		return cmp.Or(cmp.Compare(a.CreatedAt, b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	for _, c := range v.containers {
		v.members[c.SandboxID] = append(v.members[c.SandboxID], c)
	}
	return v
}

// Ready returns nil once the first sync is done. If ctx ends first, the error is
// errdefs.ErrUnavailable and gives the reason.
func (ix *Index) Ready(ctx context.Context) error {
	select {
	case <-ix.synced:
		return nil
	default:
	}
	select {
	case <-ix.synced:
		return nil
	case <-ctx.Done():
		return ix.away()
	}
}

// Health returns nil while the index is connected and synced. Otherwise it
// returns errdefs.ErrUnavailable with the reason and the time it began.
func (ix *Index) Health() error {
	ix.mu.Lock()
	up := ix.link.up
	ix.mu.Unlock()
	if up {
		return nil
	}
	return ix.away()
}

func (ix *Index) away() error {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	since := ix.link.since.Format(time.RFC3339)
	if ix.link.reason == nil {
		return fmt.Errorf("not yet synced with docker, started at %s: %w", since, errdefs.ErrUnavailable)
	}
	return fmt.Errorf("not connected to docker since %s: %w: %w", since, ix.link.reason, errdefs.ErrUnavailable)
}

// Link describes the connection to Docker.
type Link struct {
	Connected bool
	// Since is when Connected became what it is; before the first connection, when
	// the index was created.
	Since time.Time
	// LastError is why the connection was last lost or could not be made, at LastAt.
	// It stays when the connection is back; nil if there was none.
	LastError error
	LastAt    time.Time
}

// Link returns the state of the connection. It never waits.
func (ix *Index) Link() Link {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	return Link{Connected: ix.link.up, Since: ix.link.since, LastError: ix.failure.err, LastAt: ix.failure.at}
}

// Known returns all pod sandboxes and containers as they were last seen. Unlike
// [Index.Sandboxes] and [Index.Containers] it never waits and never fails, however
// long Docker has been away. The caller must not change them, nor the slices.
func (ix *Index) Known() ([]*translate.Sandbox, []*translate.Container) {
	v := ix.current()
	return v.sandboxes, v.containers
}

// readable waits until reads can be served.
func (ix *Index) readable(ctx context.Context) error {
	if err := ix.Ready(ctx); err != nil {
		return err
	}
	ix.mu.Lock()
	stale := !ix.link.up && time.Since(ix.link.since) > ix.opts.StaleAfter
	ix.mu.Unlock()
	if stale {
		return ix.away()
	}
	return nil
}

// Sandboxes returns all pod sandboxes, oldest first. The caller owns the slice,
// but must not change what it points to. Like all reads it waits for the first
// sync, makes no Docker call, and fails with errdefs.ErrUnavailable if ctx ends
// before that sync or Docker has been away for five minutes.
func (ix *Index) Sandboxes(ctx context.Context) ([]*translate.Sandbox, error) {
	if err := ix.readable(ctx); err != nil {
		return nil, err
	}
	return slices.Clone(ix.seen(ctx).sandboxes), nil
}

// Containers returns all pod containers, including those whose sandbox is gone.
// It follows the rules of [Index.Sandboxes].
func (ix *Index) Containers(ctx context.Context) ([]*translate.Container, error) {
	if err := ix.readable(ctx); err != nil {
		return nil, err
	}
	return slices.Clone(ix.seen(ctx).containers), nil
}

// ContainersOf returns the containers of a sandbox, given its full ID, as known
// now.
func (ix *Index) ContainersOf(sandboxID string) []*translate.Container {
	return slices.Clone(ix.current().members[sandboxID])
}

// Sandbox returns the sandbox with this ID or unique ID prefix. If there is none,
// or the ID is a container's, it returns an errdefs.ErrNotFound that names the ID.
func (ix *Index) Sandbox(ctx context.Context, id string) (*translate.Sandbox, error) {
	if err := ix.readable(ctx); err != nil {
		return nil, err
	}
	v := ix.seen(ctx)
	if s, ok := v.objects[id].(sandbox); ok {
		return s.Sandbox, nil
	}
	return byPrefix("sandbox", id, v.sandboxes, func(s *translate.Sandbox) string { return s.ID })
}

// Container is [Index.Sandbox] for containers.
func (ix *Index) Container(ctx context.Context, id string) (*translate.Container, error) {
	if err := ix.readable(ctx); err != nil {
		return nil, err
	}
	v := ix.seen(ctx)
	if c, ok := v.objects[id].(member); ok {
		return c.Container, nil
	}
	return byPrefix("container", id, v.containers, func(c *translate.Container) string { return c.ID })
}

func byPrefix[T any](kind, prefix string, all []*T, id func(*T) string) (*T, error) {
	var found *T
	for _, o := range all {
		if prefix == "" || !strings.HasPrefix(id(o), prefix) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%s %q: %w: the ID prefix is ambiguous", kind, prefix, errdefs.ErrNotFound)
		}
		found = o
	}
	if found == nil {
		return nil, fmt.Errorf("%s %q: %w", kind, prefix, errdefs.ErrNotFound)
	}
	return found, nil
}

// WaitExited returns when a container or sandbox, given its full ID, is visible as
// exited or does not exist. It returns ctx's error if ctx ends first.
func (ix *Index) WaitExited(ctx context.Context, id string) error {
	if err := ix.Ready(ctx); err != nil {
		return err
	}
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		changed := ix.unlessExited(id)
		if changed == nil {
			return nil
		}
		select {
		case <-changed:
		case <-again.C:
			ix.look(id)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// unlessExited returns a channel that is closed at the next change, or nil if
// there is nothing to wait for.
func (ix *Index) unlessExited(id string) <-chan struct{} {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	r := ix.records[id]
	if r == nil || !r.gone.IsZero() || r.object == nil && r.exit == nil || r.object != nil && r.object.exited() {
		return nil
	}
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}
