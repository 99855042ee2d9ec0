package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cri creates pods through the CRI.
type cri struct {
	runtime runtimeapi.RuntimeServiceClient
}

func (m cri) runPod(t *testing.T, cfg *runtimeapi.PodSandboxConfig) string {
	t.Helper()
	return rpc(t, m.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: cfg}).PodSandboxId
}

func (m cri) create(t *testing.T, p *pod, cfg *runtimeapi.ContainerConfig) string {
	t.Helper()
	return rpc(t, m.runtime.CreateContainer, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: cfg, SandboxConfig: p.cfg}).ContainerId
}

func (m cri) start(t *testing.T, c *ctr) error {
	t.Helper()
	_, err := try(m.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: c.id})
	return err
}

// criDockerd is a real cri-dockerd beside a cridock, with the same network.
// Only one of the two may run at a time.
type criDockerd struct {
	*cridock
	path, pause string
	peer        *cridock
}

func newCRIDockerd(t *testing.T, path string, peer *cridock) *criDockerd {
	t.Helper()
	const pause = "localhost/e2e/pause:1"
	peer.docker.build(t, pause, "FROM "+peer.image+"\nSTOPSIGNAL SIGKILL\nENTRYPOINT [\"sleep\", \"100000\"]\n")
	dir := filepath.Join(peer.node.dir, "cri-dockerd")
	d := &criDockerd{cridock: &cridock{node: peer.node, dir: dir, runDir: dir}, path: path, pause: pause, peer: peer}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(strings.Replace(d.logTail(), "cridock's", "cri-dockerd's", 1))
		}
		if d.conn != nil {
			_ = d.conn.Close()
		}
	})
	return d
}

// serve returns cri-dockerd's command line.
func (d *criDockerd) serve() []string {
	return []string{
		d.path, "--container-runtime-endpoint=unix://" + d.socket(), "--docker-endpoint=unix://" + d.node.dir + "/docker.sock",
		"--cri-dockerd-root-directory=" + d.root(), "--pod-infra-container-image=" + d.pause, "--streaming-bind-addr=127.0.0.1:0",
		"--network-plugin=cni", "--cni-conf-dir=" + d.peer.confDir(), "--cni-bin-dir=" + d.peer.binDir() + "," + cniBinDir, "--cni-cache-dir=" + d.peer.cacheDir(),
	}
}

func (d *criDockerd) start(t *testing.T) {
	t.Helper()
	_ = os.Remove(d.socket())
	err := d.launchAs(d.command(d.serve()...))
	if err == nil {
		err = d.awaitReady(time.Minute)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// runtimeFlags returns the dockerd flags that let cri-dockerd's sandboxes, and privileged
// containers, start on this machine.
func runtimeFlags(t *testing.T) []string {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		t.Fatal(err)
	}
	if caps[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return nil
	}
	return []string{boundedRuntime(t, "e2e"), "--default-runtime=e2e"}
}

// TestCRIDockerd takes pods over from a real cri-dockerd, hands pods over to
// it, and takes them back. CRIDOCK_E2E_CRI_DOCKERD is a cri-dockerd that
// supports the engine's API version.
func TestCRIDockerd(t *testing.T) {
	path := os.Getenv("CRIDOCK_E2E_CRI_DOCKERD")
	if path == "" {
		t.Skip("CRIDOCK_E2E_CRI_DOCKERD is not set: the path of a cri-dockerd")
	}
	t.Parallel()
	c := installCridock(t, newNode(t, runtimeFlags(t)...), "cni")
	d := newCRIDockerd(t, path, c)

	d.start(t)
	theirs := newWorkload(t, c, cri{d.runtime}, 18084)
	if err := d.kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	theirs.checkTaken()
	theirs.checkLogs()
	theirs.checkLink()
	theirs.checkUsable()

	stays, ends := newWorkload(t, c, cri{c.runtime}, 0), newWorkload(t, c, cri{c.runtime}, 0)
	c.handOver(t, d, stays.counter, ends.counter)
	stays.checkAt(d)
	ends.checkAt(d)
	ends.endAt(d)
	if err := d.kill(); err != nil {
		t.Fatal(err)
	}
	c.flags = nil
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	stays.checkTaken()
	stays.checkLogs()
	stays.checkUsable()
}

// handOver migrates back to cri-dockerd as the operator's guide describes it.
func (c *cridock) handOver(t *testing.T, d *criDockerd, running ...*ctr) {
	t.Helper()
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	c.flags = []string{"--container-log-mode=symlink"}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	for _, r := range running {
		eventually(t, "the log of what runs is a link to Docker's", time.Minute, func() bool {
			_, err := os.Readlink(r.logPath())
			return err == nil
		})
	}
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	d.start(t)
}

// checkAt inspects one of cridock's pods through cri-dockerd.
func (w *workload) checkAt(d *criDockerd) {
	w.t.Helper()
	t := w.t
	if now := w.processes(t); !cmp.Equal(w.ran, now) {
		t.Errorf("processes were %v and are %v", w.ran, now)
	}
	list := rpc(t, d.runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: w.cfg.Labels}}).Items
	if len(list) != 1 || list[0].Id != w.id || list[0].State != runtimeapi.PodSandboxState_SANDBOX_READY || list[0].Metadata.Attempt != foreignAttempt {
		t.Errorf("cri-dockerd lists the sandbox as %v", list)
	}
	s := rpc(t, d.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: w.id}).Status
	if held, err := w.addresses(w.id); err != nil || !slices.Contains(held, s.GetNetwork().GetIp()) {
		t.Errorf("cri-dockerd says address %q, the pod has %v (%v)", s.GetNetwork().GetIp(), held, err)
	}
	r := rpc(t, d.runtime.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: w.counter.id, Cmd: []string{"echo", "works"}, Timeout: 30})
	if string(r.Stdout) != "works\n" {
		t.Errorf("exec through cri-dockerd: %v", r)
	}
	status := rpc(t, d.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: w.counter.id}).Status
	if status.State != runtimeapi.ContainerState_CONTAINER_RUNNING || status.LogPath != w.counter.logPath() || status.Metadata.Attempt != 2 {
		t.Errorf("cri-dockerd has the container as %v", status)
	}
	size := func() int64 {
		info, err := os.Stat(status.LogPath)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	before := size()
	eventually(t, "the log that cri-dockerd names grows", time.Minute, func() bool { return size() > before })
	if s := rpc(t, d.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: w.exits.id}).Status; s.ExitCode != 3 {
		t.Errorf("cri-dockerd has the exited container as %v", s)
	}
}

// endAt has cri-dockerd stop and remove one of cridock's pods.
func (w *workload) endAt(d *criDockerd) {
	w.t.Helper()
	t := w.t
	rpc(t, d.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: w.created.id})
	later := &ctr{pod: w.pod, cfg: w.ctrConfig("later", "exec sleep 100000")}
	later.id = cri{d.runtime}.create(t, w.pod, later.cfg)
	if err := (cri{d.runtime}).start(t, later); err != nil {
		t.Error(err)
	}
	rpc(t, d.runtime.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: w.server.id, Timeout: 0})
	rpc(t, d.runtime.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: w.id})
	if held, err := w.addresses(w.id); err != nil || len(held) > 0 {
		t.Errorf("stopped by cri-dockerd, the pod holds %v (%v)", held, err)
	}
	rpc(t, d.runtime.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: w.id})
	names, err := w.docker.withLabel(fmt.Sprintf("io.kubernetes.sandbox.id=%s", w.id))
	if err != nil || len(names) > 0 {
		t.Errorf("removed by cri-dockerd, there is %v (%v)", names, err)
	}
}
