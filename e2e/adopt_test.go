package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// workload is a pod made by another adapter that cridock takes over.
type workload struct {
	*pod
	server, counter, exits, fails, created *ctr
	port                                   int32    // of the host; 0 for none
	ran                                    []string // processes
}

// newWorkload has a maker create a pod with a container in each state.
func newWorkload(t *testing.T, c *cridock, a maker, port int32, options ...podOption) *workload {
	t.Helper()
	cfg := c.podConfig(t, append([]podOption{func(cfg *runtimeapi.PodSandboxConfig) {
		cfg.Metadata.Attempt = foreignAttempt
		if port > 0 {
			cfg.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 8080, HostPort: port}}
		}
		cfg.Annotations["kubernetes.io/config.source"] = "api"
		for k, v := range podLabels(cfg.Metadata) {
			cfg.Labels[k] = v
		}
	}}, options...)...)
	w := &workload{pod: &pod{cridock: c, t: t, cfg: cfg}, port: port}
	w.id = a.runPod(t, cfg)
	t.Cleanup(func() {
		w.remove()
		c.checkGone(t, cfg.Metadata.Uid, w.id)
	})
	w.server = w.make(a, "server", "echo serving; echo adopted >/tmp/index.html; exec httpd -f -p 8080 -h /tmp")
	w.counter = w.make(a, "counter", "i=0; until [ -e /stop ]; do i=$((i+1)); echo $i; usleep 10000; done; echo $i >/count; exec sleep 100000")
	w.exits = w.make(a, "exits", "echo bye; exit 3")
	w.fails = w.make(a, "fails", "", func(cfg *runtimeapi.ContainerConfig) { cfg.Command = []string{"/no/such/binary"} })
	w.created = w.make(a, "created", "echo ran")
	for _, c := range []*ctr{w.server, w.counter, w.exits} {
		if err := a.start(t, c); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.start(t, w.fails); err == nil {
		t.Error("a program that is not there was started")
	}
	eventually(t, "it has exited", time.Minute, func() bool { return c.docker.inspect(t, w.exits.id).State.Pid == 0 })
	w.ran = w.processes(t)
	return w
}

// podLabels are the labels that the kubelet puts on sandboxes and containers.
func podLabels(m *runtimeapi.PodSandboxMetadata) map[string]string {
	return map[string]string{"io.kubernetes.pod.name": m.Name, "io.kubernetes.pod.namespace": m.Namespace, "io.kubernetes.pod.uid": m.Uid}
}

// make has a maker create a container the way the kubelet requests it.
func (w *workload) make(a maker, name, script string, options ...ctrOption) *ctr {
	w.t.Helper()
	cfg := w.ctrConfig(name, script, append([]ctrOption{func(cfg *runtimeapi.ContainerConfig) {
		cfg.Metadata.Attempt = 2
		cfg.LogPath = name + "/2.log"
		cfg.Labels = podLabels(w.cfg.Metadata)
		cfg.Labels["io.kubernetes.container.name"] = name
		cfg.Annotations = map[string]string{"io.kubernetes.container.hash": "5ee47cc4", "io.kubernetes.container.restartCount": "2"}
		cfg.Mounts = []*runtimeapi.Mount{{HostPath: w.path("logs"), ContainerPath: "/logs", Readonly: true}}
		cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 512}
	}}, options...)...)
	c := &ctr{pod: w.pod, cfg: cfg}
	if err := os.MkdirAll(filepath.Dir(c.logPath()), 0o755); err != nil {
		w.t.Fatal(err)
	}
	c.id = a.create(w.t, w.pod, cfg)
	return c
}

// processes identifies the pod's processes, to detect any that were restarted.
func (w *workload) processes(t *testing.T) (all []string) {
	t.Helper()
	for _, id := range []string{w.id, w.server.id, w.counter.id} {
		s := w.docker.inspect(t, id).State
		all = append(all, fmt.Sprintf("%s: process %d since %s", id, s.Pid, s.StartedAt))
	}
	return all
}

// in returns the workload for use in a subtest.
func (w *workload) in(t *testing.T) *workload {
	q := *w
	q.pod = w.pod.in(t)
	for _, c := range []**ctr{&q.server, &q.counter, &q.exits, &q.fails, &q.created} {
		*c = &ctr{pod: q.pod, id: (*c).id, cfg: (*c).cfg}
	}
	return &q
}

