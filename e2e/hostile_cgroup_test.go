package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var cgroupAttacks = []attack{
	{"a cgroup file that is a path", cgroupPathsAsked},
	{"sysctls that are others", hostileSysctls},
}

var cgroupRestarts = []restartAttack{
	{"a cgroup file that is a path, in a record", cgroupPathsRecorded},
	{"a cgroup file that is a path, in stored updates", cgroupPathsStored},
}

// cgroupEscape returns the name of a cgroup file that leads to a file on the
// node.
func cgroupEscape(file string) string { return "cpu./" + strings.Repeat("../", 30) + file[1:] }

func cgroupPathsAsked(t *testing.T, p *pod) {
	dir, before := outside(t)
	running := p.start("limited", "exec sleep 100000")
	cgroup := p.run(t, "cat", "/proc/self/cgroup")
	for _, key := range []string{
		cgroupEscape(dir + "/secret"), "cpu./../cgroup.procs", "cpu./weight", "cpu...", "cgroup.procs", "cgroup.kill", "cgroup.subtree_control", "memory.", ".", "..", "",
		"memory.max\n", "memory.max\x00", "devices.allow", "release_agent", "cpu.release_agent/../../release_agent",
	} {
		limits := &runtimeapi.LinuxContainerResources{Unified: map[string]string{key: "1"}}
		if _, err := p.tryCreate(p.ctrConfig("limits", "true", func(cfg *runtimeapi.ContainerConfig) { cfg.Linux.Resources = limits })); err == nil {
			t.Errorf("a container with %q is created", key)
		}
		if _, err := try(p.runtime.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: running.id, Linux: limits}); err == nil {
			t.Errorf("a container is updated with %q", key)
		}
	}
	if now := p.run(t, "cat", "/proc/self/cgroup"); now != cgroup {
		t.Errorf("the node's processes are in %q and were in %q", now, cgroup)
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("written on the host (-before +after):\n%s", diff)
	}
	checkRuns(t, "after all", running)
}

// cgroupPathsRecorded has the kubelet start another adapter's container whose
// image forges the record of a request that cridock would have refused.
func cgroupPathsRecorded(t *testing.T, c *cridock) (func(), func(*testing.T)) {
	dir, before := outside(t)
	config := map[string]any{
		"metadata": map[string]any{"name": "limited"},
		"linux":    map[string]any{"resources": map[string]any{"unified": map[string]string{cgroupEscape(dir + "/secret"): "forged"}}},
	}
	image := c.load(t, "limits", labelled(map[string]string{"io.cridock.config": forgedRecord(t, "localhost/hostile/limits:1", config)}))
	a := &foreign{cridock: c, mounts: true, root: c.root()}
	p := &pod{cridock: c, t: t, cfg: c.podConfig(t, func(cfg *runtimeapi.PodSandboxConfig) { cfg.Metadata.Attempt = foreignAttempt })}
	limited := &ctr{pod: p}
	t.Cleanup(func() { p.remove(); c.checkGone(t, p.cfg.Metadata.Uid, p.id) })
	away := func() {
		p.id = a.runPod(t, p.cfg)
		limited.cfg = p.ctrConfig("limited", "exec sleep 100000", ofImage(image))
		limited.id = a.createWithLog(t, limited, limited.logPath())
	}
	return away, func(t *testing.T) {
		_, err := try(c.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: limited.id})
		t.Logf("start: %v", err)
		if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
			t.Errorf("written on the host (-before +after):\n%s", diff)
		}
	}
}

// cgroupPathsStored stores such names among cridock's records of updates, as if
// a cridock had not refused them.
func cgroupPathsStored(t *testing.T, c *cridock) (func(), func(*testing.T)) {
	dir, before := outside(t)
	p := c.runPod(t)
	running := p.start("updated", "exec sleep 100000")
	update := func(t *testing.T, r *runtimeapi.LinuxContainerResources) {
		rpc(t, c.runtime.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: running.id, Linux: r})
	}
	update(t, &runtimeapi.LinuxContainerResources{OomScoreAdj: 777})
	files := containing(filesWith(t, c.root(), `777`), running.id)
	if len(files) != 1 {
		t.Fatalf("the update is stored in %v; want one file", files)
	}
	away := func() {
		var stored map[string]any
		if err := json.Unmarshal([]byte(read(t, files[0])), &stored); err != nil {
			t.Fatal(err)
		}
		stored["unified"] = map[string]string{cgroupEscape(dir + "/secret"): "forged"}
		if err := os.WriteFile(files[0], []byte(asJSON(t, stored)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return away, func(t *testing.T) {
		_, err := try(c.runtime.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: running.id, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 300},
		})
		t.Logf("another update: %v", err)
		if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
			t.Errorf("written on the host (-before +after):\n%s", diff)
		}
		checkRuns(t, "after the restart", running.in(t))
	}
}

// hostileSysctls requests sysctls of the node. The values are the current ones:
// if one is set by mistake, nothing changes.
func hostileSysctls(t *testing.T, p *pod) {
	const file = "/proc/sys/kernel/core_pattern"
	now := strings.TrimSpace(read(t, file))
	for _, key := range []string{
		"kernel.core_pattern", "net/../kernel/core_pattern", "net.ipv4.conf.eth0/../../../../kernel/core_pattern", "net/ipv4/conf/eth0/../../../../kernel/core_pattern",
		"net.core.somaxconn\nkernel.core_pattern", "net.core.somaxconn=1\nkernel.core_pattern", "../../.." + file, "net/ipv4/conf/eth0", "",
	} {
		p.checkNoSandbox(t, map[string]string{key: now})
	}
	p.checkNoSandbox(t, map[string]string{"net.core.somaxconn": "77\nkernel.core_pattern=" + now})
	p.checkNoSandbox(t, map[string]string{"net.ipv4.conf.eth0.rp_filter": "x\n" + filepath.Base(file)})
	asked := p.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
		cfg.Linux.Sysctls = map[string]string{"net.core.somaxconn": "77"}
	})
	if got := asked.output("sysctl", "cat /proc/sys/net/core/somaxconn"); got != "77\n" {
		t.Errorf("a sysctl of the pod's own is %q", got)
	}
}

// checkNoSandbox checks that sysctls are refused.
func (p *pod) checkNoSandbox(t *testing.T, sysctls map[string]string) {
	t.Helper()
	cfg := p.podConfig(t, func(cfg *runtimeapi.PodSandboxConfig) { cfg.Linux.Sysctls = sysctls })
	r, err := try(p.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: cfg})
	if err == nil {
		t.Errorf("a pod has the sysctls %q", sysctls)
		(&pod{cridock: p.cridock, t: t, id: r.PodSandboxId}).remove()
	}
	p.checkGone(t, cfg.Metadata.Uid, "")
}
