package oom

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
)

// looseTime is how long a kill is kept for the containers of a pod that were killed at
// the same time, but whose exits are seen later.
const looseTime = 2 * time.Second

// pod is the control group of a pod, on cgroup v2. Its count includes the kills in all
// groups below, and is still there when theirs are gone: systemd removes them at once.
// Watcher's mutex guards it.
type pod struct {
	uid     string
	counter int // descriptor of the count, which also signals changes
	members map[*group]struct{}
	// claimed is the part of the count that is explained: by the members' own counts,
	// because it is older, or as loose: kills in groups that were gone before their count
	// was read, or were never watched. After until nobody will ask for the loose ones.
	claimed, loose uint64
	until          time.Time
}

// joinLocked makes a group a member of its pod, whose count has a name below root, and
// returns the pod if this is its first. It leaves a group alone whose pod has no count.
func (w *Watcher) joinLocked(g *group, uid string, root beneath.Root, name string) (first *pod) {
	p := w.pods[uid]
	if p == nil {
		counter, err := openCounter(root, name)
		if err != nil {
			return nil
		}
		p = &pod{uid: uid, counter: counter, members: map[*group]struct{}{}}
		if p.claimed, err = readCount(counter); err != nil {
			_ = unix.Close(counter)
			return nil
		}
		w.pods[uid], w.podEvents[int32(counter)] = p, p //nolint:gosec // a file descriptor
		first = p
	} else {
		p.update()
		p.loose -= min(p.loose, g.count) // the kills before it was watched
	}
	p.members[g], g.pod = struct{}{}, p
	return first
}

// leaveLocked undoes joinLocked.
func (w *Watcher) leaveLocked(g *group) {
	p := g.pod
	if p == nil {
		return
	}
	g.pod = nil
	delete(p.members, g)
	if len(p.members) == 0 {
		delete(w.pods, p.uid)
		delete(w.podEvents, int32(p.counter)) //nolint:gosec // a file descriptor
		_ = unix.Close(p.counter)             // which also removes it from epoll
	}
}

// update reads the counts: what no member explains is loose.
func (p *pod) update() {
	// Before the members', where the kernel counts a kill first.
	count, err := readCount(p.counter)
	for m := range p.members {
		_ = m.read() // a group that is gone explains nothing
	}
	if err != nil {
		return
	}
	now := time.Now()
	if now.After(p.until) {
		p.loose = 0
	}
	if count > p.claimed {
		p.loose += count - p.claimed
		p.claimed, p.until = count, now.Add(looseTime)
	}
}

// take reports whether there was a kill in a member's group that is gone, as far as
// the pod's count tells. Several such members share what there is.
func (p *pod) take() bool {
	if p == nil {
		return false
	}
	p.update()
	if p.loose == 0 {
		return false
	}
	p.loose--
	return true
}

// openCounter opens a count, with a descriptor that Go's poller does not use.
func openCounter(root beneath.Root, name string) (int, error) {
	f, err := root.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = f.Close() }() // was only read
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}
