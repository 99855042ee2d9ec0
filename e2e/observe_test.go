package e2e

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/tracecollector"
)

// TestTraces runs a pod for a caller that sends a trace context.
func TestTraces(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	l, err := n.listen()
	if err != nil {
		t.Fatal(err)
	}
	spans := tracecollector.Serve(t, l)
	c := newCridock(t, n, "cni", "--tracing-endpoint="+spans.Addr())
	const caller = "b7ad6b7169203331"
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-0af7651916cd43dd8448eb211c80319c-"+caller+"-01"), rpcTimeout)
	defer cancel()
	r, err := c.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: c.podConfig(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: r.PodSandboxId}); err != nil {
		t.Fatal(err)
	}
	rpc(t, c.runtime.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: r.PodSandboxId})
	for method, want := range map[string][]string{
		"RunPodSandbox":  {"/containers/create", "/start", "CNI ADD"},
		"StopPodSandbox": {"CNI DEL"},
	} {
		eventually(t, "the spans of "+method+" arrive", time.Minute, func() bool {
			names := spans.Children(caller, method)
			for _, w := range want {
				if !strings.Contains(strings.Join(names, "\n")+"\n", w+"\n") {
					return false
				}
			}
			return true
		})
	}
	if names := spans.Children(caller, "RemovePodSandbox"); len(names) > 0 {
		t.Errorf("a call that nobody traces has the spans %v", names)
	}
}

// TestReadsCostDockerNothing makes twenty times the reads that a kubelet
// makes all the time.
func TestReadsCostDockerNothing(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni", "--metrics-bind-address=9911")
	p := c.runPod(t)
	main := p.start("main", "sleep 1000")
	main.sh("true") // the events of the start have arrived
	eventually(t, "the engine is asked for nothing more", time.Minute, func() bool {
		before := dockerCalls(c.metrics(t))
		time.Sleep(200 * time.Millisecond)
		return maps.Equal(before, dockerCalls(c.metrics(t)))
	})
	var before, after map[string]float64
	for range 10 { // the check that runs once a minute may come in between
		before = dockerCalls(c.metrics(t))
		for range 20 {
			rpc(t, c.runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{})
			rpc(t, c.runtime.ListContainers, &runtimeapi.ListContainersRequest{})
			rpc(t, c.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
			rpc(t, c.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: main.id})
			rpc(t, c.images.ListImages, &runtimeapi.ListImagesRequest{})
			rpc(t, c.images.ImageStatus, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: c.image}})
		}
		rpc(t, c.runtime.ListContainerStats, &runtimeapi.ListContainerStatsRequest{})
		rpc(t, c.runtime.ListPodSandboxStats, &runtimeapi.ListPodSandboxStatsRequest{})
		rpc(t, c.runtime.ListPodSandboxMetrics, &runtimeapi.ListPodSandboxMetricsRequest{})
		if after = dockerCalls(c.metrics(t)); maps.Equal(before, after) {
			return
		}
	}
	t.Errorf("Docker calls were %v and are %v", before, after)
}

// dockerCalls returns the counters of calls by kind and result, without the
// health check that runs every ten seconds.
func dockerCalls(metrics map[string]float64) map[string]float64 {
	calls := map[string]float64{}
	for name, value := range metrics {
		if strings.HasPrefix(name, "cridock_docker_call_duration_seconds_count") && !strings.Contains(name, `call="ping"`) {
			calls[name] = value
		}
	}
	return calls
}
