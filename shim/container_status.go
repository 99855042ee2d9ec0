package shim

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// ListContainers lists containers from the index.
func (s *Service) ListContainers(ctx context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	containers, err := s.index.Containers(ctx)
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.ListContainersResponse{}
	for _, c := range containers {
		if translate.MatchContainer(c, r.GetFilter()) {
			resp.Containers = append(resp.Containers, translate.EncodedContainer(c))
		}
	}
	return resp, nil
}

// ContainerStatus describes a container from the index; with Verbose it asks
// Docker for details. An unknown ID is NotFound.
func (s *Service) ContainerStatus(ctx context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := s.index.Container(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: translate.EncodedContainerStatus(s.limits.Effective(c))}
	if r.GetVerbose() {
		resp.Info, err = s.containerInfo(ctx, c)
	}
	return resp, err
}

// containerInfo returns the verbose information, under containerd's keys where
// Docker has their values. It omits environment values, which may be secrets and
// can be looked up in Docker.
func (s *Service) containerInfo(ctx context.Context, c *translate.Container) (map[string]string, error) {
	inspect, err := s.engine.ContainerInspect(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	inspect.Config.Env = nil
	info := map[string]any{
		"sandboxID": c.SandboxID, "pid": c.Pid, "runtimeType": inspect.HostConfig.Runtime, "snapshotter": inspect.Driver,
		"privileged": c.Privileged, "config": c.Config, "docker": inspect,
	}
	describeSpec(info, c.ID, c.Pid, "", s.limits.Effective(c).Resources)
	return jsonInfo(map[string]any{"info": info})
}
