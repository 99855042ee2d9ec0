package stats

import (
	"cmp"
	"context"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// DiskUsage is the disk usage of a directory tree: allocated blocks and inodes.
// Hard links count once, other filesystems not at all.
type DiskUsage struct {
	Bytes, Inodes uint64
	// At is the time of the measurement.
	At time.Time
}

// Tree is a part of a filesystem that is measured as a whole, such as the image
// store.
type Tree struct {
	// Roots are its directories, and its identity. A missing one counts as empty.
	Roots []string
	// Except returns the directories inside that do not belong to the tree, such
	// as the writable layers of containers; if nil, there are none. It is called
	// at the start of each walk, from another goroutine.
	Except func() []string
}

// DiskOptions configures a [Disk].
type DiskOptions struct {
	// Share is the part of one CPU, in (0, 1], that walking may use; default 0.05.
	Share float64
	// LayerAge and TreeAge are the ages at which a result is due to be measured
	// again; a busy walker may be later. Default 20 seconds and 5 minutes.
	LayerAge, TreeAge time.Duration
	// LayerLimit is the age of a small layer's result at which the caller measures
	// it, because the walker is late; default 30 seconds.
	LayerLimit time.Duration
}

// Disk measures requested directory trees in the background. Its methods may be
// called concurrently and return the last results.
type Disk struct {
	opts DiskOptions
	wake chan struct{}

	mu      sync.Mutex
	entries map[string]*diskEntry
}

// diskEntry is one tree; Disk's mutex guards it.
type diskEntry struct {
	roots   []string
	except  func() []string
	layer   bool
	large   bool // a layer with more than quickLook entries
	usage   DiskUsage
	known   bool
	walking bool
	due     time.Time
	asked   time.Time
}

// NewDisk returns a Disk. It starts nothing; see [Disk.Run].
func NewDisk(o DiskOptions) *Disk {
	o.Share = cmp.Or(o.Share, 0.05)
	o.LayerAge = cmp.Or(o.LayerAge, 20*time.Second)
	o.LayerLimit = cmp.Or(o.LayerLimit, 30*time.Second)
	o.TreeAge = cmp.Or(o.TreeAge, 5*time.Minute)
	return &Disk{opts: o, wake: make(chan struct{}, 1), entries: map[string]*diskEntry{}}
}

// quickLook is how many entries of a layer are read while the caller waits. Most
// writable layers have fewer, so their size is known from the first request on,
// and recent although the walker has the lowest priority.
const quickLook = 256

// Usage returns the usage of a writable layer, and false until it was measured.
// The call itself measures a small layer that is new or that the walker is late
// for. Layers that are asked for stay in the walker's rounds.
func (d *Disk) Usage(layer string) (DiskUsage, bool) {
	usage, known, look := d.ask(layer, &diskEntry{roots: []string{layer}, layer: true})
	if !look {
		return usage, known
	}
	w := newWalk([]string{layer}, nil)
	defer w.close()
	complete := w.step(quickLook)
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[layer]
	switch {
	case !complete:
		if e != nil {
			e.large = true
		}
		return usage, known
	case w.inodes == 0:
		return usage, known // the layer does not exist
	case e == nil:
		return DiskUsage{Bytes: w.bytes, Inodes: w.inodes, At: time.Now()}, true
	}
	d.finish(e, w)
	return e.usage, true
}

// TreeUsage returns the usage of a tree, and false until the walker measured it.
// Trees are never dropped.
func (d *Disk) TreeUsage(t Tree) (DiskUsage, bool) {
	usage, known, _ := d.ask(treeKey(t.Roots), &diskEntry{roots: t.Roots, except: t.Except})
	return usage, known
}

// Changed asks the walker to measure a tree again soon, for instance after an
// image was pulled or removed. It does nothing for a tree never requested.
func (d *Disk) Changed(t Tree) {
	d.mu.Lock()
	if e := d.entries[treeKey(t.Roots)]; e != nil {
		e.due = time.Time{}
	}
	d.mu.Unlock()
	d.kick()
}

// Forget drops a layer that was removed.
func (d *Disk) Forget(layer string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.entries, layer)
}

// treeKey returns a key that cannot be a layer's name.
func treeKey(roots []string) string { return "tree\x00" + strings.Join(roots, "\x00") }

