package shim_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPod goes once through a pod's life, on both kinds of network.
func TestPod(t *testing.T) {
	for name, newNode := range map[string]func(*testing.T, ...func(*node)) *node{"docker network": newNode, "CNI": newCNINode} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			before := n.remains()
			cfg := n.podConfig("web")
			before.Files = n.remains().Files
			pod := n.runPod(cfg)
			st := n.podStatus(pod)
			if st.State != runtimeapi.PodSandboxState_SANDBOX_READY || st.Network.Ip == "" {
				t.Errorf("pod is %v with address %q, want ready with an address", st.State, st.Network.Ip)
			}
			if diff := cmp.Diff(cfg.Metadata, st.Metadata, protocmp.Transform()); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
			id := n.runContainer(pod, containerConfig("main", "sleep", "1"))
			if got := n.status(id).State; got != runtimeapi.ContainerState_CONTAINER_RUNNING {
				t.Errorf("container is %v, want running", got)
			}
			n.must(n.stopContainer(id, 0))
			if got := n.status(id); got.State != runtimeapi.ContainerState_CONTAINER_EXITED || got.ExitCode != 137 || got.FinishedAt == 0 {
				t.Errorf("after the stop: %v", got)
			}
			n.must(n.removeContainer(id))
			n.must(n.stopPod(pod))
			if st := n.podStatus(pod); st.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY || st.Network.Ip != "" {
				t.Errorf("after the stop the pod is %v with address %q", st.State, st.Network.Ip)
			}
			n.must(n.removePod(pod))
			after := n.remains()
			// The log is the kubelet's.
			before.Files = append(before.Files, "/pods/web/main_0.log")
			if diff := cmp.Diff(before, after, sortStrings); diff != "" {
				t.Errorf("left behind (-want +got):\n%s", diff)
			}
		})
	}
}
