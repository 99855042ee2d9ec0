package shim

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/stats"
	"github.com/cridock/cridock/translate"
)

// PodSandboxStats reads the stats of a ready pod and its running containers.
func (s *Service) PodSandboxStats(ctx context.Context, r *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	sb, err := s.readySandbox(ctx, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	st, err := s.stats.Pod(ctx, s.statsPod(sb))
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: st}, nil
}

// ListPodSandboxStats reads the stats of all ready pods that match the filter.
func (s *Service) ListPodSandboxStats(ctx context.Context, r *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	list, err := s.podStats(ctx, r.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: list}, nil
}

func (s *Service) podStats(ctx context.Context, f *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	pods, err := s.statsPods(ctx, &runtimeapi.PodSandboxFilter{Id: f.GetId(), LabelSelector: f.GetLabelSelector()})
	if err != nil {
		return nil, err
	}
	return s.stats.Pods(ctx, pods)
}

// ListMetricDescriptors describes the metrics of ListPodSandboxMetrics, which are
// cAdvisor's.
func (s *Service) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	return &runtimeapi.ListMetricDescriptorsResponse{Descriptors: s.stats.Descriptors()}, nil
}

// ListPodSandboxMetrics reads the metrics of all ready pods.
func (s *Service) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	list, err := s.podMetrics(ctx)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: list}, nil
}

func (s *Service) podMetrics(ctx context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	pods, err := s.statsPods(ctx, nil)
	if err != nil {
		return nil, err
	}
	return s.stats.PodsMetrics(ctx, pods)
}

// statsPods returns the ready pods that match, in the collector's form.
func (s *Service) statsPods(ctx context.Context, f *runtimeapi.PodSandboxFilter) ([]stats.Pod, error) {
	sandboxes, err := s.index.Sandboxes(ctx)
	if err != nil {
		return nil, err
	}
	var pods []stats.Pod
	for _, sb := range sandboxes {
		if s.networks.Ready(sb) && translate.MatchSandbox(sb, true, f) {
			pods = append(pods, s.statsPod(sb))
		}
	}
	return pods, nil
}

func (s *Service) statsPod(sb *translate.Sandbox) stats.Pod {
	pod := stats.Pod{
		ID: sb.ID, Pid: sb.Pid, Image: s.images.pause.Name(), HostNetwork: sb.HostNetwork, CgroupParent: sb.CgroupParent,
		Attributes: &runtimeapi.PodSandboxAttributes{Id: sb.ID, Metadata: sb.Metadata, Labels: sb.Labels, Annotations: sb.Annotations},
	}
	for _, c := range s.index.ContainersOf(sb.ID) {
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			pod.Containers = append(pod.Containers, s.statsContainer(c))
		}
	}
	return pod
}