// ask finds an entry, or adds the one given. look is true if the caller should
// measure the layer.
func (d *Disk) ask(key string, add *diskEntry) (usage DiskUsage, known, look bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[key]
	if e == nil {
		e, look = add, add.layer
		d.entries[key] = e
		d.kick()
	}
	e.asked = time.Now()
	late := e.layer && e.known && e.asked.Sub(e.usage.At) > d.opts.LayerLimit
	return e.usage, e.known, look || late && !e.large
}

func (d *Disk) kick() {
	select {
	case d.wake <- struct{}{}:
	default: // the walker is awake, or will be
	}
}

// finish stores a walk's result.
func (d *Disk) finish(e *diskEntry, w *walk) {
	now := time.Now()
	e.usage, e.known = DiskUsage{Bytes: w.bytes, Inodes: w.inodes, At: now}, true
	if e.layer {
		e.due = now.Add(d.opts.LayerAge)
	} else {
		e.due = now.Add(d.opts.TreeAge)
	}
}

// activeWalk is a walk in progress.
type activeWalk struct {
	*walk
	key   string
	entry *diskEntry
}

const (
	// atOnce is how many trees are walked in turns, so that a huge one does not
	// delay the others.
	atOnce = 4
	// turn is how many entries are read in one turn.
	turn = 256
)

// Run walks trees until ctx ends, then returns nil. Call it once.
func (d *Disk) Run(ctx context.Context) error {
	// Priorities belong to the thread. It exits with this goroutine, which never
	// unlocks it.
	runtime.LockOSThread()
	lowerPriority()
	pace := newPacer(d.opts.Share)
	var active []*activeWalk
	defer func() {
		for _, w := range active {
			w.close()
		}
	}()
	for i := 0; ; i++ {
		for len(active) < atOnce {
			w := d.next()
			if w == nil {
				break
			}
			active = append(active, w)
		}
		if len(active) == 0 {
			if !d.wait(ctx) {
				return nil
			}
			pace.since = time.Now()
			continue
		}
		i %= len(active)
		if w := active[i]; w.step(turn) {
			d.done(ctx, w)
			active = append(active[:i], active[i+1:]...)
		}
		if pace.rest(ctx) != nil {
			return nil
		}
	}
}

// lowerPriority makes this thread yield CPU and I/O to everything else. Failing
// does no harm: the share limits it as well.
func lowerPriority() {
	const (
		whoProcess = 1 // a thread, as far as the kernel is concerned
		classIdle  = 3 << 13
	)
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, classIdle)
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
}

// next starts the walk that has been due longest; nil if none is due. It drops
// layers that are no longer requested.
func (d *Disk) next() *activeWalk {
	d.mu.Lock()
	now := time.Now()
	var first *diskEntry
	var key string
	for k, e := range d.entries {
		switch {
		case e.walking || e.due.After(now):
		case e.layer && now.Sub(e.asked) > forgetAfter:
			delete(d.entries, k)
		case first == nil || e.due.Before(first.due):
			first, key = e, k
		}
	}
	if first != nil {
		first.walking = true
	}
	d.mu.Unlock()
	if first == nil {
		return nil
	}
	var except []string
	if first.except != nil {
		except = first.except()
	}
	return &activeWalk{walk: newWalk(first.roots, except), key: key, entry: first}
}

// done stores the result of a finished walk, unless the layer was removed.
func (d *Disk) done(ctx context.Context, w *activeWalk) {
	w.close()
	if w.err != nil {
		klog.FromContext(ctx).V(2).Info("Disk usage is incomplete", "directory", w.root, "err", w.err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	w.entry.walking = false
	if d.entries[w.key] != w.entry {
		return
	}
	if w.entry.layer && w.inodes == 0 {
		delete(d.entries, w.key) // it does not exist; another request starts over
		return
	}
	d.finish(w.entry, w.walk)
}

// wait blocks until a walk may be due; false if ctx ended.
func (d *Disk) wait(ctx context.Context) bool {
	t := time.NewTimer(d.untilDue())
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-d.wake:
	case <-t.C:
	}
	return true
}

// untilDue returns the time until the next walk is due.
func (d *Disk) untilDue() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait := d.opts.TreeAge
	for _, e := range d.entries {
		wait = min(wait, time.Until(e.due))
	}
	return max(wait, 0)
}
