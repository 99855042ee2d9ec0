package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/translate"
)

// StopPodSandbox kills the pod's containers, releases its network and stops the
// sandbox. It is idempotent; an unknown ID is success.
func (s *Service) StopPodSandbox(ctx context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	resp := &runtimeapi.StopPodSandboxResponse{}
	return resp, s.withSandbox(ctx, r.GetPodSandboxId(), s.stopSandbox)
}

// RemovePodSandbox stops a sandbox if necessary and removes it with all its
// containers. It is idempotent; an unknown ID is success. Log files stay: they
// are the kubelet's.
func (s *Service) RemovePodSandbox(ctx context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	resp := &runtimeapi.RemovePodSandboxResponse{}
	return resp, s.withSandbox(ctx, r.GetPodSandboxId(), s.removeSandbox)
}

// withSandbox runs an operation on a sandbox under its pod's lock, detached
// from the caller. A missing sandbox is success.
func (s *Service) withSandbox(ctx context.Context, id string, op func(context.Context, *translate.Sandbox) error) error {
	sb, err := s.index.Sandbox(ctx, id)
	if err != nil {
		return ignoreNotFound(err)
	}
	_, err = withLock(ctx, s, podKey(sb.Metadata), func(ctx context.Context) (struct{}, error) {
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
	// Release the network after the containers, so that none sends from an address
	// that another pod may have, and before the sandbox's process, as plugins may
	// need its namespace.
	if err := s.releaseNetwork(ctx, sb); err != nil {
		return err
	}
	return s.killSandbox(ctx, sb)
}

// stopMembers kills all containers of a sandbox, in parallel.
func (s *Service) stopMembers(ctx context.Context, sandboxID string) error {
	var g errgroup.Group
	for _, c := range s.index.ContainersOf(sandboxID) {
		g.Go(func() error { return s.stopContainer(ctx, c, 0) })
	}
	return g.Wait()
}

// releaseNetwork releases a sandbox's addresses and its namespace, whether the
// network is set up, partly set up or already released.
func (s *Service) releaseNetwork(ctx context.Context, sb *translate.Sandbox) error {
	if err := s.pinNetwork(ctx, sb); err != nil {
		klog.FromContext(ctx).Error(err, "Releasing the network of a sandbox without its namespace", "sandboxID", sb.ID)
	}
	delCtx, cancel := withinDeadline(ctx)
	defer cancel()
	if err := s.releaseAddresses(delCtx, sb); err != nil || s.cni == nil {
		return err
	}
	return network.UnpinNetNS(s.netnsPath(sb.ID))
}

func (s *Service) releaseAddresses(ctx context.Context, sb *translate.Sandbox) error {
	if !s.networked(sb) {
		return nil
	}
	rt, err := translate.CNIRuntimeConf(podConfig(sb), sb.ID, s.netnsPath(sb.ID))
	if err != nil {
		return err
	}
	err = traced(ctx, "CNI DEL", func(ctx context.Context) error { return s.cni.Teardown(ctx, rt) })
	if err != nil {
		return fmt.Errorf("release the network of sandbox %s of pod %s: %w", sb.ID, podName(sb.Metadata), err)
	}
	return nil
}

// podName returns a pod's name for messages.
func podName(m *runtimeapi.PodSandboxMetadata) string { return m.GetNamespace() + "/" + m.GetName() }

// podConfig returns what is known of a sandbox's configuration: only a part of it if
// another adapter created the sandbox.
func podConfig(sb *translate.Sandbox) *runtimeapi.PodSandboxConfig {
	if sb.Config != nil {
		return sb.Config
	}
	return &runtimeapi.PodSandboxConfig{Metadata: sb.Metadata, Labels: sb.Labels, Annotations: sb.Annotations, PortMappings: sb.PortMappings}
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
	if err := s.removeObject(ctx, sb.ID); err != nil {
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
	unlock, err := s.locks.lock(ctx, podKey(sb.Metadata))
	if err != nil {
		return // shutting down; the next start collects it
	}
	defer unlock()
	s.stats.Forget(sb.ID)
	s.forgetRecord(ctx, sb.ID)
	if s.cni != nil {
		if err = s.releaseRecorded(ctx, sb); err == nil {
			err = network.UnpinNetNS(s.netnsPath(sb.ID))
		}
	}
	if err = errors.Join(err, s.collectDir(ctx, sb)); err != nil {
		klog.FromContext(ctx).Error(err, "Incomplete cleanup of a removed sandbox; will retry at the next start", "sandboxID", sb.ID)
	}
}

// releaseRecorded releases a sandbox's addresses if it may have any.
func (s *Service) releaseRecorded(ctx context.Context, sb *translate.Sandbox) error {
	attached, err := s.cni.Recorded(sb.ID)
	if err != nil || !attached {
		return err
	}
	return s.releaseAddresses(ctx, sb)
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
	return s.state().RemoveAll(dir)
}

// collectRemains releases what removed sandboxes have left behind: those that a
// killed process did not complete or remove, and those removed while cridock was
// not running.
func (s *Service) collectRemains(ctx context.Context) error {
	err := s.collectDirs(ctx)
	if s.cni == nil {
		return err
	}
	sandboxes, listErr := s.index.Sandboxes(ctx)
	if listErr != nil {
		return errors.Join(err, listErr)
	}
	live := make([]string, 0, len(sandboxes))
	for _, sb := range sandboxes {
		live = append(live, sb.ID)
	}
	return errors.Join(err, s.cni.GC(ctx, live), s.collectPins(ctx))
}

// collectPins removes namespace pins of removed sandboxes. A sandbox is in the index
// before it has a pin, so a sandbox that has a pin and is not in the index is gone.
func (s *Service) collectPins(ctx context.Context) error {
	entries, err := os.ReadDir(s.cfg.NetNSDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if _, lookErr := s.index.Sandbox(ctx, e.Name()); errdefs.IsNotFound(lookErr) {
			err = errors.Join(err, network.UnpinNetNS(s.netnsPath(e.Name())))
		}
	}
	return err
}

// started distinguishes files of this process from those of earlier ones.
var started = time.Now()

// collectDirs removes the directories of removed sandboxes. A new sandbox has its
// directory before it is in the index, so it removes only directories last modified
// before this process started.
func (s *Service) collectDirs(ctx context.Context) error {
	names, err := s.state().Names(sandboxesDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	sandboxes, listErr := s.index.Sandboxes(ctx)
	if err = errors.Join(err, listErr); err != nil {
		return err
	}
	keep := make(map[string]bool, len(sandboxes))
	for _, sb := range sandboxes {
		keep[s.sandboxDir(sb.Metadata)] = true
	}
	for _, name := range names {
		dir := filepath.Join(sandboxesDir, name)
		if info, infoErr := s.state().Lstat(dir); infoErr == nil && info.ModTime().Before(started) && !keep[dir] {
			err = errors.Join(err, s.state().RemoveAll(dir))
		}
	}
	return err
}
