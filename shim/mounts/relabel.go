package mounts

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Relabel sets the container's SELinux label on the sources of a created
// container's mounts with selinux_relabel; Docker does so only for its older kind
// of mounts. It does nothing if Docker does not use SELinux. The library refuses
// system directories.
func (m *Preparer) Relabel(ctx context.Context, id string) error {
	if !m.o.Host().SELinux {
		return nil
	}
	c, err := m.o.Index.Container(ctx, id)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(c.Mounts, (*runtimeapi.Mount).GetSelinuxRelabel) {
		return nil
	}
	// Docker chose the label at creation, from the pod's if none was requested.
	inspect, err := m.o.Engine.ContainerInspect(ctx, id)
	if err != nil {
		return err
	}
	for i, mount := range c.Mounts {
		if !mount.GetSelinuxRelabel() || mount.GetImage().GetImage() != "" {
			continue
		}
		// Not shared: the label is for this pod, whose containers have one level.
		err := label.Relabel(mount.GetHostPath(), inspect.MountLabel, false)
		// Some file systems do not support labels: use the mount as it is.
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("mounts[%d].selinux_relabel of %q: %w: %w", i, mount.GetHostPath(), errdefs.ErrFailedPrecondition, err)
		}
	}
	return nil
}
