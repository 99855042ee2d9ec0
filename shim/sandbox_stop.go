package shim

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/shim/state"
	"github.com/cridock/cridock/translate"
)

// StopPodSandbox kills the pod's containers, releases its network and stops the
// sandbox. It is idempotent; an unknown ID is success.
func (s *Service) StopPodSandbox(ctx context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	resp := &runtimeapi.StopPodSandboxResponse{}
	return resp, s.withSandbox(ctx, r.GetPodSandboxId(), withPlugins, s.stopSandbox)
}

// RemovePodSandbox stops a sandbox if necessary and removes it with all its
// containers. It is idempotent; an unknown ID is success. Log files stay: they
// are the kubelet's.
func (s *Service) RemovePodSandbox(ctx context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	resp := &runtimeapi.RemovePodSandboxResponse{}
	return resp, s.withSandbox(ctx, r.GetPodSandboxId(), withPlugins, s.removeSandbox)
}

// lockFunc is [withLock] or [withPlugins].
type lockFunc func(ctx context.Context, s *Service, key string, op func(context.Context) (struct{}, error)) (struct{}, error)

// withSandbox runs an operation on a sandbox under its pod's lock, detached
// from the caller. A missing sandbox is success.
func (s *Service) withSandbox(ctx context.Context, id string, lock lockFunc, op func(context.Context, *translate.Sandbox) error) error {
	sb, err := s.index.Sandbox(ctx, id)
	if err != nil {
		return ignoreNotFound(err)
	}
	_, err = lock(ctx, s, podKey(sb.Metadata), func(ctx context.Context) (struct{}, error) {
		// The sandbox may have changed during the wait for the lock.
		sb, err := s.index.Sandbox(ctx, sb.ID)
		if err != nil {
			return struct{}{}, ignoreNotFound(err)
		}
		return struct{}{}, op(ctx, sb)
	})
	return err
}

func (s *Service) stopSandbox(ctx context.Context, sb *translate.Sandbox) error {
	if err := s.stopMembers(ctx, sb.ID); err != nil {
		return err
	}
	s.plugins.podStopped(ctx, sb)
	// Release the network after the containers, so that none sends from an address
	// that another pod may have, and before the sandbox's process, as plugins may
	// need its namespace.
	if err := s.networks.Release(ctx, sb); err != nil {
		return err
	}
	return s.killSandbox(ctx, sb)
}

// stopMembers kills all containers of a sandbox, in parallel.
func (s *Service) stopMembers(ctx context.Context, sandboxID string) error {
	var g errgroup.Group
	for _, c := range s.index.ContainersOf(sandboxID) {
		g.Go(func() error {
			err := s.stops.stop(ctx, c, 0)
			if err == nil {
				s.plugins.stopped(ctx, c)
			}
			return err
		})
	}
	return g.Wait()
}

func (s *Service) killSandbox(ctx context.Context, sb *translate.Sandbox) error {
	if !sb.Running {
		return nil
	}
	// SIGKILL: the pause process has nothing to tidy up.
	err := s.engine.ContainerKill(ctx, sb.ID, "SIGKILL")
	if err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
		return fmt.Errorf("stop sandbox %s: %w", sb.ID, err)
	}
	if err := s.index.WaitExited(ctx, sb.ID); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", sb.ID, err)
	}
	return nil
}

func (s *Service) removeSandbox(ctx context.Context, sb *translate.Sandbox) error {
	if err := s.stopSandbox(ctx, sb); err != nil {
		return err
	}
	var g errgroup.Group
	for _, c := range s.index.ContainersOf(sb.ID) {
		g.Go(func() error { return s.removeContainer(ctx, c) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.plugins.podRemoved(ctx, sb)
	if err := s.names.remove(ctx, sb.ID); err != nil {
		return err
	}
	if err := s.collectDir(ctx, sb); err != nil {
		return fmt.Errorf("directory of sandbox %s: %w", sb.ID, err)
	}
	return nil
}

// sandboxGone cleans up after a sandbox that somebody else has removed, whose
// containers may still run; after cridock's own removal it finds nothing to do.
func (s *Service) sandboxGone(ctx context.Context, sb *translate.Sandbox) {
	if s.plugins.waitStarted(ctx) != nil {
		return // shutting down; the next start collects it
	}
	unlock, err := s.locks.Lock(ctx, podKey(sb.Metadata))
	if err != nil {
		return // shutting down; the next start collects it
	}
	defer unlock()
	s.plugins.blocked(ctx, func() { s.plugins.podRemoved(ctx, sb) })
	s.stats.Forget(sb.ID)
	s.userns.forget(ctx, sb.ID)
	if err := errors.Join(s.networks.Forget(ctx, sb), s.collectDir(ctx, sb)); err != nil {
		klog.FromContext(ctx).Error(err, "Incomplete cleanup of a removed sandbox; will retry at the next start", "sandboxID", sb.ID)
	}
}

// collectDir removes the directory of a removed sandbox, unless another sandbox has
// the same one: its name derives from the metadata, which another adapter's sandbox
// may share with one of ours.
func (s *Service) collectDir(ctx context.Context, gone *translate.Sandbox) error {
	sandboxes, err := s.index.Sandboxes(ctx)
	if err != nil {
		return err
	}
	dir := s.sandboxDir(gone.Metadata)
	for _, sb := range sandboxes {
		if s.sandboxDir(sb.Metadata) == dir {
			return nil
		}
	}
	return dir.RemoveAll()
}

// sweepState removes the files of sandboxes and containers that a killed process did
// not complete or remove, or that were removed while cridock was not running.
func (s *Service) sweepState(ctx context.Context) error {
	sandboxes, err := s.index.Sandboxes(ctx)
	if err != nil {
		return err
	}
	containers, err := s.index.Containers(ctx)
	if err != nil {
		return err
	}
	var live state.Live
	for _, sb := range sandboxes {
		live.Sandboxes = append(live.Sandboxes, translate.SandboxName(sb.Metadata))
	}
	for _, c := range containers {
		live.Containers = append(live.Containers, c.ID)
	}
	return s.state.Sweep(live)
}
