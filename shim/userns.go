package shim

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/filters"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/seam"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/shim/userns"
	"github.com/cridock/cridock/translate"
)

// userNamespaces gives pods user namespaces of their own, and containers what else
// Docker's API cannot ask for, through cridock-runtime.
type userNamespaces struct {
	records *userns.Records
	engine  Engine
	index   *index.Index
	stops   *stopper
	host    func() translate.Host
}

// recordSandbox leaves what Docker could not be told of a created sandbox for
// cridock-runtime, if anything. netns is the network namespace to join; "" for a new
// one.
func (n *userNamespaces) recordSandbox(create *translate.Create, id, netns string) error {
	if create.Seam == nil {
		return nil
	}
	record := n.newRecord(create.Seam, id)
	if netns != "" {
		record.Network = &seam.Network{Namespace: netns}
	}
	return n.records.Write(record, 0)
}

// recordContainer is recordSandbox for a container that the index has and
// that has not been started.
func (n *userNamespaces) recordContainer(ctx context.Context, create *translate.Create, id string, sandbox *translate.Sandbox) error {
	if create.Seam == nil {
		return nil
	}
	record := n.newRecord(create.Seam, id)
	if record.UserNamespace == nil && !create.Seam.SharedUTS {
		return n.records.Write(record, 0)
	}
	if !sandbox.Running || sandbox.Pid == 0 {
		return fmt.Errorf("sandbox %s is not running: %w", sandbox.ID, errdefs.ErrFailedPrecondition)
	}
	if create.Seam.SharedUTS {
		var err error
		if record.UTS, err = userns.UTS(sandbox.Pid); err != nil {
			return fmt.Errorf("sandbox %s: %w", sandbox.ID, err)
		}
	}
	if record.UserNamespace == nil {
		return n.records.Write(record, 0)
	}
	c, err := n.index.Container(ctx, id)
	if err != nil {
		return err
	}
	// They have the owners that the image gave their files.
	record.MappedMounts = slices.Clone(record.MappedMounts)
	for _, volume := range c.Volumes {
		if !slices.Contains(record.DroppedMounts, volume) {
			record.MappedMounts = append(record.MappedMounts, volume)
		}
	}
	return n.records.Write(record, sandbox.Pid)
}

func (n *userNamespaces) newRecord(s *translate.Seam, id string) seam.Record {
	var real engine.Runtime
	if caps := n.engine.Capabilities(); caps != nil {
		real = caps.Runtimes[s.RealRuntime]
	}
	record := s.Record
	record.ID, record.Runtime = id, seam.Runtime{Path: real.Path, Args: real.Args}
	return record
}

// updateRecord gives cridock-runtime the limits of a container that was updated before
// its start. updated has them; c is the container as it was created.
func (n *userNamespaces) updateRecord(c, updated *translate.Container) error {
	if !c.Seam || updated == c {
		return nil
	}
	return n.records.SetResources(c.ID, translate.SeamResources(updated.Resources, n.host()))
}

// moveExecs has exec sessions of a container, if they start on the first CPU of its
// cpuset, follow an update of its resources.
func (n *userNamespaces) moveExecs(c *translate.Container, want *runtimeapi.LinuxContainerResources) error {
	cpu, ok := translate.ExecCPU(want)
	if !c.Seam || !ok {
		return nil
	}
	return n.records.MoveExecs(c.ID, cpu)
}

// forget removes a removed container's record. It only logs errors: nobody
// would retry for a removed container.
func (n *userNamespaces) forget(ctx context.Context, id string) {
	if err := n.records.Remove(id); err != nil {
		klog.FromContext(ctx).Error(err, "Failed to remove the record of a removed container; will retry at the next start", "containerID", id)
	}
}

// sweep removes the records of removed containers.
func (n *userNamespaces) sweep(ctx context.Context) error {
	return n.records.Collect(func() (map[string]bool, error) {
		// Not from the index, which learns of a container after it has its record.
		list, err := n.engine.ContainerList(ctx, filters.NewArgs())
		exists := make(map[string]bool, len(list))
		for _, c := range list {
			exists[c.ID] = true
		}
		return exists, err
	})
}

// checkSandbox returns an error if a started sandbox is in another user
// namespace than its configuration says.
func (n *userNamespaces) checkSandbox(sb *translate.Sandbox) error {
	u := translate.SandboxUserNamespace(sb)
	if u == nil {
		return nil
	}
	gone, err := userns.Check(u, sb.Pid)
	if gone {
		err = fmt.Errorf("it has exited: %w", errdefs.ErrAborted)
	}
	if err != nil {
		return fmt.Errorf("user namespace of sandbox %s: %w", sb.ID, err)
	}
	return nil
}

// checkContainer kills a started container that is in another user namespace
// than its sandbox's configuration says.
func (n *userNamespaces) checkContainer(ctx context.Context, id string, sb *translate.Sandbox) error {
	u := translate.SandboxUserNamespace(sb)
	if u == nil {
		return nil
	}
	c, err := n.index.Container(ctx, id)
	if err != nil || c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return ignoreNotFound(err)
	}
	gone, err := userns.Check(u, c.Pid)
	if gone || err == nil {
		return nil
	}
	// If the container has exited, its PID may be another process's.
	if syncErr := n.index.Sync(ctx, id); syncErr != nil {
		return errors.Join(err, syncErr, n.stops.stop(ctx, c, 0))
	}
	now, indexErr := n.index.Container(ctx, id)
	if indexErr == nil && (now.State != runtimeapi.ContainerState_CONTAINER_RUNNING || now.Pid != c.Pid) {
		return nil
	}
	return errors.Join(fmt.Errorf("user namespace of container %s: %w", id, err), n.stops.stop(ctx, c, 0))
}

// describe sets what the engine and the node can do through cridock-runtime.
func (n *userNamespaces) describe(ctx context.Context, h *translate.Host, c *engine.Capabilities) {
	if c.Runtimes[seam.RuntimeName].Path == "" {
		return
	}
	h.SeamRuntime = seam.RuntimeName
	h.UserNamespacesUnmet = n.records.Unmet(userns.Engine{RootDir: c.RootDir, UsernsRemap: c.UsernsRemap, Rootless: c.Rootless})
	for name, features := range h.Runtimes {
		r := c.Runtimes[name]
		features.Seam = name != h.SeamRuntime && r.Path != "" && n.records.Available()
		if features.Seam && (!features.RecursiveReadOnly || len(h.Settings.RDTClasses) > 0 || h.Settings.ExecOnFirstCPU) {
			said := userns.Features(ctx, r.Path, r.Args)
			features.SeamRecursiveReadOnly, features.SeamRDT, features.SeamExecCPU = userns.RecursiveReadOnly(said), said.RDT(), said.ExecCPUAffinity()
		}
		h.Runtimes[name] = features
	}
}
