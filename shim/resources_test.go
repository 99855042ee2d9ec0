package shim_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/system"
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

// TestUpdatesOverRestart: values for which Docker has no field are still in the
// status, and are removed with the container.
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
	left, err := os.ReadDir(filepath.Join(n.cfg.RootDir, "containers"))
	if err != nil || len(left) > 0 {
		t.Errorf("left after the containers: %v, %v", left, err)
	}
}

// cgroup is a directory that stands in for a container's cgroup; see
// withCgroup.
type cgroup string

// withCgroup gives the node's containers a cgroup of plain files. It is found
// through this process's cgroup.
func withCgroup(t *testing.T, files map[string]string) (cgroup, func(*node)) {
	t.Helper()
	membership, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	_, name, ok := strings.Cut("\n"+string(membership), "\n0::")
	if !ok {
		t.Skip("this kernel has no cgroup v2")
	}
	name, _, _ = strings.Cut(name, "\n")
	root := t.TempDir()
	c := cgroup(filepath.Join(root, name))
	if err := os.MkdirAll(string(c), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, value := range files {
		c.write(t, file, value)
	}
	return c, func(n *node) { n.cfg.CgroupRoot = root }
}

func (c cgroup) write(t *testing.T, file, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(string(c), file), []byte(value+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// has reports whether a file begins with a value: writes do not truncate it, as
// the kernel's files have no length.
func (c cgroup) has(t *testing.T, file, value string) bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(string(c), file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.HasPrefix(string(b), value)
}

// TestDiscardedLimit: a limit that Docker discards is in the log, and not in
// the status.
func TestDiscardedLimit(t *testing.T) {
	n := newNode(t, func(n *node) { n.docker.SetInfo(func(i *system.Info) { i.CPUSet = false }) })
	cfg := containerConfig("a", "sleep", "1000")
	cfg.Linux.Resources = &linuxResources{CpuShares: 7, CpusetCpus: "0"}
	id := n.runContainer(n.runPod(n.podConfig("pod")), cfg)
	n.checkResources(id, &linuxResources{CpuShares: 7})
	if line := n.logs.Lines("Cpuset discarded"); !strings.Contains(line, id) {
		t.Errorf("the log has %q", line)
	}
}

// TestUpdateLiftsSwapLimit: Docker accepts the update but does not pass it on
// to runc.
func TestUpdateLiftsSwapLimit(t *testing.T) {
	group, with := withCgroup(t, map[string]string{"memory.swap.max": "0"})
	n := newNode(t, with)
	n.engine.app.Store(int64(os.Getpid()))
	cfg := containerConfig("a", "sleep", "1000")
	cfg.Linux.Resources = &linuxResources{MemoryLimitInBytes: 32 << 20}
	id := n.runContainer(n.runPod(n.podConfig("pod")), cfg)
	n.must(n.update(id, &linuxResources{Unified: map[string]string{"memory.swap.max": "max"}}))
	if !group.has(t, "memory.swap.max", "max") {
		t.Error("the swap limit is not lifted")
	}
	n.must(n.update(id, &linuxResources{MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 65 << 20}))
	if !group.has(t, "memory.swap.max", "1048576") {
		t.Error("the swap limit is not set")
	}
}

// TestLimitsKept: what systemd overwrites is restored, and nothing else is
// written.
func TestLimitsKept(t *testing.T) {
	group, with := withCgroup(t, map[string]string{
		"memory.swap.max": "0", "memory.high": "max", "memory.low": "0", "memory.oom.group": "0", "hugetlb.2MB.max": "0", "hugetlb.2MB.rsvd.max": "0",
	})
	n := newNode(t, with, func(n *node) {
		n.cfg.LimitsInterval = 10 * time.Millisecond
		n.docker.SetInfo(func(i *system.Info) { i.CgroupDriver = "systemd" })
	})
	n.engine.app.Store(int64(os.Getpid()))
	cfg := containerConfig("a", "sleep", "1000")
	cfg.Linux.Resources = &linuxResources{
		MemoryLimitInBytes: 32 << 20, Unified: map[string]string{"memory.high": "1000000", "memory.oom.group": "1"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}},
	}
	id := n.runContainer(n.runPod(n.podConfig("pod")), cfg)
	n.must(n.update(id, &linuxResources{Unified: map[string]string{"memory.high": "2000000"}}))

	reload := func() {
		for file, value := range map[string]string{"memory.swap.max": "max", "memory.high": "max", "memory.oom.group": "0", "hugetlb.2MB.max": "max", "memory.low": "7"} {
			group.write(t, file, value)
		}
	}
	want := map[string]string{"memory.swap.max": "0", "memory.high": "2000000", "memory.oom.group": "1", "hugetlb.2MB.max": "max", "memory.low": "7"}
	kept := func() bool {
		for file, value := range want {
			if !group.has(t, file, value) {
				return false
			}
		}
		return true
	}
	reload()
	n.eventually("limits are set again", kept)
	n.stop()
	n.start()
	n.engine.app.Store(int64(os.Getpid()))
	n.must(n.update(id, &linuxResources{CpuShares: 3})) // and the PID is read again
	reload()
	n.eventually("limits are set again by the next process", kept)
}

// TestUpdateTakenBack: if one limit cannot be set, the others are left
// unchanged.
func TestUpdateTakenBack(t *testing.T) {
	group, with := withCgroup(t, map[string]string{"memory.swap.max": "0", "memory.high": "max"})
	n := newNode(t, with)
	n.engine.app.Store(int64(os.Getpid()))
	pod := n.runPod(n.podConfig("pod"))
	cfg := containerConfig("a", "sleep", "1000")
	cfg.Linux.Resources = &linuxResources{CpuShares: 512, MemoryLimitInBytes: 32 << 20, CpusetCpus: "0"}
	id := n.runContainer(pod, cfg)
	before := n.status(id).GetResources().GetLinux()
	err := n.update(id, &linuxResources{
		CpuShares: 256, CpuQuota: 50000, MemoryLimitInBytes: 64 << 20, CpusetCpus: "0-1", Unified: map[string]string{"memory.high": "1000000", "memory.nonesuch": "1"},
	})
	wantCode(t, err, codes.FailedPrecondition, "memory.nonesuch")
	if !group.has(t, "memory.high", "max") || !group.has(t, "memory.swap.max", "0") {
		t.Error("files of the cgroup are not as they were")
	}
	// Docker's value for no limit; the CRI's zero cannot express it.
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

	// Another sandbox of that name starts with its own values.
	n.must(n.removePod(pod))
	if shown := n.podConfigShown(n.runPod(cfg)); shown["resources"] != nil {
		t.Errorf("resources of a new sandbox: %v", shown["resources"])
	}
}
