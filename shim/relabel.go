package shim

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

// relabelMounts gives what a created container mounts with selinux_relabel the
// container's SELinux label, which Docker does for its older kind of mounts
// only. It does nothing where Docker does not use SELinux. Directories of the
// system are refused by the library.
func (s *Service) relabelMounts(ctx context.Context, id string) error {
	if !s.Host().SELinux {
		return nil
	}
	c, err := s.index.Container(ctx, id)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(c.Mounts, (*runtimeapi.Mount).GetSelinuxRelabel) {
		return nil
	}
	// Docker chose the label at the creation, from the pod's if none was asked for.
	inspect, err := s.engine.ContainerInspect(ctx, id)
	if err != nil {
		return err
	}
	for i, m := range c.Mounts {
		if !m.GetSelinuxRelabel() || m.GetImage().GetImage() != "" {
			continue
		}
		// Not shared: it is for this pod, whose containers have one level.
		err := label.Relabel(m.GetHostPath(), inspect.MountLabel, false)
		// Some file systems have no labels; the mount is as good as it can be.
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("mounts[%d].selinux_relabel of %q: %w: %w", i, m.GetHostPath(), errdefs.ErrFailedPrecondition, err)
		}
	}
	return nil
}
