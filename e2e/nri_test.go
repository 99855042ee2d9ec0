package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// nriPlugin adjusts containers by their names.
type nriPlugin struct {
	mu      sync.Mutex
	adjust  map[string]func(*api.ContainerAdjustment)
	updates []*api.ContainerUpdate
	events  []string                 // EVENT CONTAINER
	hang    map[string]chan struct{} // an event's call returns when it is closed
}

func (p *nriPlugin) note(event, name string) {
	p.mu.Lock()
	p.events = append(p.events, event+" "+name)
	hang := p.hang[event]
	p.mu.Unlock()
	if hang != nil {
		<-hang
	}
}

func (p *nriPlugin) of(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, e := range p.events {
		if event, ok := strings.CutSuffix(e, " "+name); ok {
			out = append(out, event)
		}
	}
	return strings.Join(out, " ")
}

func (p *nriPlugin) Synchronize(_ context.Context, _ []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	for _, c := range containers {
		p.note("sync", c.GetName())
	}
	return nil, nil
}

func (p *nriPlugin) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.note("create", c.GetName())
	p.mu.Lock()
	defer p.mu.Unlock()
	a := &api.ContainerAdjustment{}
	if f := p.adjust[c.GetName()]; f != nil {
		f(a)
	}
	return a, p.updates, nil
}

func (p *nriPlugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("start", c.GetName())
	return nil
}

func (p *nriPlugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.note("stop", c.GetName())
	return nil, nil
}

func (p *nriPlugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("remove", c.GetName())
	return nil
}

// nriTest is a node whose cridock serves plugins.
type nriTest struct {
	*usernsTest
	socket string
}

// connect connects a plugin, and returns once it gets events; gone is closed when its
// connection ends.
func (n *nriTest) connect(t *testing.T, p *nriPlugin, index string, options ...stub.Option) (s stub.Stub, gone chan struct{}) {
	t.Helper()
	gone = make(chan struct{})
	closed := sync.OnceFunc(func() { close(gone) })
	options = append(options, stub.WithPluginIdx(index), stub.WithPluginName("e2e"), stub.WithSocketPath(n.socket), stub.WithOnClose(closed))
	before := n.synchronized(t, index)
	eventually(t, "a plugin can connect", time.Minute, func() bool {
		var err error
		s, err = stub.New(p, options...)
		if err != nil {
			t.Fatal(err)
		}
		return s.Start(t.Context()) == nil
	})
	t.Cleanup(s.Stop)
	eventually(t, "the plugin gets events", time.Minute, func() bool { return n.synchronized(t, index) > before })
	return s, gone
}

// synchronized returns how often a plugin has connected to the end, according to the log.
func (n *nriTest) synchronized(t *testing.T, index string) (count int) {
	t.Helper()
	log, err := os.ReadFile(n.logFile())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, index+"-e2e") && strings.Contains(line, "connected and synchronized") {
			count++
		}
	}
	return count
}

