package shim_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type linuxResources = runtimeapi.LinuxContainerResources

func (n *node) update(id string, r *linuxResources) error {
	_, err := n.runtime.UpdateContainerResources(n.ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: r})
	return err
}

func (n *node) checkResources(id string, want *linuxResources) {
	n.t.Helper()
	if diff := cmp.Diff(want, n.status(id).GetResources().GetLinux(), protocmp.Transform()); diff != "" {
		n.t.Errorf("resources in the status (-want +got):\n%s", diff)
	}
}

// TestUpdatesOverRestart: what Docker has no field for is still in the status,
// and goes with the container.
func TestUpdatesOverRestart(t *testing.T) {
	n := newNode(t)
	pod := n.runPod(n.podConfig("pod"))
	cfg := containerConfig("a", "sleep", "1000")
	cfg.Linux.Resources = &linuxResources{CpuShares: 512, OomScoreAdj: 900, Unified: map[string]string{"memory.high": "max", "memory.low": "0"}}
	id := n.runContainer(pod, cfg)
	other := n.runContainer(pod, containerConfig("b", "sleep", "1000"))
	n.must(n.update(id, &linuxResources{
		CpuShares: 256, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 950,
		Unified: map[string]string{"memory.high": "60000000"}, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 0}},
	}))
	want := &linuxResources{
		CpuShares: 256, MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 64 << 20, OomScoreAdj: 950,
		Unified: map[string]string{"memory.high": "60000000", "memory.low": "0"}, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 0}},
	}
	n.checkResources(id, want)
	n.must(n.update(other, &linuxResources{Unified: map[string]string{"memory.high": "50000000"}}))
	n.stop()
	n.must(n.call().ContainerRemove(n.ctx, other))
	n.start()
	n.checkResources(id, want)
	n.must(n.update(id, &linuxResources{CpuShares: 128}))
	want.CpuShares = 128
	n.checkResources(id, want)

	n.must(n.removeContainer(id))
	left, err := os.ReadDir(filepath.Join(n.cfg.RootDir, "resources"))
	if err != nil || len(left) > 0 {
		t.Errorf("left after the containers: %v, %v", left, err)
	}
}

// TestUpdateTakenBack: a limit that cannot be set leaves the others as they were.
func TestUpdateTakenBack(t *testing.T) {
	n := newNode(t)
	n.engine.app.Store(int64(os.Getpid())) // of which there is a cgroup
	pod := n.runPod(n.podConfig("pod"))
	cfg := containerConfig("a", "sleep", "1000")
	cfg.Linux.Resources = &linuxResources{CpuShares: 512, MemoryLimitInBytes: 32 << 20, CpusetCpus: "0"}
	id := n.runContainer(pod, cfg)
	before := n.status(id).GetResources().GetLinux()
	err := n.update(id, &linuxResources{
		CpuShares: 256, CpuQuota: 50000, MemoryLimitInBytes: 64 << 20, CpusetCpus: "0-1", Unified: map[string]string{"memory.nonesuch": "1"},
	})
	wantCode(t, err, codes.FailedPrecondition, "memory.nonesuch")
	// Docker's word for none; the CRI's zero cannot be told to it.
	before.CpuQuota = -1
	n.checkResources(id, before)
}

func (n *node) podConfigShown(id string) map[string]any {
	n.t.Helper()
	r, err := n.runtime.PodSandboxStatus(n.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	n.must(err)
	var info struct {
		Config struct{ Linux map[string]any }
	}
	n.must(json.NewDecoder(strings.NewReader(r.Info["info"])).Decode(&info))
	return info.Config.Linux
}

func TestUpdatePodSandboxResources(t *testing.T) {
	n := newNode(t)
	cfg := n.podConfig("pod")
	cfg.Linux.Overhead = &linuxResources{CpuShares: 2}
	pod := n.runPod(cfg)
	update := func(id string, overhead, resources *linuxResources) error {
		_, err := n.runtime.UpdatePodSandboxResources(n.ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: id, Overhead: overhead, Resources: resources})
		return err
	}
	n.must(update(pod, nil, &linuxResources{CpuShares: 100}))
	n.must(update(pod, nil, &linuxResources{CpuShares: 200}))
	n.stop()
	n.start()
	shown := n.podConfigShown(pod)
	want := map[string]any{"overhead": map[string]any{"cpu_shares": 2.0}, "resources": map[string]any{"cpu_shares": 200.0}}
	if diff := cmp.Diff(want, map[string]any{"overhead": shown["overhead"], "resources": shown["resources"]}); diff != "" {
		t.Errorf("in the status (-want +got):\n%s", diff)
	}
	wantCode(t, update(strings.Repeat("a", 64), nil, &linuxResources{}), codes.NotFound)

	// Another sandbox of that name begins with its own.
	n.must(n.removePod(pod))
	if shown := n.podConfigShown(n.runPod(cfg)); shown["resources"] != nil {
		t.Errorf("resources of a new sandbox: %v", shown["resources"])
	}
}
