package shim_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/docker/docker/api/types/system"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
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

// TestMountOptionRecords: on an engine without CDI and recursive read-only mounts,
// cridock-runtime makes them, if the runtime says that it knows them.
func TestMountOptionRecords(t *testing.T) {
	n := newNode(t, func(n *node) {
		n.cfg.SeamDir = filepath.Join(n.dir, "run")
		runtime := filepath.Join(n.dir, "knows-rro")
		n.must(os.WriteFile(runtime, []byte("#!/bin/sh\necho '{\"mountOptions\": [\"rro\"]}'\n"), 0o755))
		n.docker.SetInfo(func(i *system.Info) {
			i.Runtimes["cridock"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "/usr/local/bin/cridock-runtime"}}
			i.Runtimes["new"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: runtime}}
			i.Runtimes["old"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "/bin/false"}}
		})
	})
	s, err := n.runtime.Status(n.ctx, &runtimeapi.StatusRequest{})
	n.must(err)
	for _, h := range s.RuntimeHandlers {
		if want, known := map[string]bool{"new": true, "old": false}[h.Name]; known && h.Features.RecursiveReadOnlyMounts != want {
			t.Errorf("handler %q advertises recursive read-only mounts: %t", h.Name, !want)
		}
	}
	if !s.Features.MountOptions {
		t.Error("mount_options are not offered")
	}
	cfg := containerConfig("main", "pause")
	cfg.Mounts = []*runtimeapi.Mount{{HostPath: n.dir, ContainerPath: "/data", Readonly: true, RecursiveReadOnly: true, MountOptions: []string{"noexec"}}}
	r, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: n.podConfig("web"), RuntimeHandler: "new"})
	n.must(err)
	record, err := n.record(n.create(r.PodSandboxId, cfg))
	n.must(err)
	if diff := cmp.Diff(map[string][]string{"/data": {"noexec", "rro"}}, record.MountOptions); diff != "" {
		t.Error(diff)
	}
	n.must(n.removePod(r.PodSandboxId))
	n.noRecords()
}

// runtimeWith is a program that says, as a runtime does, that it has these features.
func (n *node) runtimeWith(features string) system.RuntimeWithStatus {
	n.t.Helper()
	f, err := os.CreateTemp(n.dir, "runtime")
	n.must(err)
	n.must(f.Close())
	n.must(os.WriteFile(f.Name(), []byte("#!/bin/sh\necho '"+features+"'\n"), 0o600))
	n.must(os.Chmod(f.Name(), 0o755))
	return system.RuntimeWithStatus{Runtime: system.Runtime{Path: f.Name()}}
}

// runPodOf runs a pod of a runtime handler.
func (n *node) runPodOf(handler string, cfg *runtimeapi.PodSandboxConfig) string {
	n.t.Helper()
	r, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg, RuntimeHandler: handler})
	n.must(err)
	return r.PodSandboxId
}

// withRDT lets pods name the RDT class gold; the runtime new knows such classes.
func withRDT(n *node) {
	n.cfg.SeamDir, n.cfg.Settings.RDTClasses = filepath.Join(n.dir, "run"), []string{"gold"}
	fresh, old := n.runtimeWith(`{"linux": {"intelRdt": {"enabled": true}}}`), n.runtimeWith(`{"linux": {}}`)
	n.docker.SetInfo(func(i *system.Info) {
		i.Runtimes["cridock"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "/usr/local/bin/cridock-runtime"}}
		i.Runtimes["new"], i.Runtimes["old"] = fresh, old
	})
}