// checkTaken checks that the whole pod is unchanged.
func (w *workload) checkTaken() {
	w.t.Helper()
	t := w.t
	if now := w.processes(t); !cmp.Equal(w.ran, now) {
		t.Errorf("processes were %v and are %v", w.ran, now)
	}
	s := w.status()
	if s.State != runtimeapi.PodSandboxState_SANDBOX_READY || !cmp.Equal(s.Labels, w.cfg.Labels) || !cmp.Equal(s.Annotations, w.cfg.Annotations) {
		t.Errorf("the sandbox is %v", s)
	}
	if diff := cmp.Diff(w.cfg.Metadata, s.Metadata, protocmp.Transform()); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	checkAddresses(t, w.cridock, w.pod, s.Network)
	if w.port > 0 {
		w.checkServed()
	}
	if got := w.server.sh("echo works; cat /etc/resolv.conf"); got != "works\nnameserver "+w.cfg.DnsConfig.Servers[0] {
		t.Errorf("exec says %q", got)
	}
	running := w.counter.status()
	if running.State != runtimeapi.ContainerState_CONTAINER_RUNNING || running.Metadata.Attempt != 2 || running.LogPath != w.counter.logPath() ||
		!cmp.Equal(running.Labels, w.counter.cfg.Labels) || !cmp.Equal(running.Annotations, w.counter.cfg.Annotations) {
		t.Errorf("the running container is %v", running)
	}
	if diff := cmp.Diff(w.counter.cfg.Mounts, running.Mounts, protocmp.Transform()); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	if r := running.GetResources().GetLinux(); r.GetMemoryLimitInBytes() != 64<<20 || r.GetCpuShares() != 512 {
		t.Errorf("resources are %v", r)
	}
	if s := w.exits.status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 3 || s.Reason != "Error" {
		t.Errorf("the exited container is %v", s)
	}
	if s := w.fails.status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 127 || s.Reason != "ContainerCannotRun" {
		t.Errorf("the container that failed is %v", s)
	}
	stats := rpc(t, w.runtime.ContainerStats, &runtimeapi.ContainerStatsRequest{ContainerId: w.counter.id}).Stats
	if stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 || stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
		t.Errorf("statistics are %v", stats)
	}
	list := rpc(t, w.runtime.ListContainers, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: w.id}}).Containers
	for _, c := range []*ctr{w.server, w.counter, w.exits, w.fails, w.created} {
		if !slices.ContainsFunc(list, func(l *runtimeapi.Container) bool { return l.Id == c.id }) {
			t.Errorf("container %s is not listed", c.cfg.Metadata.Name)
		}
	}
}

// checkServed connects to the pod through its host port.
func (w *workload) checkServed() {
	w.t.Helper()
	eventually(w.t, "the host port answers", time.Minute, func() bool {
		resp, err := w.http().Get(fmt.Sprintf("http://127.0.0.1:%d/", w.port))
		if err != nil {
			return false
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		return string(b) == "adopted\n"
	})
}

// checkLogs rotates the log, and reads it from its first line to one printed
// now.
func (w *workload) checkLogs() {
	w.t.Helper()
	t, c := w.t, w.counter
	rotated := c.logPath() + ".20260301-100000"
	if err := os.Rename(c.logPath(), rotated); err != nil {
		t.Fatal(err)
	}
	rpc(t, c.runtime.ReopenContainerLog, &runtimeapi.ReopenContainerLogRequest{ContainerId: c.id})
	count := c.sh("touch /stop; until [ -s /count ]; do sleep 0.1; done; cat /count")
	var lines []logLine
	eventually(t, "the last line is there", time.Minute, func() bool {
		b, err := os.ReadFile(rotated)
		lines = append(parseLog(t, b), c.logLines()...)
		return err == nil && len(lines) > 0 && lines[len(lines)-1].text == count
	})
	checkSequence(t, lines, len(lines))
	if got := join(w.server.logLines(), ""); got != "serving\n" {
		t.Errorf("the server's log is %q", got)
	}
}

// checkLink checks that an exited container's log is still Docker's own,
// unchanged, until the container is removed.
func (w *workload) checkLink() {
	w.t.Helper()
	t := w.t
	if b, err := os.ReadFile(w.exits.logPath()); err != nil || !strings.HasPrefix(string(b), `{"log":"bye\n"`) {
		t.Errorf("log of the exited container: %q, %v", b, err)
	}
	rpc(t, w.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: w.exits.id})
	if _, err := os.Lstat(w.exits.logPath()); !os.IsNotExist(err) {
		t.Errorf("the link to the log of a removed container: %v", err)
	}
}

// checkUsable starts containers created before and after the takeover, and
// stops the pod.
func (w *workload) checkUsable() {
	w.t.Helper()
	rpc(w.t, w.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: w.created.id})
	if s := w.created.exited(); s.ExitCode != 0 || w.created.logText() != "ran\n" {
		w.t.Errorf("started now, it ends with %d and log %q", s.ExitCode, w.created.logText())
	}
	got := w.output("new", "for i in $(seq 600); do wget -qO- http://localhost:8080/ 2>/dev/null && break; sleep 0.1; done; cat /etc/resolv.conf")
	if want := "adopted\nnameserver " + w.cfg.DnsConfig.Servers[0] + "\n"; got != want {
		w.t.Errorf("a new container of the pod has %q, want %q", got, want)
	}
	checkStopped(w.t, w.pod, w.server)
}

