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
	// limitsInterval is how long limits that systemd has overwritten stay so.
	limitsInterval = 10 * time.Second
	// limitsPatience bounds the wait for a pod that is busy; the next round comes.
	limitsPatience = time.Second
)

// keepLimits sets limits of running containers again that systemd has
// overwritten, until ctx ends. Whenever its units are reloaded (systemctl
// daemon-reload, or the installation of any package with a unit) systemd writes
// all cgroup files of a container's scope, and what Docker and runc have not told
// it goes back to the default.
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
		return // Docker has just gone
	}
	for _, c := range containers {
		if !s.limitsLost(c) {
			continue
		}
		if err := s.limitAgain(ctx, c); err != nil {
			klog.FromContext(ctx).Error(err, "Limits that systemd has overwritten are not restored; it is tried again", "containerID", c.ID)
		}
	}
}

// limitsLost compares limits as text: one that the kernel shows in another form
// than it was given is written again in vain, and without harm.
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

// limitAgain looks again with the pod locked: the limits may be changing.
func (s *Service) limitAgain(ctx context.Context, c *translate.Container) error {
	wait, cancel := context.WithTimeout(ctx, limitsPatience)
	defer cancel()
	unlock, err := s.lockContainer(wait, c)
	if err != nil {
		return nil //nolint:nilerr // its pod is busy
	}
	defer unlock()
	if c, err = s.index.Container(ctx, c.ID); err != nil || !s.limitsLost(c) {
		return ignoreNotFound(err)
	}
	klog.FromContext(ctx).V(2).Info("Limits that systemd has overwritten are set again", "containerID", c.ID)
	return s.writeCgroupFiles(c, translate.CgroupFilesToKeep(s.withUpdates(c).Resources, s.Host()))
}
