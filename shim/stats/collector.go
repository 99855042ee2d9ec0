package stats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Container describes a running container to a collector.
type Container struct {
	// ID is Docker's full container ID. It names the cgroup.
	ID string
	// Pid is the container's first process. When it changes, the collector finds
	// the cgroup again.
	Pid        int
	Attributes *runtimeapi.ContainerAttributes
	// Image is the image label of the metrics.
	Image string
	// StartedAt is in nanoseconds since the epoch; 0: unknown.
	StartedAt int64
	// UpperDir is the directory of the writable layer: GraphDriver.Data.UpperDir
	// in Docker's inspect with overlay2. If "", it is looked for: [Layers.UpperDir].
	UpperDir string
	// Mountpoint names the filesystem of the writable layer to CRI clients: a
	// directory on it that exists in the host's mount namespace.
	Mountpoint string
}

// Pod is a ready sandbox; the caller decides whether it is ready.
type Pod struct {
	// ID is the sandbox's container and Pid its process.
	ID         string
	Pid        int
	Attributes *runtimeapi.PodSandboxAttributes
	// Image is the sandbox container's image, a label of the network metrics.
	Image string
	// HostNetwork pods have no network stats.
	HostNetwork bool
	// CgroupParent is that of the sandbox's config. Without one, or if the
	// sandbox's group is elsewhere, the pod's numbers are the sum of its
	// containers'.
	CgroupParent string
	// Containers are the pod's running containers.
	Containers []Container
}

// Options configures a [Collector]. The zero value reads this machine and reports
// no writable layers.
type Options struct {
	// CgroupRoot, ProcRoot and SysRoot default to /sys/fs/cgroup, /proc and /sys.
	CgroupRoot, ProcRoot, SysRoot string
	// Disk measures writable layers; if nil, they are not reported. The
	// collector's Run runs it.
	Disk *Disk
	// Fallback returns the stats of a running container without a cgroup of its
	// own on this machine, as with VM runtimes. If nil, such containers have no
	// stats.
	Fallback func(context.Context, Container) (*runtimeapi.ContainerStats, error)
	// Layers says where to look for a writable layer whose directory is not given; if
	// nil, such layers are not measured.
	Layers func() Layers
	// Workers is how many containers of a list are read at the same time;
	// default 4.
	Workers int
}

// Collector reads stats and metrics. Its methods may be called concurrently.
type Collector struct {
	opts   Options
	groups *hierarchies
	blocks *blockDevices
	// hugePageSizes are the machine's.
	hugePageSizes []string
	now           func() time.Time

	mu      sync.Mutex
	targets map[string]*target
}

// target is the state of a container or sandbox that is kept between readings.
type target struct {
	mu    sync.Mutex
	pid   int // the process that the following fields were read from
	group cgroup
	upper string

	cpu, podCPU rate
	peak        uint64 // highest memory usage seen, for kernels that do not record it
	files       *files
	asked       time.Time
	filesAsked  time.Time
}

// New returns a collector. It starts nothing; see [Collector.Run].
func New(o Options) *Collector {
	o.CgroupRoot = cmp.Or(o.CgroupRoot, "/sys/fs/cgroup")
	o.ProcRoot = cmp.Or(o.ProcRoot, "/proc")
	o.SysRoot = cmp.Or(o.SysRoot, "/sys")
	o.Workers = cmp.Or(o.Workers, 4)
	return &Collector{
		opts:          o,
		groups:        newHierarchies(o.CgroupRoot, o.ProcRoot),
		blocks:        &blockDevices{root: o.SysRoot},
		hugePageSizes: hugePageSizes(o.SysRoot),
		now:           time.Now,
		targets:       map[string]*target{},
	}
}

