package shim

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/stats"
	"github.com/cridock/cridock/translate"
)

// ContainerStats reads the stats of a running container from its cgroup.
func (s *Service) ContainerStats(ctx context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	c, err := s.runningContainer(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	st, err := s.stats.Container(ctx, s.statsContainer(c))
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: st}, nil
}

// ListContainerStats reads the stats of all running containers that match the
// filter.
func (s *Service) ListContainerStats(ctx context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	list, err := s.containerStats(ctx, r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListContainerStatsResponse{Stats: list}, nil
}

func (s *Service) containerStats(ctx context.Context, f *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	containers, err := s.index.Containers(ctx)
	if err != nil {
		return nil, err
	}
	match := &runtimeapi.ContainerFilter{
		Id: f.GetId(), PodSandboxId: f.GetPodSandboxId(), LabelSelector: f.GetLabelSelector(),
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}
	var targets []stats.Container
	for _, c := range containers {
		if translate.MatchContainer(c, match) {
			targets = append(targets, s.statsContainer(c))
		}
	}
	return s.stats.Containers(ctx, targets)
}

// dockerStats asks Docker for stats that cannot be read here: of containers whose
// runtime uses no cgroup of this kernel. CPU usage has no rate; the kubelet
// computes its own from two readings.
func (s *Service) dockerStats(ctx context.Context, c stats.Container) (*runtimeapi.ContainerStats, error) {
	r, err := s.engine.ContainerStats(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	return translate.CRIContainerStats(c.Attributes, r), nil
}

func (s *Service) statsContainer(c *translate.Container) stats.Container {
	return stats.Container{
		ID: c.ID, Pid: c.Pid, StartedAt: c.StartedAt, Image: c.Image.GetImage(), Mountpoint: s.images.usage.Root(),
		Attributes: &runtimeapi.ContainerAttributes{Id: c.ID, Metadata: c.Metadata, Labels: c.Labels, Annotations: c.Annotations},
	}
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
