package shim_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestEncodedResponses: a client reads over the socket what the method of that
// name returns in the process.
func TestEncodedResponses(t *testing.T) {
	n := newNode(t)
	pod := n.runPod(n.podConfig("web"))
	id := n.runContainer(pod, containerConfig("main", "sleep", "1"))
	n.create(pod, containerConfig("other", "sleep", "1"))
	n.runPod(n.podConfig("db"))
	_, err := n.runtime.UpdateContainerResources(n.ctx, &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{OomScoreAdj: 500},
	})
	n.must(err)

	sameAnswers(t, n, n.svc.ListContainers, n.runtime.ListContainers,
		&runtimeapi.ListContainersRequest{},
		&runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: id}},
		&runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: "none"}})
	sameAnswers(t, n, n.svc.ContainerStatus, n.runtime.ContainerStatus,
		&runtimeapi.ContainerStatusRequest{ContainerId: id},
		&runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true},
		&runtimeapi.ContainerStatusRequest{ContainerId: "none"})
	sameAnswers(t, n, n.svc.ListPodSandbox, n.runtime.ListPodSandbox,
		&runtimeapi.ListPodSandboxRequest{},
		&runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{Id: pod}})
	sameAnswers(t, n, n.svc.PodSandboxStatus, n.runtime.PodSandboxStatus,
		&runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod},
		&runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true},
		&runtimeapi.PodSandboxStatusRequest{PodSandboxId: "none"})
}

// sameAnswers sends requests both ways. Only the errors' form may differ.
func sameAnswers[R, A proto.Message](t *testing.T, n *node, process func(context.Context, R) (A, error), socket func(context.Context, R, ...grpc.CallOption) (A, error), requests ...R) {
	t.Helper()
	for _, r := range requests {
		want, wantErr := process(n.ctx, r)
		got, err := socket(n.ctx, r)
		if (err == nil) != (wantErr == nil) {
			t.Errorf("%T{%v}: %v in the process, %v over the socket", r, r, wantErr, err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%T{%v}: in the process and over the socket (-want +got):\n%s", r, r, diff)
		}
	}
}
