package shim

import (
	"context"
	"fmt"

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
	_, err = withLock(ctx, s, s.containerKey(ctx, c), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.limits.Update(ctx, c.ID, r.GetLinux())
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
	unlock, err := s.locks.Lock(ctx, podKey(sb.Metadata))
	if err != nil {
		return nil, err
	}
	defer unlock()
	// The sandbox may have been removed during the wait for the lock.
	if sb, err = s.index.Sandbox(ctx, sb.ID); err != nil {
		return nil, err
	}
	if err := s.podLimits.Update(sb, r); err != nil {
		return nil, fmt.Errorf("resources of sandbox %s: %w", sb.ID, err)
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
		CgroupRoot: s.cfg.CgroupRoot, Interval: s.cfg.LimitsInterval,
	})
	return keeper, limits.NewPods(sandboxResources{s.state})
}
