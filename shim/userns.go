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
	"github.com/cridock/cridock/shim/userns"
	"github.com/cridock/cridock/translate"
)

// writeSandboxRecord leaves what Docker could not be told of a created sandbox for
// cridock-runtime. Without a user namespace there is nothing to leave.
func (s *Service) writeSandboxRecord(create *translate.Create, id string) error {
	if create.UserNamespace == nil {
		return nil
	}
	return s.records.Write(s.newRecord(create.UserNamespace, id), 0)
}

// writeContainerRecord is writeSandboxRecord for a container that the index has and
// that has not been started.
func (s *Service) writeContainerRecord(ctx context.Context, create *translate.Create, id string, sandbox *translate.Sandbox) error {
	if create.UserNamespace == nil {
		return nil
	}
	if !sandbox.Running || sandbox.Pid == 0 {
		return fmt.Errorf("sandbox %s is not running: %w", sandbox.ID, errdefs.ErrFailedPrecondition)
	}
	c, err := s.index.Container(ctx, id)
	if err != nil {
		return err
	}
	record := s.newRecord(create.UserNamespace, id)
	// They have the owners that the image gave their files.
	record.MappedMounts = append(slices.Clone(record.MappedMounts), c.Volumes...)
	return s.records.Write(record, sandbox.Pid)
}

func (s *Service) newRecord(u *translate.UserNamespace, id string) seam.Record {
	var real engine.Runtime
	if caps := s.engine.Capabilities(); caps != nil {
		real = caps.Runtimes[u.Runtime]
	}
	return seam.Record{
		ID: id, Runtime: seam.Runtime{Path: real.Path, Args: real.Args},
		UserNamespace: &seam.UserNamespace{UIDs: u.UIDs, GIDs: u.GIDs},
		MappedMounts:  u.MappedMounts, MappedFiles: u.MappedFiles,
	}
}

// forgetRemoved forgets a container that cridock has removed from Docker.
func (s *Service) forgetRemoved(id string) {
	s.stats.Forget(id)
	s.forgetRecord(context.Background(), id)
}

// forgetRecord removes a removed container's record. It only logs errors: nobody
// would retry for a removed container.
func (s *Service) forgetRecord(ctx context.Context, id string) {
	if err := s.records.Remove(id); err != nil {
		klog.FromContext(ctx).Error(err, "Failed to remove the record of a removed container; will retry at the next start", "containerID", id)
	}
}

// sweepRecords removes the records of removed containers.
func (s *Service) sweepRecords(ctx context.Context) error {
	return s.records.Collect(func() (map[string]bool, error) {
		// Not from the index, which learns of a container after it has its record.
		list, err := s.engine.ContainerList(ctx, filters.NewArgs())
		exists := make(map[string]bool, len(list))
		for _, c := range list {
			exists[c.ID] = true
		}
		return exists, err
	})
}

// checkSandboxUserns returns an error if a started sandbox is in another user
// namespace than its configuration says.
func (s *Service) checkSandboxUserns(sb *translate.Sandbox) error {
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

// checkContainerUserns kills a started container that is in another user namespace
// than its sandbox's configuration says.
func (s *Service) checkContainerUserns(ctx context.Context, id string, sb *translate.Sandbox) error {
	u := translate.SandboxUserNamespace(sb)
	if u == nil {
		return nil
	}
	c, err := s.index.Container(ctx, id)
	if err != nil || c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return ignoreNotFound(err)
	}
	gone, err := userns.Check(u, c.Pid)
	if gone || err == nil {
		return nil
	}
	// If the container has exited, its PID may be another process's.
	if syncErr := s.index.Sync(ctx, id); syncErr != nil {
		return errors.Join(err, syncErr, s.stops.stop(ctx, c, 0))
	}
	now, indexErr := s.index.Container(ctx, id)
	if indexErr == nil && (now.State != runtimeapi.ContainerState_CONTAINER_RUNNING || now.Pid != c.Pid) {
		return nil
	}
	return errors.Join(fmt.Errorf("user namespace of container %s: %w", id, err), s.stops.stop(ctx, c, 0))
}

// describeUserns sets what the engine and the node can do for user namespaces.
func (s *Service) describeUserns(h *translate.Host, c *engine.Capabilities) {
	if c.Runtimes[seam.RuntimeName].Path == "" {
		return
	}
	h.SeamRuntime = seam.RuntimeName
	h.UserNamespacesUnmet = s.records.Unmet(userns.Engine{RootDir: c.RootDir, UsernsRemap: c.UsernsRemap, Rootless: c.Rootless})
	for name, features := range h.Runtimes {
		features.UserNamespaces = name != h.SeamRuntime && c.Runtimes[name].Path != ""
		h.Runtimes[name] = features
	}
}
