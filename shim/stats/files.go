package stats

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// files counts what a container's processes have open. Counting reads an entry
// for every file of every process, so it is done in the background.
type files struct {
	at                       time.Time
	processes, open, sockets uint64
	limit                    uint64 // soft limit of the first process; none: unlimited
}

const (
	filesEvery = 20 * time.Second
	// filesShare is the part of one CPU that counting may use.
	filesShare = 0.05
	// filesFirstLook is how many files are counted while a caller waits.
	filesFirstLook = 2048
	// filesForgetAfter is how long after the last request for metrics counting
	// stops.
	filesForgetAfter = 5 * time.Minute
)

var errTooMany = errors.New("too many open files to count at once")

// openFiles returns the last count of a target. The first call counts at once if
// the container has few files, and returns nil otherwise.
func (c *Collector) openFiles(t *target) *files {
	t.mu.Lock()
	t.filesAsked = c.now()
	known, group, pid := t.files, t.group, t.pid
	t.mu.Unlock()
	if known != nil {
		return known
	}
	left := filesFirstLook
	f, err := c.countOpenFiles(group, pid, func(n int) error {
		if left -= n; left < 0 {
			return errTooMany
		}
		return nil
	})
	if err != nil {
		return nil
	}
	t.keepFiles(group, f)
	return f
}

// keepFiles stores a count, unless the target has another group by now.
func (t *target) keepFiles(group cgroup, f *files) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.group == group {
		t.files = f
	}
}

// countOpenFiles counts the open files of all processes of a group. It calls tick
// every few files and stops with its error.
func (c *Collector) countOpenFiles(group cgroup, pid int, tick func(n int) error) (*files, error) {
	pids, err := group.processes()
	if err != nil {
		return nil, err
	}
	f := &files{at: c.now(), processes: uint64(len(pids)), limit: none}
	for _, p := range pids {
		open, sockets, err := countFiles(c.opts.ProcRoot, p, tick)
		if err != nil && !errdefs.IsNotFound(err) && !isGone(err) && !errors.Is(err, unix.EACCES) {
			return nil, err
		}
		f.open += uint64(open)
		f.sockets += uint64(sockets)
	}
	if p, err := openProcess(c.opts.ProcRoot, pid); err == nil {
		defer p.close()
		if limit, err := p.openFilesLimit(); err == nil && limit <= math.MaxInt64 {
			f.limit = limit
		}
	}
	return f, nil
}

// sampleFiles counts the open files of containers whose metrics are requested, at
// intervals, until ctx ends.
func (c *Collector) sampleFiles(ctx context.Context) {
	for sleep(ctx, filesEvery) == nil {
		c.forgetUnasked()
		pace := newPacer(filesShare)
		for _, t := range c.snapshot() {
			t.mu.Lock()
			group, pid, wanted := t.group, t.pid, c.now().Sub(t.filesAsked) < filesForgetAfter
			t.mu.Unlock()
			if group == nil || !wanted {
				continue
			}
			f, err := c.countOpenFiles(group, pid, func(int) error { return pace.rest(ctx) })
			if err == nil {
				t.keepFiles(group, f)
			}
		}
	}
}
