package shim

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RemoveImage removes an image, named by any of its references, with all of them.
// It is idempotent. An image that a running container uses stays, with all its
// references.
func (s *Service) RemoveImage(ctx context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	resp := &runtimeapi.RemoveImageResponse{}
	ref := r.GetImage().GetImage()
	if ref == "" {
		return nil, fmt.Errorf("image.image: %w: empty", errdefs.ErrInvalidArgument)
	}
	image, ok, err := s.index.Image(ctx, ref)
	if err != nil || !ok {
		return resp, err
	}
	_, err = withLock(ctx, s, "image/"+image.ID, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.removeImage(ctx, image.ID)
	})
	return resp, err
}

func (s *Service) removeImage(ctx context.Context, id string) error {
	containers, err := s.index.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range containers {
		if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			continue
		}
		if c.ImageID == id {
			return fmt.Errorf("image %s: %w: container %s is running from it", id, errdefs.ErrFailedPrecondition, c.ID)
		}
		if slices.ContainsFunc(c.Mounts, func(m *runtimeapi.Mount) bool { return m.GetImage().GetImageRef() == id }) {
			return fmt.Errorf("image %s: %w: running container %s mounts it as a volume", id, errdefs.ErrFailedPrecondition, c.ID)
		}
	}
	// By ID and with force, Docker drops every reference in one step and ignores
	// stopped containers.
	if err := ignoreNotFound(s.engine.ImageRemove(ctx, id, true)); err != nil {
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	s.accounts.forget(id)
	return s.imagesChanged(ctx)
}