// TestNRI runs containers that a plugin changes, through Docker and cridock-runtime.
func TestNRI(t *testing.T) {
	t.Parallel()
	needEngine(t)
	node := newNode(t)
	socket := filepath.Join(node.dir, "nri", "nri.sock")
	u := newUsernsTestOn(t, node, "--privileged-without-host-devices=bounded", "--device-ownership-from-security-context", "--nri", "--nri-socket-path="+socket, "--nri-plugin-path="+filepath.Join(node.dir, "nri", "plugins"), "--nri-plugin-config-path="+filepath.Join(node.dir, "nri", "conf.d"),
		"--nri-plugin-request-timeout=1m")
	n := &nriTest{u, socket}
	_, bounded, _ := strings.Cut(boundedRuntime(t, "bounded"), "=bounded=")
	if err := os.WriteFile(filepath.Join(node.dir, "daemon.json"), fmt.Appendf(nil, `{"runtimes": {"bounded": {"path": %q}}}`, bounded), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
	t.Run("without cridock-runtime", n.withoutSeam)
	n.mustRegister(t)
	n.restart(t, nil)
	t.Run("adjusted", n.adjusted)
	t.Run("user namespace", n.adjustedInUserns)
	t.Run("devices", n.adjustedDevices)
	t.Run("updates", n.unaskedUpdates)
	t.Run("hanging", n.hanging)
}

func adjustMain(a *api.ContainerAdjustment, dir string) {
	a.AddEnv("ADDED", "yes")
	a.RemoveEnv("WANTED")
	a.AddMount(&api.Mount{Type: "bind", Source: dir, Destination: "/plugin", Options: []string{"rbind", "ro"}})
	a.AddMount(&api.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/scratch", Options: []string{"size=1m"}})
	a.AddRlimit("RLIMIT_NOFILE", 2000, 1000)
	a.AddDevice(&api.LinuxDevice{Path: "/dev/null", Type: "c", Major: 1, Minor: 3})
	a.SetLinuxCPUShares(512)
	a.SetLinuxPidLimits(99)
	score := 500
	a.SetLinuxOomScoreAdj(&score)
}

const printMain = `echo "$ADDED-$WANTED $(grep -c ' /plugin [^ ]* ro' /proc/mounts) $(df -k /scratch | awk 'NR==2 {print $2}') $(awk '/^Max open files/ {print $4, $5}' /proc/1/limits) $(cat /proc/1/oom_score_adj)"; sleep 1000`

// withoutSeam: Docker makes what it has a field for, and the rest is refused.
func (n *nriTest) withoutSeam(t *testing.T) {
	p := &nriPlugin{adjust: map[string]func(*api.ContainerAdjustment){
		"main": func(a *api.ContainerAdjustment) { adjustMain(a, n.node.dir) },
		"hooked": func(a *api.ContainerAdjustment) {
			a.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: "/bin/true"}}})
		},
	}}
	n.connect(t, p, "10")
	pod := n.runPod(t)
	c := pod.start("main", printMain, func(cfg *runtimeapi.ContainerConfig) {
		cfg.Envs = []*runtimeapi.KeyValue{{Key: "WANTED", Value: []byte("no")}}
	})
	eventuallyLog(t, c, "yes- 1 1024 1000 2000 500")
	if r := c.status().Resources.Linux; r.CpuShares != 512 || r.OomScoreAdj != 500 {
		t.Errorf("the status has %v", r)
	}
	_, err := pod.tryCreate(pod.ctrConfig("hooked", "true"))
	wantCode(t, err, codes.FailedPrecondition, `plugin "10-e2e"`)
	wantCode(t, err, codes.FailedPrecondition, "cridock runtime install")
	if got := p.of("hooked"); got != "create stop remove" {
		t.Errorf("a plugin was told %s", got)
	}
	pod.remove()
	// The first of the same name made way for the adjusted one.
	if got := p.of("main"); got != "create stop remove create start stop remove" {
		t.Errorf("a plugin was told %s", got)
	}
}

