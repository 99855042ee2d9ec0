package shim

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/translate"
)

// finishNetwork configures what it can in a pod's network namespace only once the
// sandbox runs and has its interfaces.
func (s *Service) finishNetwork(ctx context.Context, sb *translate.Sandbox, cfg *runtimeapi.PodSandboxConfig) error {
	if err := s.makeSysfsWritable(ctx, sb, cfg); err != nil {
		return err
	}
	return s.setInterfaceSysctls(sb, cfg)
}

// makeSysfsWritable lets the privileged containers of a pod mount /sys writable.
// Otherwise the sandbox, which is not privileged, makes it read-only for them: its
// /sys is the first in their network namespace, and Docker mounts it read-only.
func (s *Service) makeSysfsWritable(ctx context.Context, sb *translate.Sandbox, cfg *runtimeapi.PodSandboxConfig) error {
	if !cfg.GetLinux().GetSecurityContext().GetPrivileged() || sb.HostNetwork {
		return nil
	}
	err := network.MakeSysfsWritable(s.netnsOf(sb))
	if errdefs.IsNotImplemented(err) {
		klog.FromContext(ctx).Error(err, "Privileged containers of a pod get a read-only /sys", "pod", podName(sb.Metadata))
		return nil
	}
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", sb.ID, err)
	}
	return nil
}

// netnsOf returns the path of a running sandbox's network namespace.
func (s *Service) netnsOf(sb *translate.Sandbox) string {
	if s.cni == nil {
		return fmt.Sprintf("/proc/%d/ns/net", sb.Pid)
	}
	return s.netnsPath(sb.ID)
}
