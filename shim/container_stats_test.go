package shim_test

import (
	"os"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestStatsOfOtherKernel: if a container's process has no control group of its
// own on the node, as with runtimes that start virtual machines, Docker is
// asked.
func TestStatsOfOtherKernel(t *testing.T) {
	n := newNode(t)
	n.engine.app.Store(int64(os.Getpid()))
	pod := n.runPod(n.podConfig("vm"))
	id := n.runContainer(pod, containerConfig("main", "pause"))
	n.docker.ResetCalls()
	one, err := n.runtime.ContainerStats(n.ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
	n.must(err)
	list, err := n.runtime.ListContainerStats(n.ctx, &runtimeapi.ListContainerStatsRequest{})
	n.must(err)
	if len(list.Stats) != 1 {
		t.Fatalf("stats of %d containers, want 1", len(list.Stats))
	}
	for _, s := range append(list.Stats, one.Stats) {
		if s.GetAttributes().GetId() != id || s.GetAttributes().GetMetadata().GetName() != "main" || s.GetCpu().GetUsageCoreNanoSeconds().GetValue() != 5e6 ||
			s.GetMemory().GetWorkingSetBytes().GetValue() != 1<<20-1<<12 {
			t.Errorf("stats are %v", s)
		}
	}
	if calls := n.docker.Calls()["container stats"]; calls != 2 {
		t.Errorf("%d calls of Docker's stats, want 2", calls)
	}
	n.docker.FailNext("container stats", 1, 500, "no stats")
	_, err = n.runtime.ContainerStats(n.ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
	wantCode(t, err, codes.Internal, "no stats")
	n.docker.FailNext("container stats", 1, 500, "no stats")
	list, err = n.runtime.ListContainerStats(n.ctx, &runtimeapi.ListContainerStatsRequest{})
	n.must(err)
	if len(list.Stats) != 0 {
		t.Errorf("without an answer of Docker's the list has %v", list.Stats)
	}
}
