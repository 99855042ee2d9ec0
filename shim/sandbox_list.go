package shim

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/wire"
	"github.com/cridock/cridock/translate"
)

// ListPodSandbox lists sandboxes from the index.
func (s *Service) ListPodSandbox(ctx context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	resp := &runtimeapi.ListPodSandboxResponse{}
	err := s.eachSandbox(ctx, r.GetFilter(), func(sb *translate.Sandbox, ready bool) {
		resp.Items = append(resp.Items, translate.CRISandbox(sb, ready))
	})
	return resp, err
}

// sandboxesField is the number of ListPodSandboxResponse.items and of
// StreamPodSandboxesResponse.pod_sandboxes.
const sandboxesField = 1

// listPodSandboxEncoded is ListPodSandbox for the socket.
func (s *Service) listPodSandboxEncoded(ctx context.Context, r *runtimeapi.ListPodSandboxRequest) (*wire.Response, error) {
	resp := wire.New(&runtimeapi.ListPodSandboxResponse{})
	err := s.eachSandbox(ctx, r.GetFilter(), func(sb *translate.Sandbox, ready bool) {
		resp.Add(sandboxesField, translate.EncodedSandbox(sb, ready))
	})
	return resp, err
}

func (s *Service) eachSandbox(ctx context.Context, f *runtimeapi.PodSandboxFilter, do func(sb *translate.Sandbox, ready bool)) error {
	sandboxes, err := s.index.Sandboxes(ctx)
	for _, sb := range sandboxes {
		if ready := s.networks.Ready(sb); translate.MatchSandbox(sb, ready, f) {
			do(sb, ready)
		}
	}
	return err
}
