package shim

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// StartContainer starts a container that has never run; its log file exists on
// return. A container whose start fails becomes EXITED, with Docker's exit code and
// message.
func (s *Service) StartContainer(ctx context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	c, err := s.index.Container(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	_, err = withPlugins(ctx, s, s.containerKey(ctx, c), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.startContainer(ctx, c.ID)
	})
	return &runtimeapi.StartContainerResponse{}, err
}

func (s *Service) startContainer(ctx context.Context, id string) error {
	c, err := s.index.Container(ctx, id)
	if err != nil {
		return err
	}
	if c.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		return fmt.Errorf("container %s is %s: %w; only a created container can be started", c.ID, c.State, errdefs.ErrFailedPrecondition)
	}
	sb, err := s.index.Sandbox(ctx, c.SandboxID)
	if err != nil || !s.networks.Ready(sb) {
		return fmt.Errorf("sandbox %s of container %s is not ready: %w", c.SandboxID, c.ID, errdefs.ErrFailedPrecondition)
	}
	return s.plugins.startContainer(ctx, c, func() error { return s.startReady(ctx, c, sb) })
}

// startReady starts a container whose sandbox is ready.
func (s *Service) startReady(ctx context.Context, c *translate.Container, sb *translate.Sandbox) error {
	// The kubelet creates a link to the log right after the start.
	if err := s.logs.Follow(c); err != nil {
		return fmt.Errorf("log of container %s: %w", c.ID, err)
	}
	if err := s.userns.updateRecord(c, s.limits.Effective(c)); err != nil {
		return err
	}
	if err := s.restores.start(ctx, c); err != nil {
		return s.startFailed(ctx, c, err)
	}
	if err := s.index.Sync(ctx, c.ID); err != nil {
		return err
	}
	if err := s.userns.checkContainer(ctx, c.ID, sb); err != nil {
		return err
	}
	return s.limitStarted(ctx, c.ID)
}

// limitStarted sets the limits that can only be set on a running container. It
// stops a container whose limits cannot be set.
func (s *Service) limitStarted(ctx context.Context, id string) error {
	c, err := s.index.Container(ctx, id)
	if err != nil || c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return ignoreNotFound(err)
	}
	s.watchOOM(ctx, c)
	if err = s.limits.Apply(c); err != nil {
		err = errors.Join(err, s.stops.stop(ctx, c, 0))
	}
	return err
}

// startFailed makes a failed start visible: Docker sends no event for it.
func (s *Service) startFailed(ctx context.Context, c *translate.Container, cause error) error {
	if err := s.index.Sync(ctx, c.ID); err != nil {
		return fmt.Errorf("start container %s: %w (and its state is unknown: %w)", c.ID, opaque(cause), err)
	}
	return fmt.Errorf("start container %s: %w", c.ID, opaque(cause))
}
