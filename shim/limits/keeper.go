package limits

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/cgroup"
	"github.com/cridock/cridock/translate"
)

// Engine is the part of Docker that an update needs.
type Engine interface {
	ContainerUpdate(ctx context.Context, id string, update container.UpdateConfig) error
}

// Index is the read model of Docker's containers.
type Index interface {
	// Health returns nil while the index is in sync with Docker.
	Health() error
	Containers(ctx context.Context) ([]*translate.Container, error)
	// Container finds a container by ID; an unknown one is errdefs.ErrNotFound.
	Container(ctx context.Context, id string) (*translate.Container, error)
	// Sync makes a change in Docker visible.
	Sync(ctx context.Context, id string) error
}

// Store keeps a document per container across restarts.
type Store interface {
	// IDs lists the containers that something is stored for, even if it cannot be
	// read. The list is incomplete if there is an error.
	IDs() ([]string, error)
	// Read returns a container's document; a missing one is fs.ErrNotExist.
	Read(containerID string) ([]byte, error)
	// Write replaces a container's document atomically.
	Write(containerID string, document []byte) error
	// Remove removes whatever is stored for a container; nothing stored is success.
	Remove(containerID string) error
}

// Options are what a [Keeper] needs. All but the last four are required.
type Options struct {
	Engine Engine
	Index  Index
	Store  Store
	// Host describes the node as of the last connect to Docker.
	Host func() translate.Host
	// Lock takes the lock of a container's pod and returns the function that releases
	// it. It fails if ctx ends before.
	Lock func(ctx context.Context, c *translate.Container) (unlock func(), err error)
	// CgroupRoot is where cgroups are mounted, ProcRoot where /proc is; empty for
	// /sys/fs/cgroup and /proc.
	CgroupRoot, ProcRoot string
	// Updated is told what an update has changed, and after a later failure what holds
	// again; its error reverts the update. nil for nobody.
	Updated func(c *translate.Container, want *runtimeapi.LinuxContainerResources) error
	// Interval is the time between checks of limits that systemd may have overwritten;
	// zero for ten seconds.
	Interval time.Duration
}

// Keeper sets the resources of containers and keeps them in force. Its methods are
// safe for concurrent use; those that change a container require that the caller
// holds the lock of its pod.
type Keeper struct {
	opts    Options
	records records
}

// New returns a Keeper. It starts nothing and reads nothing.
func New(o Options) *Keeper {
	o.Interval = cmp.Or(o.Interval, restoreInterval)
	return &Keeper{opts: o, records: records{store: o.Store}}
}

// Effective returns a container with the resources in force, updates included; c
// itself if it was never updated. It does not change c.
func (k *Keeper) Effective(c *translate.Container) *translate.Container {
	return k.records.apply(c)
}

// Forget deletes what is stored for a removed container; nothing stored is success.
func (k *Keeper) Forget(containerID string) error { return k.records.forget(containerID) }

// Apply sets the limits that can only be set on a running container, c, which has
// just been started. A limit that cannot be set is errdefs.ErrFailedPrecondition;
// others may have been set then.
func (k *Keeper) Apply(c *translate.Container) error {
	requested := c.Config.GetLinux().GetResources()
	now := k.Effective(c)
	if now == c {
		return k.write(c, translate.CgroupFiles(requested, k.opts.Host()))
	}
	// It was updated before its start.
	if adj := now.Resources.GetOomScoreAdj(); adj != requested.GetOomScoreAdj() {
		if err := k.setOOMScoreAdj(c, adj); err != nil {
			return err
		}
	}
	return k.write(c, translate.CgroupFilesForUpdate(now.Resources, k.opts.Host()))
}

// files locates a running container's cgroup files. It returns nil if there are none
// or the container has exited.
func (k *Keeper) files(c *translate.Container, limits []translate.CgroupFile) ([]cgroup.File, error) {
	names := make([]string, len(limits))
	for i, limit := range limits {
		names[i] = limit.Name
	}
	files, err := k.node().Files(c.Pid, names...)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.ID, err)
	}
	return files, nil
}

// write writes limits to the cgroup of a running container; one that has exited is
// success.
func (k *Keeper) write(c *translate.Container, limits []translate.CgroupFile) error {
	files, err := k.files(c, limits)
	if err != nil || files == nil {
		return err
	}
	for i, limit := range limits {
		err := files[i].Write(limit.Value)
		if err == nil || limit.Optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return fmt.Errorf("cgroup file %s of container %s: %w: %w", limit.Name, c.ID, errdefs.ErrFailedPrecondition, err)
	}
	return nil
}

// save reads the limits in a running container's cgroup and returns a function that
// writes them back, in the order of limits.
func (k *Keeper) save(c *translate.Container, limits []translate.CgroupFile) (restore func() error, err error) {
	files, err := k.files(c, limits)
	if err != nil {
		return nil, err
	}
	values := map[cgroup.File]string{}
	for _, file := range files {
		if value, err := file.Read(); err == nil {
			values[file] = value
		}
	}
	return func() error {
		var err error
		for _, file := range files {
			// The kernel takes one line at a time.
			for line := range strings.Lines(values[file]) {
				if werr := file.Write(strings.TrimSpace(line)); werr != nil && !errors.Is(werr, fs.ErrNotExist) {
					err = errors.Join(err, fmt.Errorf("restore: %w", werr))
				}
			}
		}
		return err
	}, nil
}

// setOOMScoreAdj sets the value of all processes of a running container, which
// Docker can only set at the start; later processes inherit it.
func (k *Keeper) setOOMScoreAdj(c *translate.Container, value int64) error {
	value = max(value, int64(k.opts.Host().MinOOMScoreAdj))
	node := k.node()
	pids, err := node.Processes(c.Pid)
	if err != nil {
		return fmt.Errorf("container %s: %w", c.ID, err)
	}
	for _, pid := range pids {
		if err := node.SetOOMScoreAdj(pid, value); err != nil {
			return fmt.Errorf("oom_score_adj %d of container %s: %w", value, c.ID, err)
		}
	}
	return nil
}

func (k *Keeper) node() cgroup.Node {
	return cgroup.Node{Root: k.opts.CgroupRoot, Proc: k.opts.ProcRoot, V2: k.opts.Host().CgroupV2}
}
