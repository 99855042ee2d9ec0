package shim

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/translate"
)

// RemoveContainer removes a container, killing it first if it runs. It is
// idempotent; an unknown ID is success. The log file stays.
func (s *Service) RemoveContainer(ctx context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	resp := &runtimeapi.RemoveContainerResponse{}
	c, err := s.index.Container(ctx, r.GetContainerId())
	if err != nil {
		return resp, ignoreNotFound(err)
	}
	_, err = withPlugins(ctx, s, s.containerKey(ctx, c), func(ctx context.Context) (struct{}, error) {
		c, err := s.index.Container(ctx, c.ID)
		if err != nil {
			return struct{}{}, ignoreNotFound(err)
		}
		return struct{}{}, s.removeContainer(ctx, c)
	})
	return resp, err
}

// removeContainer does the work of RemoveContainer under the pod's lock.
func (s *Service) removeContainer(ctx context.Context, c *translate.Container) error {
	if err := s.stops.stop(ctx, c, 0); err != nil {
		return err
	}
	s.plugins.removed(ctx, c)
	// Docker's log goes with the container, and an exit may have been published
	// before all of it was in the CRI log.
	s.logs.CompleteAgain(ctx, c.ID)
	if err := s.names.remove(ctx, c.ID); err != nil {
		return err
	}
	s.forgetContainer(ctx, c)
	return nil
}

// forgetContainer removes what a removed container has left behind. It is
// idempotent. It only logs errors: nobody would retry for a removed container.
func (s *Service) forgetContainer(ctx context.Context, c *translate.Container) {
	if err := s.mounts.Release(ctx, c.Name); err != nil {
		klog.FromContext(ctx).Error(err, "Failed to release mounts of a removed container; will retry at the next start", "containerID", c.ID)
	}
	if err := s.plugins.unlink(ctx, c); err != nil {
		klog.FromContext(ctx).Error(err, "Failed to remove links for NRI plugins' mounts; they go with the pod", "containerID", c.ID)
	}
	s.oom.Forget(c.ID)
	if err := s.limits.Forget(c.ID); err != nil {
		klog.FromContext(ctx).Error(err, "Failed to remove updated resources of a removed container", "containerID", c.ID)
	}
	if err := s.logs.Forget(c); err != nil {
		klog.FromContext(ctx).Error(err, "Failed to remove the log position or the log link of a removed container", "containerID", c.ID)
	}
	if err := s.state.Container(c.ID).Release(); err != nil {
		klog.FromContext(ctx).Error(err, "Failed to remove the files of a removed container; will retry at the next start", "containerID", c.ID)
	}
}

// containerGone cleans up after a container that somebody else has removed; after
// cridock's own removal it finds nothing to do.
func (s *Service) containerGone(ctx context.Context, c *translate.Container) {
	if s.plugins.waitStarted(ctx) != nil {
		return // shutting down; the next start collects it
	}
	unlock, err := s.locks.Lock(ctx, s.containerKey(ctx, c))
	if err != nil {
		return // shutting down; the next start collects it
	}
	defer unlock()
	s.plugins.blocked(ctx, func() { s.plugins.removed(ctx, c) })
	s.logs.CompleteAgain(ctx, c.ID)
	s.stats.Forget(c.ID)
	s.userns.forget(ctx, c.ID)
	s.forgetContainer(ctx, c)
}
