package shim

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// UpdateContainerResources changes the limits of a created or running
// container; ContainerStatus shows them on return. If some of them cannot be set,
// the others are reverted.
func (s *Service) UpdateContainerResources(ctx context.Context, r *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	c, err := s.index.Container(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	_, err = withLock(ctx, s, s.containerKey(ctx, c), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.updateContainer(ctx, c.ID, r.GetLinux())
	})
	return &runtimeapi.UpdateContainerResourcesResponse{}, err
}

func (s *Service) updateContainer(ctx context.Context, id string, want *runtimeapi.LinuxContainerResources) (err error) {
	c, err := s.index.Container(ctx, id)
	if err != nil {
		return err
	}
	if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING && c.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		return fmt.Errorf("container %s is %s: %w; only a created or running container can be updated", c.ID, c.State, errdefs.ErrFailedPrecondition)
	}
	// The cgroup files that it names are read before anything else is checked.
	if err := translate.ValidateCgroupFiles("linux", want); err != nil {
		return err
	}
	c = s.withUpdates(c)
	merged := translate.MergeResources(c.Resources, want)
	undo := undoStack{}
	defer undo.run(ctx, &err)
	running := c.State == runtimeapi.ContainerState_CONTAINER_RUNNING
	if running {
		// Restored last, see updateRunning.
		restore, err := s.saveCgroupFiles(c, translate.CgroupFilesForUpdate(merged, s.Host()))
		if err != nil {
			return err
		}
		undo.push(func(context.Context) error { return restore() })
	}
	if err := s.updateInDocker(ctx, c, want, &undo); err != nil {
		return err
	}
	if running {
		if err := s.updateRunning(c, want, merged, &undo); err != nil {
			return err
		}
	}
	if err := s.updates.keep(c.ID, merged); err != nil {
		return fmt.Errorf("store the updated resources of container %s: %w", c.ID, err)
	}
	return s.index.Sync(ctx, c.ID)
}

func (s *Service) updateInDocker(ctx context.Context, c *translate.Container, want *runtimeapi.LinuxContainerResources, undo *undoStack) error {
	update, err := translate.DockerUpdate(want, c, s.Host())
	if err != nil || translate.EmptyUpdate(update) {
		return err
	}
	if err := s.engine.ContainerUpdate(ctx, c.ID, update); err != nil {
		return fmt.Errorf("update container %s: %w", c.ID, err)
	}
	undo.push(func(ctx context.Context) error {
		if err := s.engine.ContainerUpdate(ctx, c.ID, translate.DockerRevert(update, c.Resources)); err != nil {
			return fmt.Errorf("revert the update of container %s: %w", c.ID, err)
		}
		return s.index.Sync(ctx, c.ID)
	})
	return nil
}

// updateRunning sets the resources that Docker has no field for. It sets all of
// them, as an update by Docker makes runc and systemd reset those that the
// container was created with.
func (s *Service) updateRunning(c *translate.Container, want, merged *runtimeapi.LinuxContainerResources, undo *undoStack) error {
	if err := s.writeCgroupFiles(c, translate.CgroupFilesForUpdate(merged, s.Host())); err != nil {
		return err
	}
	had := c.Resources.GetOomScoreAdj()
	if adj := want.GetOomScoreAdj(); adj != 0 && adj != had { // zero is "unchanged"
		undo.push(func(context.Context) error { return s.setOOMScoreAdj(c, had) })
		return s.setOOMScoreAdj(c, adj)
	}
	return nil
}
