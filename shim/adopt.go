package shim

import (
	"context"
	"errors"
)

// adoptNetworks pins the network namespaces of running sandboxes that have no
// pin: dockershim and cri-dockerd make none, and a runtime directory can be lost.
func (s *Service) adoptNetworks(ctx context.Context) error {
	sandboxes, err := s.index.Sandboxes(ctx)
	for _, sb := range sandboxes {
		err = errors.Join(err, s.withSandbox(ctx, sb.ID, s.networks.Pin))
	}
	return err
}