// TestAdoption takes over running pods of dockershim and cri-dockerd.
func TestAdoption(t *testing.T) {
	t.Parallel()
	c := installCridock(t, newNode(t), "cni")
	// The root directory is the one that cri-dockerd's own flag would name.
	dockershim, dockerd := &foreign{cridock: c, root: c.path("dockershim")}, &foreign{cridock: c, mounts: true, root: c.root()}
	workloads := map[string]*workload{
		"dockershim":  newWorkload(t, c, dockershim, 18081),
		"cri-dockerd": newWorkload(t, c, dockerd, 18082),
		// The cache was lost, or the adapter used another one.
		"without CNI's cache": newWorkload(t, c, dockerd, 18083),
	}
	results, err := filesBelow(c.cacheDir())
	for _, result := range containing(results, workloads["without CNI's cache"].id) {
		err = errors.Join(err, os.Remove(result))
	}
	if err != nil {
		t.Fatal(err)
	}
	onHost := newOnHost(t, c, dockerd)
	checkpoints := contents(t, c.path("dockershim", "sandbox"), filepath.Join(c.root(), "sandbox"))

	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	for name, w := range workloads {
		t.Run(name, func(t *testing.T) { w.in(t).checkTaken() })
	}
	onHost.check()
	c.restart(t, nil)
	for name, w := range workloads {
		t.Run(name+", after a restart", func(t *testing.T) {
			w := w.in(t)
			w.checkTaken()
			w.checkLogs()
			w.checkLink()
			w.checkUsable()
		})
	}
	onHost.check()
	if diff := cmp.Diff(checkpoints, contents(t, c.path("dockershim", "sandbox"), filepath.Join(c.root(), "sandbox"))); diff != "" {
		t.Errorf("checkpoints of the other adapter (-before +after):\n%s", diff)
	}
}

// onHost is a pod with the host's network, and a container that uses another of
// Docker's log drivers.
type onHost struct {
	*pod
	local *ctr
}

func newOnHost(t *testing.T, c *cridock, a maker) *onHost {
	t.Helper()
	w := &workload{pod: &pod{cridock: c, t: t, cfg: c.podConfig(t, func(cfg *runtimeapi.PodSandboxConfig) {
		cfg.Hostname = ""
		cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	})}}
	w.id = a.runPod(t, w.cfg)
	t.Cleanup(w.remove)
	local := w.make(a, "local", "echo kept by Docker; exec sleep 100000", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Annotations["e2e.test/log-driver"] = "local"
	})
	if err := a.start(t, local); err != nil {
		t.Fatal(err)
	}
	return &onHost{pod: w.pod, local: local}
}

func (h *onHost) check() {
	h.t.Helper()
	s := h.status()
	if s.State != runtimeapi.PodSandboxState_SANDBOX_READY || s.GetNetwork().GetIp() != "" || s.GetLinux().GetNamespaces().GetOptions().GetNetwork() != runtimeapi.NamespaceMode_NODE {
		h.t.Errorf("the sandbox with the host's network is %v", s)
	}
	eventually(h.t, "a log that Docker keeps in another form is carried over", time.Minute, func() bool {
		_, err := os.Stat(h.local.logPath())
		return err == nil && h.local.logText() == "kept by Docker\n"
	})
}

// TestHandBack hands logs back to Docker's files, for an adapter that knows no
// others, and takes them over again.
func TestHandBack(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni")
	p := c.runPod(t)
	counter := p.start("counter", "i=0; until [ -e /stop ]; do i=$((i+1)); echo $i; usleep 10000; done; echo $i >/count; exec sleep 100000")
	exits := p.start("exits", "echo bye")
	exits.exited()
	gone := p.start("gone", "exec sleep 100000")
	dir := t.TempDir()
	late := p.start("late", "echo early; until [ -e /dir/stop ]; do sleep 0.1; done; echo late", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/dir"}}
	})
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "stop"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it ends while cridock is away", time.Minute, func() bool { return c.docker.inspect(t, late.id).State.Pid == 0 })
	c.flags = []string{"--container-log-mode=symlink"}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log of what runs is a link to Docker's", time.Minute, func() bool {
		link, err := os.Readlink(counter.logPath())
		return err == nil && link == c.docker.inspect(t, counter.id).LogPath
	})
	if b, err := os.ReadFile(counter.logPath()); err != nil || !strings.HasPrefix(string(b), `{"log":"1\n"`) {
		t.Errorf("the log begins with %.80q, %v", b, err)
	}
	if got := exits.logText(); got != "bye\n" {
		t.Errorf("the log of what has exited is %q", got)
	}
	late.exited()
	if got := late.logText(); got != "early\nlate\n" {
		t.Errorf("the log of what has exited meanwhile is %q", got)
	}
	c.flags = nil
	c.restart(t, func() { c.docker.must(t, http.MethodDelete, "/containers/"+gone.id+"?force=1", nil, nil) })
	// The log is carried over once more.
	count := counter.stopCounting()
	c.awaitLast(t, counter.logPath(), count)
	checkSequence(t, counter.logLines(), count)
	eventually(t, "the position of a container that others have removed is gone", time.Minute, func() bool {
		positions, err := globs(filepath.Join(c.root(), "containers", "*", "log-position"))
		return err == nil && len(positions) == 3
	})
}

// contents returns the contents of all files in some directories.
func contents(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, dir := range dirs {
		files, err := entries(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all[file] = string(b)
		}
	}
	return all
}
