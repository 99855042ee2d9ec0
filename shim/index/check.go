package index

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/translate"
)

const (
	// eventDelay is the default of Options.EventDelay.
	eventDelay = time.Second
	// createdAge is the age from which a created container is inspected at each
	// relist: a failed start sends no event and leaves it created.
	createdAge = time.Minute
)

// found is one container to inspect, and the turn that does it.
type found struct {
	id   string
	kind Difference // "" if the list agrees
	turn *turn
}

// sync inspects everything that may have changed while the index was not
// connected, and returns when all of it is visible.
func (ix *Index) sync(ctx context.Context) error {
	number := ix.number()
	list, err := ix.list(ctx)
	if err != nil {
		return err
	}
	work := ix.compare(list, number, true)
	for _, w := range work {
		if err := w.turn.wait(ctx); err != nil && !ix.tolerable(w.id, err) {
			return fmt.Errorf("sync: container %s: %w", w.id, err)
		}
	}
	ix.count(ctx, work)
	if err := ix.waitExits(ctx, work); err != nil {
		return err
	}
	return ix.syncImages(ctx)
}

// syncImages is SyncImages, but ignores failures that concern images only: those
// must not make pods unavailable.
func (ix *Index) syncImages(ctx context.Context) error {
	err := ix.SyncImages(ctx)
	if err != nil && !errdefs.IsUnavailable(err) && ctx.Err() == nil {
		return nil // logged; the next relist tries again
	}
	return err
}

// tolerable reports whether a sync may succeed although one container could not
// be inspected. One that Docker reports broken is skipped, a known one keeps its
// last state. But if Docker did not answer, an unknown container may be running:
// a list without it would make the kubelet start its pod a second time.
func (ix *Index) tolerable(id string, err error) bool {
	if !errdefs.IsUnavailable(err) {
		return true
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	r := ix.records[id]
	return r != nil && r.object != nil
}

func (ix *Index) waitExits(ctx context.Context, work []found) error {
	for _, w := range work {
		ix.mu.Lock()
		var visible chan struct{}
		if r := ix.records[w.id]; r != nil && r.exit != nil {
			visible = r.exit.done
		}
		ix.mu.Unlock()
		if visible == nil {
			continue
		}
		select {
		case <-visible:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// relist compares the index with Docker's list: the safety net for lost events.
func (ix *Index) relist(ctx context.Context) error {
	number := ix.number()
	list, err := ix.list(ctx)
	if err != nil {
		return err
	}
	if ix.differs(list, number) {
		select {
		case <-time.After(ix.opts.EventDelay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ix.count(ctx, ix.compare(list, number, false))
	return ix.syncImages(ctx)
}

func (ix *Index) list(ctx context.Context) ([]container.Summary, error) {
	return ix.engine.ContainerList(ctx, filters.NewArgs(filters.Arg("label", translate.LabelType)))
}

func (ix *Index) number() uint64 {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.sequence++
	return ix.sequence
}

// differs reports whether compare would find a difference.
func (ix *Index) differs(list []container.Summary, number uint64) bool {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	differ := false
	ix.eachLocked(list, number, false, func(_ string, kind Difference) { differ = differ || kind != "" })
	return differ
}

// compare inspects every container for which the list, requested under this
// number, differs from the index. With all it also inspects those that may have
// changed and changed back unseen.
func (ix *Index) compare(list []container.Summary, number uint64, all bool) []found {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	var work []found
	ix.eachLocked(list, number, all, func(id string, kind Difference) {
		work = append(work, found{id, kind, ix.lookLocked(id)})
	})
	return work
}

// eachLocked calls do with the containers to inspect.
func (ix *Index) eachLocked(list []container.Summary, number uint64, all bool, do func(id string, kind Difference)) {
	listed := make(map[string]bool, len(list))
	for _, s := range list {
		listed[s.ID] = true
		name := ""
		if len(s.Names) > 0 {
			name = s.Names[0]
		}
		if _, ours := translate.IsKubernetes(s.Labels, name); !ours || !isID(s.ID) {
			continue
		}
		if look, kind := compareOne(ix.records[s.ID], s, number, all); look {
			do(s.ID, kind)
		}
	}
	for id, r := range ix.records {
		if !listed[id] && r.gone.IsZero() && r.applied < number && !r.underWay() {
			do(id, DifferenceGone)
		}
	}
}

// underWay reports whether an inspect is running or scheduled.
func (r *record) underWay() bool { return r.busy || r.next != nil }

func compareOne(r *record, s container.Summary, number uint64, all bool) (look bool, kind Difference) {
	switch {
	case r == nil:
		return true, DifferenceMissing
	case !r.gone.IsZero() || r.applied > number:
		return false, "" // the index is newer than the list
	case r.underWay():
		return all, ""
	case r.status == "":
		return true, DifferenceMissing
	case r.status != s.State:
		return true, DifferenceState
	case all:
		// An exited container changes only by a start, which is a state difference.
		return s.State != container.StateExited, ""
	case s.State == container.StateCreated && r.object != nil && !r.object.exited():
		return time.Since(time.Unix(s.Created, 0)) > createdAge, ""
	}
	return false, ""
}

// count reports differences, except those of the first sync.
func (ix *Index) count(ctx context.Context, work []found) {
	ix.mu.Lock()
	first := !ix.announce
	ix.mu.Unlock()
	for _, w := range work {
		if first || w.kind == "" {
			continue
		}
		klog.FromContext(ctx).V(2).Info("Docker's list shows a change that no event announced", "containerID", w.id, "difference", w.kind)
		if ix.opts.Observer.Difference != nil {
			ix.opts.Observer.Difference(w.kind)
		}
	}
}
