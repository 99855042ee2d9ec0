package shim

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// ContainerStats reads the stats of a running container from its cgroup.
func (s *Service) ContainerStats(ctx context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	c, err := s.runningContainer(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	st, err := s.stats.Container(ctx, s.usage.container(c))
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: st}, nil
}

// ListContainerStats reads the stats of all running containers that match the
// filter.
func (s *Service) ListContainerStats(ctx context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	list, err := s.usage.containers(ctx, r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListContainerStatsResponse{Stats: list}, nil
}

// readySandbox finds a sandbox that has processes and a network to measure.
func (s *Service) readySandbox(ctx context.Context, id string) (*translate.Sandbox, error) {
	sb, err := s.index.Sandbox(ctx, id)
	if err != nil {
		return nil, err
	}
	if !s.networks.Ready(sb) {
		return nil, fmt.Errorf("sandbox %s is not ready: %w", sb.ID, errdefs.ErrFailedPrecondition)
	}
	return sb, nil
}
