package shim

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/wire"
	"github.com/cridock/cridock/translate"
)

// ContainerStatus describes a container from the index; with Verbose it asks
// Docker for details. An unknown ID is NotFound.
func (s *Service) ContainerStatus(ctx context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, info, err := s.containerStatus(ctx, r)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatusResponse{Status: translate.CRIContainerStatus(c), Info: info}, nil
}

// containerStatusField is the number of ContainerStatusResponse.status.
const containerStatusField = 1

// containerStatusEncoded is ContainerStatus for the socket.
func (s *Service) containerStatusEncoded(ctx context.Context, r *runtimeapi.ContainerStatusRequest) (*wire.Response, error) {
	c, info, err := s.containerStatus(ctx, r)
	if err != nil {
		return nil, err
	}
	resp := wire.New(&runtimeapi.ContainerStatusResponse{Info: info})
	resp.Add(containerStatusField, translate.EncodedContainerStatus(c))
	return resp, nil
}

// containerStatus returns a container with its effective resources and, if asked
// for, its verbose information.
func (s *Service) containerStatus(ctx context.Context, r *runtimeapi.ContainerStatusRequest) (c *translate.Container, info map[string]string, err error) {
	if c, err = s.index.Container(ctx, r.GetContainerId()); err != nil {
		return nil, nil, err
	}
	c = s.limits.Effective(c)
	if r.GetVerbose() {
		info, err = s.containerInfo(ctx, c)
	}
	return c, info, err
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
	if answer := s.plugins.stored(ctx, c.ID); answer != nil {
		info["nriAdjustment"] = answer
	}
	describeSpec(info, c.ID, c.Pid, "", c.Resources)
	return jsonInfo(map[string]any{"info": info})
}
