package shim

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/limits"
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
	_, err = withPlugins(ctx, s, s.containerKey(ctx, c), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.plugins.update(ctx, c.ID, r.GetLinux())
	})
	return &runtimeapi.UpdateContainerResourcesResponse{}, err
}

// UpdatePodSandboxResources stores a pod's resources and overhead for the verbose
// PodSandboxStatus. It sets no limits: the kubelet owns the pod's cgroup. An
// unknown ID is NotFound.
func (s *Service) UpdatePodSandboxResources(ctx context.Context, r *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	sb, err := s.index.Sandbox(ctx, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	_, err = withPlugins(ctx, s, podKey(sb.Metadata), func(ctx context.Context) (struct{}, error) {
		// The sandbox may have been removed during the wait for the lock.
		sb, err := s.index.Sandbox(ctx, sb.ID)
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, s.plugins.updatePod(ctx, sb, r)
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}

// newLimits returns the keeper of the containers' limits and the records of the
// pods'.
func newLimits(s *Service) (*limits.Keeper, *limits.Pods) {
	keeper := limits.New(limits.Options{
		Engine: s.engine, Index: s.index, Store: containerResources{s.state}, Host: s.Host,
		Lock: func(ctx context.Context, c *translate.Container) (func(), error) {
			return s.locks.Lock(ctx, s.containerKey(ctx, c))
		},
		Updated: func(c *translate.Container, want *runtimeapi.LinuxContainerResources) error {
			return s.userns.moveExecs(c, want)
		},
		CgroupRoot: s.cfg.CgroupRoot, Interval: s.cfg.LimitsInterval,
	})
	return keeper, limits.NewPods(sandboxResources{s.state})
}