// adjusted: cridock-runtime does the rest.
func (n *nriTest) adjusted(t *testing.T) {
	hook, ran := filepath.Join(n.node.dir, "nri-hook"), filepath.Join(n.node.dir, "nri-hook-ran")
	n.run(t, "sh", "-ec", `printf '#!/bin/sh\necho "$1 $WHO $(id -u)" >`+ran+`\n' >`+hook+`; chmod 755 `+hook)
	p := &nriPlugin{adjust: map[string]func(*api.ContainerAdjustment){
		"main": func(a *api.ContainerAdjustment) {
			adjustMain(a, n.node.dir)
			a.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: hook, Args: []string{"hook", "arg"}, Env: []string{"WHO=nri"}}}})
		},
		"device": func(a *api.ContainerAdjustment) {
			a.AddDevice(&api.LinuxDevice{Path: "/dev/made", Type: "c", Major: 1, Minor: 5, FileMode: api.FileMode(uint32(0o640)), Uid: api.UInt32(uint32(7))})
			a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW", Syscalls: []*api.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: "SCMP_ACT_ERRNO"}}})
			a.AddAnnotation("e2e.test/note", "x")
		},
		"shared": func(a *api.ContainerAdjustment) { a.RemoveNamespace(&api.LinuxNamespace{Type: "pid"}) },
		"volume": func(a *api.ContainerAdjustment) { a.RemoveMount("/volume") },
	}}
	const declares = "localhost/e2e/nri-volume:1"
	n.docker.build(t, declares, "FROM "+n.image+"\nVOLUME /volume\n")
	_, gone := n.connect(t, p, "10")
	pod := n.runPod(t)
	c := pod.start("main", printMain)
	eventuallyLog(t, c, "yes- 1 1024 1000 2000 500")
	if got := strings.TrimSpace(n.run(t, "cat", ran)); got != "arg nri 0" {
		t.Errorf("the hook printed %q", got)
	}
	if got := pod.output("device", `stat -c '%a %u %t %T' /dev/made; head -c 4 /dev/made | wc -c; mkdir /x 2>/dev/null || echo denied`); got != "640 7 1 5\n4\ndenied\n" {
		t.Errorf("a container with a device and a seccomp policy has %q", got)
	}
	if got := pod.output("shared", "[ $$ -eq 1 ] || echo host"); got != "host\n" {
		t.Errorf("a container without a PID namespace printed %q", got)
	}
	for name, want := range map[string]string{"volume": "0\n", "declared": "1\n"} {
		if got := pod.output(name, "grep -c ' /volume ' /proc/mounts || true", ofImage(declares)); got != want {
			t.Errorf("%s: %q mounts on the image's volume, want %q", name, got, want)
		}
	}
	n.restart(t, nil)
	<-gone
	later := &nriPlugin{}
	n.connect(t, later, "10")
	eventually(t, "a plugin gets the list after a restart", time.Minute, func() bool { return later.of("main") == "sync" })
	if r := c.status().Resources.Linux; r.CpuShares != 512 {
		t.Errorf("after a restart the status has %v", r)
	}
	pod.remove()
	if got := later.of("main"); got != "sync stop remove" {
		t.Errorf("a plugin was told %s", got)
	}
}

// adjustedInUserns: a plugin's device is made in a user namespace, too; a mount that it
// removes takes its mapping with it; the host's namespaces are refused.
func (n *nriTest) adjustedInUserns(t *testing.T) {
	const hostID = 100000
	volume := filepath.Join(n.node.dir, "nri-volume")
	n.run(t, "mkdir", volume)
	p := &nriPlugin{adjust: map[string]func(*api.ContainerAdjustment){
		"device": func(a *api.ContainerAdjustment) {
			a.AddDevice(&api.LinuxDevice{Path: "/dev/made", Type: "c", Major: 1, Minor: 5, FileMode: api.FileMode(uint32(0o640)), Uid: api.UInt32(uint32(7))})
		},
		"unmounted": func(a *api.ContainerAdjustment) { a.RemoveMount("/data") },
		"replaced": func(a *api.ContainerAdjustment) {
			a.RemoveMount("/data")
			a.AddMount(&api.Mount{Type: "bind", Source: volume, Destination: "/data", Options: []string{"rbind", "ro"}})
		},
		"host": func(a *api.ContainerAdjustment) { a.RemoveNamespace(&api.LinuxNamespace{Type: "pid"}) },
	}}
	n.connect(t, p, "10")
	pod := n.runPod(t, inUserNamespace(hostID))
	if got := pod.output("device", "stat -c '%a %u %t %T' /dev/made; head -c 4 /dev/made | wc -c"); got != "640 7 1 5\n4\n" {
		t.Errorf("a container with a device has %q", got)
	}
	const print = "stat -c %u /data 2>/dev/null || echo none"
	for name, want := range map[string]string{"kept": "0\n", "unmounted": "none\n", "replaced": "65534\n"} {
		if got := pod.output(name, print, mapped(hostID, volume, "/data")); got != want {
			t.Errorf("%s: /data belongs to %q, want %q", name, got, want)
		}
	}
	_, err := pod.tryCreate(pod.ctrConfig("host", "true"))
	wantCode(t, err, codes.FailedPrecondition, "host's pid namespace")
}

