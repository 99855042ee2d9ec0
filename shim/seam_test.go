package shim_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/seam"
)

// createLimited creates a container with these limits.
func (n *node) createLimited(pod string, r *runtimeapi.LinuxContainerResources) string {
	n.t.Helper()
	cfg := containerConfig("main", "pause")
	cfg.Linux = &runtimeapi.LinuxContainerConfig{Resources: r}
	return n.create(pod, cfg)
}

// recordedLimits returns the limits that cridock-runtime sets.
func (n *node) recordedLimits(id string) *seam.Resources {
	n.t.Helper()
	record, err := n.record(id)
	n.must(err)
	if record.UserNamespace != nil || record.Runtime.Path != "/usr/bin/crun" {
		n.t.Errorf("the record is %+v", record)
	}
	return record.Resources
}

// TestLimitRecords: cridock-runtime finds the limits in force when a container starts,
// those of updates included; other containers have no record.
func TestLimitRecords(t *testing.T) {
	n := newUsernsNode(t)
	r, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: n.podConfig("web"), RuntimeHandler: "crun"})
	n.must(err)
	pod := r.PodSandboxId
	id := n.createLimited(pod, &runtimeapi.LinuxContainerResources{
		MemoryLimitInBytes: 4 << 20, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 2 << 20}},
	})
	pages := []seam.Hugepages{{PageSize: "2MB", Limit: 2 << 20}}
	want := &seam.Resources{Memory: &seam.Memory{Limit: 4 << 20, Swap: 4 << 20}, Hugepages: pages}
	if diff := cmp.Diff(want, n.recordedLimits(id)); diff != "" {
		t.Error(diff)
	}
	if got := n.status(id).Resources.Linux.MemoryLimitInBytes; got != 4<<20 {
		t.Errorf("the status has the limit %d", got)
	}
	_, err = n.runtime.UpdateContainerResources(n.ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{
		MemoryLimitInBytes: 6 << 20, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}},
	}})
	n.must(err)
	n.startContainer(id)
	if diff := cmp.Diff(&seam.Resources{Hugepages: []seam.Hugepages{{PageSize: "2MB", Limit: 4 << 20}}}, n.recordedLimits(id)); diff != "" {
		t.Errorf("after an update before the start: %s", diff)
	}
	if got := n.status(id).Resources.Linux.MemoryLimitInBytes; got != 6<<20 {
		t.Errorf("after the update the status has the limit %d", got)
	}
	n.must(n.removePod(pod))
	n.noRecords()
	if pod := n.runPod(n.podConfig("plain")); n.createLimited(pod, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 6 << 20}) != "" {
		n.noRecords()
	}
}
