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

// pinNetwork keeps a running sandbox's network namespace for DEL, which without
// it takes back only a part of what ADD did. It is idempotent and needs the
// pod's lock.
func (s *Service) pinNetwork(ctx context.Context, sb *translate.Sandbox) error {
	pin := s.netnsPath(sb.ID)
	if !sb.Running || !s.networked(sb) || network.IsPinned(pin) {
		return nil
	}
	pinErr := network.PinNetNS(sb.Pid, pin)
	// The process ID is another's if the sandbox has ended, and DEL in a wrong
	// namespace would take down somebody else's network.
	c, err := s.engine.ContainerInspect(ctx, sb.ID)
	if err == nil && c.State.Running && c.State.Pid == sb.Pid {
		return pinErr
	}
	return errors.Join(ignoreNotFound(err), network.UnpinNetNS(pin))
}