// adjustedDevices: the settings of devices apply to what plugins have made of them.
func (n *nriTest) adjustedDevices(t *testing.T) {
	p := &nriPlugin{adjust: map[string]func(*api.ContainerAdjustment){
		"given": func(a *api.ContainerAdjustment) {
			a.AddDevice(&api.LinuxDevice{Path: "/dev/loop-control", Type: "c", Major: 10, Minor: 237})
		},
	}}
	n.connect(t, p, "10")
	const script = "(: </dev/loop-control) 2>/dev/null && echo works || echo none"
	pod := n.runPodWith(t, "bounded", privilegedPod)
	for name, want := range map[string]string{"plain": "none\n", "given": "works\n"} {
		if got := pod.output(name, script, privileged); got != want {
			t.Errorf("%s: the privileged container printed %q, want %q", name, got, want)
		}
	}
	device := filepath.Join(n.node.dir, "nri-device")
	n.run(t, "mknod", "-m", "600", device, "c", "1", "5")
	if got := pod.output("owned", "stat -c %u /dev/own", runAs(1000, 2000), withDevice(device, "/dev/own", "r")); got != "1000\n" {
		t.Errorf("the device belongs to %q", got)
	}
}

// unaskedUpdates: plugins update and evict containers, by themselves or with an answer.
func (n *nriTest) unaskedUpdates(t *testing.T) {
	p := &nriPlugin{}
	s, _ := n.connect(t, p, "10")
	pod := n.runPod(t)
	c := pod.start("main", "sleep 1000")
	shares := func(v uint64) *api.ContainerUpdate {
		u := &api.ContainerUpdate{ContainerId: c.id}
		u.SetLinuxCPUShares(v)
		return u
	}
	if failed, err := s.UpdateContainers([]*api.ContainerUpdate{shares(300)}); err != nil || len(failed) > 0 {
		t.Errorf("%v, %v", failed, err)
	}
	if r := c.status().Resources.Linux; r.CpuShares != 300 {
		t.Errorf("the status has %v", r)
	}
	p.mu.Lock()
	p.updates = []*api.ContainerUpdate{shares(400)}
	p.mu.Unlock()
	pod.create("other", "true") // of the same pod
	if r := c.status().Resources.Linux; r.CpuShares != 400 {
		t.Errorf("the status has %v", r)
	}
	pod.remove()
}

// hanging: a plugin that does not answer delays a call by its timeout, once.
func (n *nriTest) hanging(t *testing.T) {
	n.flags = append(n.flags, "--nri-plugin-request-timeout=5s")
	n.restart(t, nil)
	end := make(chan struct{})
	defer close(end)
	p := &nriPlugin{hang: map[string]chan struct{}{"create": end}}
	_, gone := n.connect(t, p, "10")
	good := &nriPlugin{}
	n.connect(t, good, "20", stub.WithFailurePolicy(&api.FailurePolicy{KeepConnected: true})) // even on a slow machine
	pod := n.runPod(t)
	pod.start("main", "sleep 1000")
	<-gone
	pod.start("next", "sleep 1000")
	if got := []string{p.of("main"), p.of("next"), good.of("main"), good.of("next")}; !slices.Equal(got, []string{"create", "", "create start", "create start"}) {
		t.Errorf("plugins were told %q", got)
	}
	pod.remove()
}
