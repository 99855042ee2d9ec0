package shim

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/wire"
	"github.com/cridock/cridock/translate"
)

// ListContainers lists containers from the index.
func (s *Service) ListContainers(ctx context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	resp := &runtimeapi.ListContainersResponse{}
	containers, err := s.containers(ctx, r.GetFilter())
	for _, c := range containers {
		resp.Containers = append(resp.Containers, translate.CRIContainer(c))
	}
	return resp, err
}

// containersField is the number of ListContainersResponse.containers and of
// StreamContainersResponse.containers.
const containersField = 1

// listContainersEncoded is ListContainers for the socket.
func (s *Service) listContainersEncoded(ctx context.Context, r *runtimeapi.ListContainersRequest) (*wire.Response, error) {
	resp := wire.New(&runtimeapi.ListContainersResponse{})
	containers, err := s.containers(ctx, r.GetFilter())
	for _, c := range containers {
		resp.Add(containersField, translate.EncodedContainer(c))
	}
	return resp, err
}

func (s *Service) containers(ctx context.Context, f *runtimeapi.ContainerFilter) ([]*translate.Container, error) {
	all, err := s.index.Containers(ctx)
	if f == nil {
		return all, err
	}
	var matching []*translate.Container
	for _, c := range all {
		if translate.MatchContainer(c, f) {
			matching = append(matching, c)
		}
	}
	return matching, err
}
