package shim

import (
	"context"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/translate"
)

const (
	// limitsInterval is how often limits that systemd may have overwritten are checked.
	limitsInterval = 10 * time.Second
	// limitsPatience bounds the wait for a busy pod; the next round tries again.
	limitsPatience = time.Second
)

// keepLimits restores limits of running containers that systemd has overwritten,
// until ctx ends. Whenever its units are reloaded (systemctl daemon-reload, or the
// installation of any package with a unit) systemd writes all cgroup files of a
// container's scope, and resets to the default what Docker and runc have not set
// through it.
func (s *Service) keepLimits(ctx context.Context) error {
	interval := s.cfg.LimitsInterval
	if interval == 0 {
		interval = limitsInterval
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.restoreLimits(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Service) restoreLimits(ctx context.Context) {
	if s.index.Health() != nil || !translate.LimitsOverwritten(s.Host()) {
		return
	}
	containers, err := s.index.Containers(ctx)
	if err != nil {
		return // Docker has just disconnected
	}
	for _, c := range containers {
		if !s.limitsLost(c) {
			continue
		}
		if err := s.limitAgain(ctx, c); err != nil {
			klog.FromContext(ctx).Error(err, "Failed to restore limits that systemd has overwritten; will retry", "containerID", c.ID)
		}
	}
}

// limitsLost reports whether a running container lacks its limits. It compares
// text: a limit that the kernel shows in another form is needlessly but harmlessly
// written again.
func (s *Service) limitsLost(c *translate.Container) bool {
	if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return false
	}
	files := translate.CgroupFilesToKeep(s.withUpdates(c).Resources, s.Host())
	paths, err := s.cgroupPaths(c, files)
	if err != nil {
		return false
	}
	for i, file := range paths {
		if value, err := file.read(); err == nil && value != strings.TrimSpace(files[i].Value) {
			return true
		}
	}
	return false
}

// limitAgain checks again with the pod locked, as the limits may have been
// changing, and restores them. It does nothing if the pod is busy.
func (s *Service) limitAgain(ctx context.Context, c *translate.Container) error {
	wait, cancel := context.WithTimeout(ctx, limitsPatience)
	defer cancel()
	unlock, err := s.locks.Lock(wait, s.containerKey(wait, c))
	if err != nil {
		return nil //nolint:nilerr // its pod is busy
	}
	defer unlock()
	if c, err = s.index.Container(ctx, c.ID); err != nil || !s.limitsLost(c) {
		return ignoreNotFound(err)
	}
	klog.FromContext(ctx).V(2).Info("Restoring limits that systemd has overwritten", "containerID", c.ID)
	return s.writeCgroupFiles(c, translate.CgroupFilesToKeep(s.withUpdates(c).Resources, s.Host()))
}