// TestRDTRecords: cridock-runtime finds the RDT class that a pod names, if the runtime
// knows such classes and the settings have it.
func TestRDTRecords(t *testing.T) {
	n := newNode(t, withRDT)
	cfg := n.podConfig("web")
	cfg.Annotations = map[string]string{"rdt.resources.beta.kubernetes.io/pod": "gold", "rdt.resources.beta.kubernetes.io/container.other": "lead"}
	pod := n.runPodOf("new", cfg)
	record, err := n.record(n.create(pod, containerConfig("main", "pause")))
	n.must(err)
	if record.Spec == nil || record.Spec.IntelRdt == nil || record.Spec.IntelRdt.ClosID != "gold" {
		t.Errorf("the record is %+v", record)
	}
	_, err = n.tryCreate(pod, containerConfig("other", "pause"))
	wantCode(t, err, codes.InvalidArgument, `["gold"]`)
	n.must(n.removePod(pod))
	cfg = n.podConfig("second")
	cfg.Annotations = map[string]string{"rdt.resources.beta.kubernetes.io/pod": "gold"}
	_, err = n.tryCreate(n.runPodOf("old", cfg), containerConfig("main", "pause"))
	wantCode(t, err, codes.FailedPrecondition, "such as runc 1.2")
	n.noRecords()
}

// TestExecCPURecords: cridock-runtime finds the first CPU of a container's cpuset, and of
// the one that an update sets. Containers without a cpuset do not need it.
func TestExecCPURecords(t *testing.T) {
	n := newNode(t, func(n *node) {
		n.cfg.SeamDir, n.cfg.Settings.ExecOnFirstCPU = filepath.Join(n.dir, "run"), true
		fresh, old := n.runtimeWith(`{"ociVersionMax": "1.2.1"}`), n.runtimeWith(`{"ociVersionMax": "1.0.2-dev"}`)
		n.docker.SetInfo(func(i *system.Info) {
			i.Runtimes["cridock"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "/usr/local/bin/cridock-runtime"}}
			i.Runtimes["new"], i.Runtimes["old"] = fresh, old
		})
	})
	pod := n.runPodOf("new", n.podConfig("web"))
	id := n.createLimited(pod, &runtimeapi.LinuxContainerResources{CpusetCpus: "2-3"})
	update := func(r *runtimeapi.LinuxContainerResources) {
		t.Helper()
		_, err := n.runtime.UpdateContainerResources(n.ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: r})
		n.must(err)
	}
	for _, step := range []struct {
		do   func()
		want int
	}{
		{func() {}, 2},
		{func() { update(&runtimeapi.LinuxContainerResources{CpusetCpus: "5,1"}) }, 1},
		{func() { n.startContainer(id) }, 1},
		{func() { update(&runtimeapi.LinuxContainerResources{CpuShares: 7}) }, 1},
		{func() { update(&runtimeapi.LinuxContainerResources{CpusetCpus: "4"}) }, 4},
	} {
		step.do()
		record, err := n.record(id)
		n.must(err)
		if record.ExecCPU == nil || *record.ExecCPU != step.want {
			t.Errorf("the record is %+v; want CPU %d", record, step.want)
		}
	}
	n.must(n.removePod(pod))
	pod = n.runPodOf("old", n.podConfig("old"))
	cfg := containerConfig("main", "pause")
	cfg.Linux = &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{CpusetCpus: "2-3"}}
	_, err := n.tryCreate(pod, cfg)
	wantCode(t, err, codes.FailedPrecondition, "such as runc 1.3")
	n.create(pod, containerConfig("other", "pause"))
	n.noRecords()
}

// TestSharedUTSRecords: containers without a user namespace join their pod's UTS
// namespace if the settings say so.
func TestSharedUTSRecords(t *testing.T) {
	n := newNode(t, func(n *node) {
		n.cfg.SeamDir, n.cfg.Settings.SharedUTS = filepath.Join(n.dir, "run"), true
		n.docker.SetInfo(func(i *system.Info) {
			i.Runtimes["cridock"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "/usr/local/bin/cridock-runtime"}}
		})
	})
	n.engine.pid.Store(int64(os.Getpid()))
	pod := n.runPod(n.podConfig("web"))
	n.noRecords() // the sandbox has the namespace
	id := n.create(pod, containerConfig("main", "pause"))
	record, err := n.record(id)
	n.must(err)
	if record.UTS == nil || record.UTS.PID != os.Getpid() || record.UTS.Inode == 0 || record.UserNamespace != nil {
		t.Errorf("the record is %+v", record)
	}
	n.must(n.removePod(pod))
	n.noRecords()
}
