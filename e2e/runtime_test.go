package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/needs"
)

// addRuntime returns dockerd's flag for a runtime with the given name, and the
// file in which its calls are recorded, one per line.
func addRuntime(t *testing.T, name string) (flag, calls string) {
	t.Helper()
	path, err := exec.LookPath(name)
	needs.That(t, err == nil, "%v", err)
	dir := t.TempDir()
	calls = filepath.Join(dir, "calls")
	script := fmt.Sprintf("#!/bin/sh\necho \"$*\" >>%s\nexec %s \"$@\"\n", calls, path)
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return "--add-runtime=" + name + "=" + filepath.Join(dir, name), calls
}

// hideHybridCgroup unmounts the v2 hierarchy that a node has beside its cgroup
// v1: crun would use that instead.
func (n *node) hideHybridCgroup(t *testing.T) {
	t.Helper()
	n.run(t, "sh", "-c", "if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi")
}

// TestRuntimeClass runs a pod with another runtime than the engine's default,
// beside one with the default.
func TestRuntimeClass(t *testing.T) {
	t.Parallel()
	needEngine(t)
	flag, calls := addRuntime(t, "crun")
	n := newNode(t, flag)
	n.hideHybridCgroup(t)
	c := newCridock(t, n, "cni")
	created := func(id string) bool {
		for line := range strings.Lines(read(t, calls)) {
			if strings.Contains(line, " create ") && strings.HasSuffix(strings.TrimSpace(line), id) {
				return true
			}
		}
		return false
	}

	var handlers []string
	for _, h := range rpc(t, c.runtime.Status, &runtimeapi.StatusRequest{}).RuntimeHandlers {
		handlers = append(handlers, h.Name)
	}
	if got := strings.Join(handlers, " "); !strings.Contains(got, "crun") || !strings.Contains(got, "runc") {
		t.Errorf("the handlers are %q", handlers)
	}

	other := c.runPod(t)
	p := c.runPodWith(t, "crun")
	main := p.start("main", "trap 'echo bye; exit 3' TERM; echo up; while true; do sleep 1; done")
	for _, id := range []string{p.id, main.id} {
		if !created(id) {
			t.Errorf("crun did not create %s, its calls:\n%s", id, read(t, calls))
		}
	}
	if otherMain := other.start("main", "sleep 1000"); created(other.id) || created(otherMain.id) {
		t.Errorf("crun created what asked for no runtime, its calls:\n%s", read(t, calls))
	}
	for id, want := range map[string]string{p.id: "crun", other.id: ""} {
		s := rpc(t, c.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id}).Status
		list := rpc(t, c.runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{Id: id}}).Items
		if len(list) != 1 || s.RuntimeHandler != want || list[0].RuntimeHandler != want {
			t.Errorf("handler %q in the status of %s and in the list %v, want %q", s.RuntimeHandler, id, list, want)
		}
	}

	if main.sh("echo works") != "works" {
		t.Error("exec does not work")
	}
	rpc(t, c.runtime.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: main.id, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20},
	})
	if got := main.status().GetResources().GetLinux().GetMemoryLimitInBytes(); got != 64<<20 {
		t.Errorf("the memory limit is %d", got)
	}
	eventually(t, "the container has stats", time.Minute, func() bool {
		r, err := try(c.runtime.ContainerStats, &runtimeapi.ContainerStatsRequest{ContainerId: main.id})
		return err == nil && r.GetStats().GetMemory().GetWorkingSetBytes().GetValue() > 0
	})
	main.stop(longTimeout)
	if s := main.status(); s.ExitCode != 3 || main.logText() != "up\nbye\n" {
		t.Errorf("it ended with %d, and printed %q", s.ExitCode, main.logText())
	}
	for _, handler := range []string{"", "docker"} {
		// The runtime of sandboxes only.
		c.flags = []string{"--pause-runtime=crun"}
		c.restart(t, nil)
		split := c.runPodWith(t, handler)
		if inside := split.start("main", "sleep 1000"); !created(split.id) || created(inside.id) || inside.sh("echo works") != "works" {
			t.Errorf("handler %q: with pause-runtime, crun's calls are\n%s", handler, read(t, calls))
		}
		c.flags = nil
		c.restart(t, nil)
		if got := split.status(); got.State != runtimeapi.PodSandboxState_SANDBOX_READY || got.RuntimeHandler != handler {
			t.Errorf("without pause-runtime again, the pod is %v, with the handler %q", got.State, got.RuntimeHandler)
		}
		split.start("another", "sleep 1000")
		split.remove()
	}
	p.remove()
	for _, id := range []string{p.id, main.id} {
		if _, err := c.docker.call(http.MethodGet, "/containers/"+id+"/json", nil, nil); err == nil {
			t.Errorf("%s outlives its pod", id)
		}
	}
}
