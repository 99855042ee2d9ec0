package shim

import (
	"context"
	"fmt"

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
	image, ok, err := s.images.find(ctx, ref)
	if err != nil || !ok {
		return resp, err
	}
	_, err = withLock(ctx, s, "image/"+image.ID, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.images.remove(ctx, image.ID)
	})
	return resp, err
}
