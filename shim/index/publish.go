package index

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/translate"
)

// oomDelay is how long after an exit Docker's state surely includes the kernel's
// OOM count of a v2 cgroup.
const oomDelay = 100 * time.Millisecond

// exitKilled is the exit code of SIGKILL.
const exitKilled = 137

// exit is an exit that is not visible yet: its log is being drained.
type exit struct {
	seen   member        // as the exit was first seen
	latest object        // what was seen since
	done   chan struct{} // closed when it is visible or the container is gone
}

// advanceLocked stores a newer object, which becomes visible now, or later if it is an
// exit.
func (ix *Index) advanceLocked(r *record, now object) {
	if r.exit != nil {
		r.exit.latest = now
		return
	}
	if c, ok := now.(member); ok && c.exited() && !sameEnd(r.object, c) && ix.life != nil {
		e := &exit{seen: c, latest: now, done: make(chan struct{})}
		r.exit = e
		life := ix.life
		ix.work.Go(func() { ix.settle(life, r, e) })
		return
	}
	ix.publishLocked(r, now)
}

// sameEnd reports whether two objects show the same finished run.
func sameEnd(before, now object) bool {
	return before != nil && now != nil && before.exited() && now.exited() && before.startedAt() == now.startedAt()
}

// settle makes an exit visible when its log is drained and its reason known.
func (ix *Index) settle(life context.Context, r *record, e *exit) {
	ctx, cancel := context.WithTimeout(life, ix.opts.DrainTimeout)
	defer cancel()
	drained := make(chan struct{})
	ix.work.Go(func() {
		defer close(drained)
		if ix.opts.Exited != nil {
			ix.opts.Exited(ctx, e.seen.Container)
		}
	})
	ix.lookForOOM(ctx, e.seen.Container)
	select {
	case <-drained:
	case <-ctx.Done():
		if life.Err() != nil {
			break
		}
		klog.FromContext(ctx).Info("Exit published before the container's log was complete", "containerID", r.id, "waited", ix.opts.DrainTimeout)
		if ix.opts.Observer.Undrained != nil {
			ix.opts.Observer.Undrained()
		}
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if r.exit != e {
		return // gone meanwhile
	}
	r.exit = nil
	defer close(e.done)
	if sameEnd(e.seen, e.latest) {
		ix.publishLocked(r, e.latest)
		return
	}
	// It was started again meanwhile.
	ix.publishLocked(r, e.seen)
	ix.advanceLocked(r, e.latest)
}

// lookForOOM inspects a killed container once more: with cgroup v2 Docker learns
// of an OOM kill shortly after the exit.
func (ix *Index) lookForOOM(ctx context.Context, c *translate.Container) {
	if c.ExitCode != exitKilled || c.OOMKilled || !ix.opts.Host().CgroupV2 {
		return
	}
	select {
	case <-time.After(oomDelay):
	case <-ctx.Done():
		return
	}
	// If this fails, the exit is published as first seen.
	_ = ix.look(c.ID).wait(ctx)
}

// publishLocked makes an object visible and tells subscribers.
func (ix *Index) publishLocked(r *record, now object) {
	if r.object == nil {
		r.concealed = ix.concealed[now.name()] > 0
	}
	r.object = now
	ix.changedLocked(r)
	ix.tellLocked(r, now)
}

func (ix *Index) changedLocked(r *record) {
	ix.view.Store(nil)
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// Removed removes a container from the index. Late responses cannot bring it back:
// its ID is remembered for a minute.
func (ix *Index) Removed(id string) {
	if !isID(id) {
		return
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	r := ix.records[id]
	if r == nil {
		r = &record{id: id}
		ix.records[id] = r
	}
	if !r.gone.IsZero() {
		return
	}
	r.gone = time.Now()
	if e := r.exit; e != nil {
		r.exit = nil
		defer close(e.done)
		ix.publishLocked(r, e.seen)
	}
	if r.object != nil {
		r.object, r.last = nil, r.object
		ix.tellLocked(r, nil)
		ix.goneLocked(r.last)
	}
	ix.changedLocked(r)
}

// goneLocked starts cleanup for a removed object.
func (ix *Index) goneLocked(o object) {
	if ix.life == nil {
		return
	}
	life := ix.life
	switch o := o.(type) {
	case sandbox:
		if ix.opts.SandboxGone != nil {
			ix.work.Go(func() { ix.opts.SandboxGone(life, o.Sandbox) })
		}
	case member:
		if ix.opts.ContainerGone != nil {
			ix.work.Go(func() { ix.opts.ContainerGone(life, o.Container) })
		}
	}
}

// object is a sandbox or a member.
type object interface {
	id() string
	name() string
	exited() bool
	running() bool
	startedAt() int64
	createdAt() int64
}

// sandbox and member implement object for the two kinds.
type (
	sandbox struct{ *translate.Sandbox }
	member  struct{ *translate.Container }
)

func (s sandbox) id() string       { return s.ID }
func (s sandbox) running() bool    { return s.Running }
func (s sandbox) startedAt() int64 { return s.StartedAt }
func (s sandbox) createdAt() int64 { return s.CreatedAt }

// A sandbox without a running pause process has exited, unless it was never started.
func (s sandbox) exited() bool { return !s.Running && s.DockerStatus != "created" }

func (m member) id() string       { return m.ID }
func (m member) running() bool    { return m.State == runtimeapi.ContainerState_CONTAINER_RUNNING }
func (m member) exited() bool     { return m.State == runtimeapi.ContainerState_CONTAINER_EXITED }
func (m member) startedAt() int64 { return m.StartedAt }
func (m member) createdAt() int64 { return m.CreatedAt }
