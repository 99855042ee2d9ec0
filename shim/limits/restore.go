package limits

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/translate"
)

const (
	// restoreInterval is how often limits that systemd may have overwritten are checked.
	restoreInterval = 10 * time.Second
	// lockPatience bounds the wait for a busy pod; the next round tries again.
	lockPatience = time.Second
)

// Run calls [Keeper.Restore] at intervals until ctx ends. It returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	ticker := time.NewTicker(k.opts.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			k.Restore(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// Restore sets limits of running containers again that systemd has overwritten.
// Whenever its units are reloaded (systemctl daemon-reload, or the installation of
// any package with a unit) systemd writes all cgroup files of a container's scope,
// and resets to the default what Docker and runc have not set through it. Restore
// skips containers whose pods are busy, logs errors, and does nothing while there is
// no connection to Docker.
func (k *Keeper) Restore(ctx context.Context) {
	if k.opts.Index.Health() != nil || !translate.LimitsOverwritten(k.opts.Host()) {
		return
	}
	containers, err := k.opts.Index.Containers(ctx)
	if err != nil {
		return // Docker has just disconnected
	}
	for _, c := range containers {
		if !k.overwritten(c) {
			continue
		}
		if err := k.restore(ctx, c); err != nil {
			klog.FromContext(ctx).Error(err, "Failed to restore limits that systemd has overwritten; will retry", "containerID", c.ID)
		}
	}
}

// overwritten reports whether a running container lacks its limits. It compares
// text: a limit that the kernel shows in another form is needlessly but harmlessly
// written again.
func (k *Keeper) overwritten(c *translate.Container) bool {
	if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return false
	}
	limits := k.toKeep(c)
	files, err := k.files(c, limits)
	if err != nil {
		return false
	}
	for i, file := range files {
		if value, err := file.Read(); err == nil && value != strings.TrimSpace(limits[i].Value) {
			return true
		}
	}
	return false
}

// restore checks again with the pod locked, as the limits may have been changing,
// and restores them. It does nothing if the pod is busy.
func (k *Keeper) restore(ctx context.Context, c *translate.Container) error {
	wait, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	unlock, err := k.opts.Lock(wait, c)
	if err != nil {
		return nil //nolint:nilerr // its pod is busy
	}
	defer unlock()
	c, err = k.opts.Index.Container(ctx, c.ID)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil || !k.overwritten(c) {
		return err
	}
	klog.FromContext(ctx).V(2).Info("Restoring limits that systemd has overwritten", "containerID", c.ID)
	return k.write(c, k.toKeep(c))
}

// toKeep returns the limits in force that systemd may overwrite.
func (k *Keeper) toKeep(c *translate.Container) []translate.CgroupFile {
	return translate.CgroupFilesToKeep(k.Effective(c).Resources, k.opts.Host())
}
