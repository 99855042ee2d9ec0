package shim

import (
	"cmp"
	"context"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/shim/wire"
	"github.com/cridock/cridock/translate"
)

// noNetwork is the network mode of sandboxes that CNI connects.
const noNetwork = "none"

// networked reports whether CNI connects a sandbox: not if it uses the host's
// network, or if an earlier adapter had Docker connect it.
func (s *Service) networked(sb *translate.Sandbox) bool {
	return s.cni != nil && sb.NetworkMode == noNetwork
}

// sandboxReady reports whether a sandbox runs and has its network.
func (s *Service) sandboxReady(sb *translate.Sandbox) bool {
	if !sb.Running || !s.networked(sb) {
		return sb.Running
	}
	_, attached := s.attachment(sb)
	return attached
}

// networkComplete is sandboxReady for the index, which must not wait for the
// inspection of the network of another adapter's sandbox.
func (s *Service) networkComplete(sb *translate.Sandbox) bool {
	return sb.Config == nil || s.sandboxReady(sb)
}

// attachment returns a sandbox's network attachment. CNI's cache may lack that of
// another adapter's sandbox, and a working pod must not be replaced for that.
func (s *Service) attachment(sb *translate.Sandbox) (*network.Attachment, bool) {
	if a, ok := s.cni.Attachment(sb.ID); ok || sb.Config != nil || !sb.Running {
		return a, ok
	}
	return s.cni.Adopt(sb.ID, processNetNS(sb.Pid))
}

// processNetNS returns the path of a process's network namespace.
func processNetNS(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

// sandboxIPs returns the addresses of a ready sandbox; none with the host's network.
func (s *Service) sandboxIPs(sb *translate.Sandbox) []string {
	if !s.sandboxReady(sb) || sb.HostNetwork {
		return nil
	}
	if s.cni != nil {
		if a, ok := s.attachment(sb); ok {
			return a.IPs
		}
	}
	return sb.DockerIPs
}

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
	resp = &runtimeapi.PodSandboxStatusResponse{Status: translate.CRISandboxStatus(sb, s.sandboxReady(sb), s.sandboxIPs(sb))}
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
	cfg, err := s.podLimits.Config(sb, podConfig(sb))
	if err != nil {
		return nil, err
	}
	netns := s.sandboxNetNS(sb)
	info := map[string]any{
		"pid": sb.Pid, "image": sb.ImageID, "runtimeHandler": sb.RuntimeHandler, "runtimeType": inspect.HostConfig.Runtime,
		"snapshotter": inspect.Driver, "config": cmp.Or(cfg, sb.Config), "cgroupParent": sb.CgroupParent, "docker": inspect,
	}
	describeSpec(info, sb.ID, sb.Pid, netns, nil)
	if s.cni != nil && !sb.HostNetwork {
		a, _ := s.attachment(sb)
		info["netns"], info["cniResult"] = netns, a
		if a != nil {
			info["cniCheck"] = s.checkNetwork(ctx, sb)
		}
	}
	return jsonInfo(map[string]any{"info": info})
}

// checkTimeout bounds a CNI CHECK, including its wait for other CNI operations on
// the pod.
const checkTimeout = 10 * time.Second

// checkNetwork returns the result of CNI CHECK: "ok" or the error.
func (s *Service) checkNetwork(ctx context.Context, sb *translate.Sandbox) string {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	rt, err := translate.CNIRuntimeConf(podConfig(sb), sb.ID, s.sandboxNetNS(sb))
	if err == nil {
		err = traced(ctx, "CNI CHECK", func(ctx context.Context) error { return s.cni.Check(ctx, rt) })
	}
	if err != nil {
		return err.Error()
	}
	return "ok"
}
