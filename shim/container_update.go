package shim

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// UpdateContainerResources changes the limits of a created or running
// container; ContainerStatus shows them on return.
func (s *Service) UpdateContainerResources(ctx context.Context, r *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	c, err := s.index.Container(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	unlock, err := s.lockContainer(ctx, c)
	if err != nil {
		return nil, err
	}
	_, err = detach(ctx, s, func(ctx context.Context) (struct{}, error) {
		defer unlock()
		return struct{}{}, s.updateContainer(ctx, c.ID, r.GetLinux())
	})
	return &runtimeapi.UpdateContainerResourcesResponse{}, err
}

func (s *Service) updateContainer(ctx context.Context, id string, want *runtimeapi.LinuxContainerResources) error {
	c, err := s.index.Container(ctx, id)
	if err != nil {
		return err
	}
	if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING && c.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		return fmt.Errorf("container %s is %s: %w; only a created or running one has limits to change", c.ID, c.State, errdefs.ErrFailedPrecondition)
	}
	update, err := translate.DockerUpdate(want, c, s.Host())
	if err != nil {
		return err
	}
	if !translate.EmptyUpdate(update) {
		if err := s.engine.ContainerUpdate(ctx, c.ID, update); err != nil {
			return fmt.Errorf("update container %s: %w", c.ID, err)
		}
	}
	if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
		if err := s.writeCgroupFiles(c, translate.CgroupFilesForUpdate(want, s.Host())); err != nil {
			return err
		}
	}
	return s.index.Sync(ctx, c.ID)
}
