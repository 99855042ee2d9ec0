package shim

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// TestPodCounter: only a control group of the pod's own explains its containers' kills.
func TestPodCounter(t *testing.T) {
	sb := &translate.Sandbox{Metadata: &runtimeapi.PodSandboxMetadata{Uid: "12-ab"}}
	for name, want := range map[string]string{
		"kubepods/burstable/pod12-ab/ID/memory.events":                         "kubepods/burstable/pod12-ab/memory.events",
		"kubepods.slice/kubepods-pod12_ab.slice/docker-ID.scope/memory.events": "kubepods.slice/kubepods-pod12_ab.slice/memory.events",
		"system.slice/docker-ID.scope/memory.events":                           "",
		"docker/12-ab/memory.events":                                           "",
		"memory.events":                                                        "",
	} {
		if got := podCounter(sb, true, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if podCounter(sb, false, "pod12-ab/ID/memory.oom_control") != "" || podCounter(nil, true, "pod12-ab/ID/memory.events") != "" || podCounter(&translate.Sandbox{}, true, "pod/ID/memory.events") != "" {
		t.Error("cgroup v1, no pod, or a pod without a UID has a counter")
	}
}
