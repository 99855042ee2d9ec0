package shim

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/shim/podnet"
	"github.com/cridock/cridock/shim/stats"
	"github.com/cridock/cridock/translate"
)

// usage reads stats and metrics of what is in the index.
type usage struct {
	engine     engine.Containers
	index      *index.Index
	networks   *podnet.Networks
	collector  *stats.Collector
	layers     func() stats.Layers
	pauseImage func() string
}

func (u *usage) containers(ctx context.Context, f *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	containers, err := u.index.Containers(ctx)
	if err != nil {
		return nil, err
	}
	match := &runtimeapi.ContainerFilter{
		Id: f.GetId(), PodSandboxId: f.GetPodSandboxId(), LabelSelector: f.GetLabelSelector(),
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}
	var targets []stats.Container
	for _, c := range containers {
		if translate.MatchContainer(c, match) {
			targets = append(targets, u.container(c))
		}
	}
	return u.collector.Containers(ctx, targets)
}

// ask asks Docker for stats that cannot be read here: of containers whose
// runtime uses no cgroup of this kernel. CPU usage has no rate; the kubelet
// computes its own from two readings.
func (u *usage) ask(ctx context.Context, c stats.Container) (*runtimeapi.ContainerStats, error) {
	r, err := u.engine.ContainerStats(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	return translate.CRIContainerStats(c.Attributes, r), nil
}

func (u *usage) container(c *translate.Container) stats.Container {
	return stats.Container{
		ID: c.ID, Pid: c.Pid, UpperDir: c.UpperDir, StartedAt: c.StartedAt, Image: c.Image.GetImage(), Mountpoint: u.layers().Root,
		Attributes: &runtimeapi.ContainerAttributes{Id: c.ID, Metadata: c.Metadata, Labels: c.Labels, Annotations: c.Annotations},
	}
}

func (u *usage) pods(ctx context.Context, f *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	pods, err := u.ready(ctx, &runtimeapi.PodSandboxFilter{Id: f.GetId(), LabelSelector: f.GetLabelSelector()})
	if err != nil {
		return nil, err
	}
	return u.collector.Pods(ctx, pods)
}

func (u *usage) metrics(ctx context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	pods, err := u.ready(ctx, nil)
	if err != nil {
		return nil, err
	}
	return u.collector.PodsMetrics(ctx, pods)
}

// ready returns the ready pods that match, in the collector's form.
func (u *usage) ready(ctx context.Context, f *runtimeapi.PodSandboxFilter) ([]stats.Pod, error) {
	sandboxes, err := u.index.Sandboxes(ctx)
	if err != nil {
		return nil, err
	}
	var pods []stats.Pod
	for _, sb := range sandboxes {
		if u.networks.Ready(sb) && translate.MatchSandbox(sb, true, f) {
			pods = append(pods, u.pod(sb))
		}
	}
	return pods, nil
}

func (u *usage) pod(sb *translate.Sandbox) stats.Pod {
	pod := stats.Pod{
		ID: sb.ID, Pid: sb.Pid, Image: u.pauseImage(), HostNetwork: sb.HostNetwork, CgroupParent: sb.CgroupParent,
		Attributes: &runtimeapi.PodSandboxAttributes{Id: sb.ID, Metadata: sb.Metadata, Labels: sb.Labels, Annotations: sb.Annotations},
	}
	for _, c := range u.index.ContainersOf(sb.ID) {
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			pod.Containers = append(pod.Containers, u.container(c))
		}
	}
	return pod
}
