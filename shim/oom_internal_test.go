package shim

import "testing"

// TestPodCounter: only a control group of the pod's own explains its containers' kills.
func TestPodCounter(t *testing.T) {
	const uid = "12-ab"
	for name, want := range map[string]string{
		"kubepods/burstable/pod12-ab/ID/memory.events":                         "kubepods/burstable/pod12-ab/memory.events",
		"kubepods.slice/kubepods-pod12_ab.slice/docker-ID.scope/memory.events": "kubepods.slice/kubepods-pod12_ab.slice/memory.events",
		"system.slice/docker-ID.scope/memory.events":                           "",
		"docker/12-ab/memory.events":                                           "",
		"memory.events":                                                        "",
	} {
		if got := podCounter(uid, true, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if podCounter(uid, false, "pod12-ab/ID/memory.oom_control") != "" || podCounter("", true, "pod/ID/memory.events") != "" {
		t.Error("cgroup v1, or a pod without a UID, has a counter")
	}
}
