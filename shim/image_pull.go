package shim

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// PullImage pulls an image and returns its ID. Calls for the same reference
// with the same credentials share one pull, which is cancelled when the last
// caller disconnects.
func (s *Service) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if _, err := translate.RuntimeHandler(r.GetImage().GetRuntimeHandler(), s.Host()); err != nil {
		return nil, err
	}
	id, err := s.images.puller.PullFor(ctx, r.GetSandboxConfig().GetMetadata().GetNamespace(), r.GetImage().GetImage(), r.GetAuth())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PullImageResponse{ImageRef: id}, nil
}
