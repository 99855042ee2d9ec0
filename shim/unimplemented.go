package shim

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CheckpointPod is not implemented: the error says why.
func (s *Service) CheckpointPod(context.Context, *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	return nil, fmt.Errorf("checkpoint of a pod: %w: Docker cannot checkpoint the namespaces that the containers of a pod share", errdefs.ErrNotImplemented)
}

// RestorePod is not implemented: the error says why.
func (s *Service) RestorePod(context.Context, *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return nil, fmt.Errorf("restore of a pod: %w: Docker cannot restore a container into another container's namespaces", errdefs.ErrNotImplemented)
}
