package shim

import (
	"context"
	"errors"

	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/translate"
)

// adoptNetworks pins the network namespaces of running sandboxes that have no
// pin: dockershim and cri-dockerd make none, and a runtime directory can be lost.
func (s *Service) adoptNetworks(ctx context.Context) error {
	sandboxes, err := s.index.Sandboxes(ctx)
	for _, sb := range sandboxes {
		err = errors.Join(err, s.withSandbox(ctx, sb.ID, s.pinNetwork))
	}
	return err
}

// pinNetwork pins a running sandbox's network namespace: without it CNI DEL
// reverts only part of what ADD did. It is idempotent. The caller holds the pod's
// lock.
func (s *Service) pinNetwork(ctx context.Context, sb *translate.Sandbox) error {
	pin := s.netnsPath(sb.ID)
	if !sb.Running || !s.networked(sb) || network.IsPinned(pin) {
		return nil
	}
	pinErr := network.PinNetNS(sb.Pid, pin)
	// If the sandbox has exited, its process ID may have been reused, and DEL in
	// the wrong namespace would tear down another network.
	c, err := s.engine.ContainerInspect(ctx, sb.ID)
	if err == nil && c.State.Running && c.State.Pid == sb.Pid {
		return pinErr
	}
	return errors.Join(ignoreNotFound(err), network.UnpinNetNS(pin))
}