// Run counts open files and walks writable layers in the background until ctx
// ends, and drops containers that are no longer requested. Stats and metrics work
// without it, but then open files and disk usage stay as first seen. It returns
// nil.
func (c *Collector) Run(ctx context.Context) error {
	var g errgroup.Group
	if c.opts.Disk != nil {
		g.Go(func() error { return c.opts.Disk.Run(ctx) })
	}
	g.Go(func() error { c.sampleFiles(ctx); return nil })
	return g.Wait()
}

// Forget drops the state of a removed container or sandbox. It ignores unknown
// IDs.
func (c *Collector) Forget(id string) {
	c.mu.Lock()
	t := c.targets[id]
	delete(c.targets, id)
	c.mu.Unlock()
	if t == nil || c.opts.Disk == nil {
		return
	}
	t.mu.Lock()
	upper := t.upper
	t.mu.Unlock()
	c.opts.Disk.Forget(upper)
}

// target returns the state of the container or sandbox id, whose process is pid,
// and finds its cgroup if it is new or pid has changed. Errors are those of
// [Collector.Container].
func (c *Collector) target(id string, pid int, upper string) (*target, cgroup, error) {
	c.mu.Lock()
	t := c.targets[id]
	if t == nil {
		t = &target{}
		c.targets[id] = t
	}
	c.mu.Unlock()

	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked = c.now()
	if t.group != nil && t.pid == pid {
		return t, t.group, nil
	}
	group, mounted, err := c.learn(id, pid, upper)
	if err != nil {
		c.mu.Lock()
		if c.targets[id] == t {
			delete(c.targets, id)
		}
		c.mu.Unlock()
		return nil, nil, err
	}
	t.pid, t.group, t.upper = pid, group, mounted
	t.cpu, t.podCPU, t.peak, t.files = rate{}, rate{}, 0, nil
	return t, group, nil
}

// learn finds the cgroup of the container id, and its writable layer if upper is "".
func (c *Collector) learn(id string, pid int, upper string) (group cgroup, dir string, err error) {
	p, err := openProcess(c.opts.ProcRoot, pid)
	if err != nil {
		return nil, "", fmt.Errorf("container %s: %w", id, err)
	}
	defer p.close()
	err = p.with("cgroup", func(content []byte) (err error) {
		group, err = c.groups.find(id, content)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("container %s, process %d: %w", id, pid, err)
	}
	if upper == "" && c.opts.Layers != nil {
		upper, _ = c.opts.Layers().upperDir(p, id)
	}
	return group, upper, nil
}

// forgetAfter is how long state is kept without a request for it.
const forgetAfter = 10 * time.Minute

// forgetUnasked drops state not requested for [forgetAfter]. [Collector.Forget]
// drops it at once; this is for removals that were missed.
func (c *Collector) forgetUnasked() {
	for id, t := range c.snapshot() {
		t.mu.Lock()
		old := c.now().Sub(t.asked) > forgetAfter
		t.mu.Unlock()
		if old {
			c.Forget(id)
		}
	}
}

func (c *Collector) snapshot() map[string]*target {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := make(map[string]*target, len(c.targets))
	for id, t := range c.targets {
		m[id] = t
	}
	return m
}

// each calls read for all items, workers at a time, and returns the results in
// order. Items that are not found are left out; any other error stops it.
func each[T, R any](ctx context.Context, workers int, items []T, read func(context.Context, T) (*R, error)) ([]*R, error) {
	results := make([]*R, len(items))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i, item := range items {
		g.Go(func() (err error) {
			results[i], err = read(ctx, item)
			if errdefs.IsNotFound(err) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	found := results[:0]
	for _, r := range results {
		if r != nil {
			found = append(found, r)
		}
	}
	return found, nil
}

// gone adds the container's ID to err, and the class errdefs.ErrNotFound if err
// means that a cgroup was removed.
func gone(id string, err error) error {
	switch {
	case err == nil:
		return nil
	case isGone(err) && !errors.Is(err, errdefs.ErrNotFound):
		return fmt.Errorf("container %s: %w: %w", id, errdefs.ErrNotFound, err)
	}
	return fmt.Errorf("container %s: %w", id, err)
}
