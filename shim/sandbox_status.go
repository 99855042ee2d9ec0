package shim

import (
	"cmp"
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/wire"
	"github.com/cridock/cridock/translate"
)

// PodSandboxStatus describes a sandbox from the index; with Verbose it asks
// Docker for details. An unknown ID is NotFound.
func (s *Service) PodSandboxStatus(ctx context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	resp, members, err := s.podSandboxStatus(ctx, r)
	for _, c := range members {
		resp.ContainersStatuses = append(resp.ContainersStatuses, translate.CRIContainerStatus(c))
	}
	return resp, err
}

// podContainersField is the number of PodSandboxStatusResponse.containers_statuses.
const podContainersField = 3

// podSandboxStatusEncoded is PodSandboxStatus for the socket.
func (s *Service) podSandboxStatusEncoded(ctx context.Context, r *runtimeapi.PodSandboxStatusRequest) (*wire.Response, error) {
	rest, members, err := s.podSandboxStatus(ctx, r)
	if err != nil {
		return nil, err
	}
	resp := wire.New(rest)
	for _, c := range members {
		resp.Add(podContainersField, translate.EncodedContainerStatus(c))
	}
	return resp, nil
}

// podSandboxStatus returns a response without containers, and the containers with
// their effective resources.
func (s *Service) podSandboxStatus(ctx context.Context, r *runtimeapi.PodSandboxStatusRequest) (resp *runtimeapi.PodSandboxStatusResponse, members []*translate.Container, err error) {
	sb, err := s.index.Sandbox(ctx, r.GetPodSandboxId())
	if err != nil {
		return nil, nil, err
	}
	// No Timestamp: with one, kubelet 1.37 with EventedPLEG uses the statuses below
	// for the pod without filling its list of active containers, and runs the init
	// containers over and over. Without one, it asks for each container.
	resp = &runtimeapi.PodSandboxStatusResponse{Status: translate.CRISandboxStatus(sb, s.networks.Ready(sb), s.networks.IPs(sb))}
	if r.GetVerbose() {
		if resp.Info, err = s.sandboxInfo(ctx, sb); err != nil {
			return nil, nil, err
		}
	}
	for _, c := range s.index.ContainersOf(sb.ID) {
		members = append(members, s.limits.Effective(c))
	}
	return resp, members, nil
}

// sandboxInfo returns the verbose information, under containerd's keys where Docker
// has their values.
func (s *Service) sandboxInfo(ctx context.Context, sb *translate.Sandbox) (map[string]string, error) {
	inspect, err := s.engine.ContainerInspect(ctx, sb.ID)
	if err != nil {
		return nil, err
	}
	cfg, err := s.podLimits.Config(sb, sb.KnownConfig())
	if err != nil {
		return nil, err
	}
	info := map[string]any{
		"pid": sb.Pid, "image": sb.ImageID, "runtimeHandler": sb.RuntimeHandler, "runtimeType": inspect.HostConfig.Runtime,
		"snapshotter": inspect.Driver, "config": cmp.Or(cfg, sb.Config), "cgroupParent": sb.CgroupParent, "docker": inspect,
	}
	describeSpec(info, sb.ID, sb.Pid, s.networks.NetNS(sb), nil)
	s.networks.Describe(ctx, sb, info)
	return jsonInfo(map[string]any{"info": info})
}
