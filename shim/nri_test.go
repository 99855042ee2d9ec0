package shim_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/docker/docker/api/types/system"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/nri"
)

// plugin is an NRI plugin that notes what it is told.
type plugin struct {
	stub stub.Stub
	gone chan struct{}
	// subscribes are the events that it is told of, besides Synchronize; 0 for all.
	subscribes api.EventMask

	mu     sync.Mutex
	events []string // EVENT ID, in order
	last   map[string]*api.Container
	pods   map[string]*api.PodSandbox

	// These answer; nil for nothing.
	adjust  func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error)
	resize  func(*api.Container, *api.LinuxResources) ([]*api.ContainerUpdate, error)
	stopped func(*api.Container) []*api.ContainerUpdate
	refuses func(event, id string) error
}

func (p *plugin) note(event string, pod *api.PodSandbox, c *api.Container) error {
	p.mu.Lock()
	id := pod.GetId()
	if c != nil {
		id = c.GetId()
		p.last[event] = c
	}
	p.pods[event] = pod
	p.events = append(p.events, event+" "+id)
	p.mu.Unlock()
	if p.refuses != nil {
		return p.refuses(event, id)
	}
	return nil
}

// of returns the events about an ID.
func (p *plugin) of(id string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, e := range p.events {
		if event, ok := strings.CutSuffix(e, " "+id); ok {
			out = append(out, event)
		}
	}
	return out
}

func (p *plugin) container(event string) *api.Container {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last[event]
}

func (p *plugin) Configure(context.Context, string, string, string) (api.EventMask, error) {
	return p.subscribes, nil
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	for _, pod := range pods {
		_ = p.note("Synchronize", pod, nil)
	}
	for _, c := range containers {
		_ = p.note("Synchronize", nil, c)
	}
	return nil, nil
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.note("RunPodSandbox", pod, nil)
}

func (p *plugin) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, _, _ *api.LinuxResources) error {
	return p.note("UpdatePodSandbox", pod, nil)
}

func (p *plugin) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.note("PostUpdatePodSandbox", pod, nil)
}

func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.note("StopPodSandbox", pod, nil)
}

func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.note("RemovePodSandbox", pod, nil)
}

func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if err := p.note("CreateContainer", pod, c); err != nil || p.adjust == nil {
		return nil, nil, err
	}
	return p.adjust(c)
}

func (p *plugin) PostCreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.note("PostCreateContainer", pod, c)
}

func (p *plugin) StartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.note("StartContainer", pod, c)
}

func (p *plugin) PostStartContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.note("PostStartContainer", pod, c)
}

func (p *plugin) UpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	if err := p.note("UpdateContainer", pod, c); err != nil || p.resize == nil {
		return nil, err
	}
	return p.resize(c, r)
}

func (p *plugin) PostUpdateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.note("PostUpdateContainer", pod, c)
}

func (p *plugin) StopContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	if err := p.note("StopContainer", pod, c); err != nil || p.stopped == nil {
		return nil, err
	}
	return p.stopped(c), nil
}

func (p *plugin) RemoveContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) error {
	return p.note("RemoveContainer", pod, c)
}

// withNRI turns NRI on.
func withNRI(n *node) {
	n.cfg.NRI = &nri.Config{
		SocketPath: filepath.Join(n.dir, "nri", "nri.sock"), PluginPath: filepath.Join(n.dir, "plugins"), PluginConfigPath: filepath.Join(n.dir, "conf.d"),
		RegistrationTimeout: 30 * time.Second, RequestTimeout: 30 * time.Second,
	}
}

// connect connects a plugin, and returns once it gets events.
func (n *node) connect(p *plugin, index, name string, options ...stub.Option) *plugin {
	n.t.Helper()
	n.attach(p, index, name, options...)
	n.t.Cleanup(p.stub.Stop)
	n.eventually("the plugin is connected", func() bool {
		return strings.Contains(n.logs.String(), fmt.Sprintf(`plugin \"%s-%s\" connected and synchronized`, index, name))
	})
	return p
}

// attach connects a plugin, and returns when it has been configured.
func (n *node) attach(p *plugin, index, name string, options ...stub.Option) {
	n.t.Helper()
	p.last, p.pods = map[string]*api.Container{}, map[string]*api.PodSandbox{}
	n.eventually("a plugin can connect", func() bool {
		gone := make(chan struct{})
		own := []stub.Option{stub.WithPluginIdx(index), stub.WithPluginName(name), stub.WithSocketPath(n.cfg.NRI.SocketPath), stub.WithOnClose(sync.OnceFunc(func() { close(gone) }))}
		var err error
		p.stub, err = stub.New(p, append(own, options...)...)
		n.must(err)
		p.gone = gone
		return p.stub.Start(n.ctx) == nil
	})
}

// await waits for a channel to be closed.
func (n *node) await(closed <-chan struct{}, what string) {
	n.t.Helper()
	select {
	case <-closed:
	case <-n.ctx.Done():
		n.t.Fatal("it has not happened: " + what)
	}
}

func wantEvents(t *testing.T, p *plugin, id string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, p.of(id)); diff != "" {
		t.Errorf("events of %s: %s", id, diff)
	}
}

// TestNRIEvents: plugins learn of all that happens to a pod, once and in order, and
// nobody sees a pod or container before they do.
func TestNRIEvents(t *testing.T) {
	n := newNode(t, withNRI)
	p := &plugin{}
	p.refuses = func(event, id string) error {
		switch event {
		case "RunPodSandbox":
			r, err := n.runtime.ListPodSandbox(n.ctx, &runtimeapi.ListPodSandboxRequest{})
			if err != nil || len(r.Items) != 0 {
				t.Errorf("during %s: %v, %v", event, r, err)
			}
		case "CreateContainer":
			r, err := n.runtime.ListContainers(n.ctx, &runtimeapi.ListContainersRequest{})
			if err != nil || slices.ContainsFunc(r.Containers, func(c *runtimeapi.Container) bool { return c.Id == id }) {
				t.Errorf("during %s: %v, %v", event, r, err)
			}
			_, err = n.runtime.ContainerStatus(n.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
			wantCode(t, err, codes.NotFound)
		}
		return nil
	}
	n.connect(p, "10", "notes")
	pod := n.runPod(n.podConfig("web"))
	id := n.runContainer(pod, containerConfig("main", "pause"))
	_, err := n.runtime.UpdateContainerResources(n.ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: &linuxResources{CpuShares: 512}})
	n.must(err)
	_, err = n.runtime.UpdatePodSandboxResources(n.ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: &linuxResources{CpuShares: 512}})
	n.must(err)
	created := []string{"CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer"}
	wantEvents(t, p, id, append(slices.Clone(created), "UpdateContainer", "PostUpdateContainer")...)

	short := n.runContainer(pod, containerConfig("short", "pause"))
	n.docker.Exit(short, 3)
	n.eventually("the exit is told", func() bool { return slices.Contains(p.of(short), "StopContainer") })
	if c := p.container("StopContainer"); c.GetExitCode() != 3 || c.GetState() != api.ContainerState_CONTAINER_STOPPED {
		t.Errorf("the exit is told as %v", c)
	}
	n.must(n.stopContainer(short, 0))
	n.must(n.removeContainer(short))
	wantEvents(t, p, short, append(slices.Clone(created), "StopContainer", "RemoveContainer")...)

	n.must(n.stopPod(pod))
	n.must(n.stopPod(pod))
	n.must(n.removePod(pod))
	wantEvents(t, p, id, append(slices.Clone(created), "UpdateContainer", "PostUpdateContainer", "StopContainer", "RemoveContainer")...)
	wantEvents(t, p, pod, "RunPodSandbox", "UpdatePodSandbox", "PostUpdatePodSandbox", "StopPodSandbox", "RemovePodSandbox")

	c, sb := p.container("CreateContainer"), p.pods["StartContainer"]
	if c.GetName() != "short" || c.GetPodSandboxId() != pod || !slices.Equal(c.GetArgs(), []string{"pause"}) || !slices.Contains(c.GetEnv(), "TOKEN="+secret) ||
		!strings.HasPrefix(c.GetEnv()[0], "PATH=") || strings.Contains(c.GetImage().GetDigest(), "@") ||
		c.GetLabels()["name"] != "short" || c.GetState() != api.ContainerState_CONTAINER_CREATED || !strings.HasSuffix(c.GetLinux().GetCgroupsPath(), short) {
		t.Errorf("a plugin got %v", c)
	}
	if sb.GetId() != pod || sb.GetName() != "web" || sb.GetNamespace() != "default" || sb.GetUid() != "uid-web" || sb.GetAnnotations()["note"] != "for web" || sb.GetAnnotations()["io.kubernetes.cri.sandbox-id"] != pod || sb.GetPid() == 0 {
		t.Errorf("a plugin got the pod %v", sb)
	}
}

// TestNRIAdjustments: a container is what a plugin makes of it, also for those who ask
// later, and after a restart.
func TestNRIAdjustments(t *testing.T) {
	n := newNode(t, withNRI)
	p := &plugin{adjust: func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		a.AddEnv("ADDED", "by a plugin")
		a.RemoveEnv("TOKEN")
		a.SetArgs([]string{"other", "words"})
		a.AddMount(&api.Mount{Type: "bind", Source: n.dir, Destination: "/data", Options: []string{"rbind", "ro"}})
		a.AddDevice(&api.LinuxDevice{Path: "/dev/null", Type: "c", Major: 1, Minor: 3})
		a.AddRlimit("RLIMIT_NOFILE", 200, 100)
		a.SetLinuxCPUShares(333)
		a.SetLinuxOomScoreAdj(ptr(77))
		a.SetLinuxPidLimits(55)
		return a, nil, nil
	}}
	n.connect(p, "10", "adjuster")
	pod := n.runPod(n.podConfig("web"))
	cfg := containerConfig("main", "pause")
	id := n.create(pod, cfg)
	if again := n.create(pod, cfg); again != id {
		t.Errorf("a repeated request creates %s, after %s", again, id)
	}
	check := func() {
		t.Helper()
		in, err := n.call().ContainerInspect(n.ctx, id)
		n.must(err)
		hc := in.HostConfig
		got := []any{in.Config.Entrypoint, in.Config.Cmd, hc.Devices[0].PathInContainer, hc.Ulimits[0].Name, hc.Ulimits[0].Soft, hc.CPUShares, hc.OomScoreAdj, *hc.PidsLimit}
		if text := fmt.Sprint(got); text != "[[other words] [] /dev/null nofile 100 333 77 55]" {
			t.Errorf("the container has %s", text)
		}
		if env := strings.Join(in.Config.Env, " "); !strings.Contains(env, "ADDED=by a plugin") || strings.Contains(env, secret) {
			t.Errorf("the container has the environment %s", env)
		}
		m := hc.Mounts[len(hc.Mounts)-1]
		if m.Source != n.dir || m.Target != "/data" || !m.ReadOnly {
			t.Errorf("the mount is %+v", m)
		}
		if r := n.status(id).Resources.Linux; r.CpuShares != 333 || r.OomScoreAdj != 77 {
			t.Errorf("the status has %v", r)
		}
	}
	check()
	if !slices.Equal(p.of(id), []string{"CreateContainer", "PostCreateContainer"}) {
		t.Errorf("the plugin was told %q", p.of(id))
	}
	p.mu.Lock()
	first, _, _ := strings.Cut(strings.TrimPrefix(p.events[1], "CreateContainer "), " ")
	p.mu.Unlock()
	wantEvents(t, p, first, "CreateContainer", "StopContainer", "RemoveContainer")
	if c := p.container("PostCreateContainer"); !slices.Equal(c.GetArgs(), []string{"other", "words"}) || c.GetLinux().GetResources().GetCpu().GetShares().GetValue() != 333 || c.GetLinux().GetOomScoreAdj().GetValue() != 77 || c.GetLinux().GetResources().GetCpu().GetQuota() != nil {
		t.Errorf("the plugin got %v", c)
	}

	n.stop()
	<-p.gone // a plugin learns that cridock is gone
	n.start()
	check()
	later := n.connect(&plugin{}, "10", "later")
	wantEvents(t, later, id, "Synchronize")
	wantEvents(t, later, pod, "Synchronize")
	n.must(n.removePod(pod))
	wantEvents(t, later, id, "Synchronize", "StopContainer", "RemoveContainer")
	wantEvents(t, later, pod, "Synchronize", "StopPodSandbox", "RemovePodSandbox")
}

func ptr[T any](v T) *T { return &v }

// TestNRIRefused: what cannot be done fails the creation with the plugin's name, and
// nothing is left.
func TestNRIRefused(t *testing.T) {
	n := newNode(t, withNRI)
	var want func(*api.ContainerAdjustment)
	p := &plugin{adjust: func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		want(a)
		return a, nil, nil
	}}
	n.connect(p, "10", "adjuster")
	pod := n.runPod(n.podConfig("web"))
	before := n.remains()
	for name, tc := range map[string]struct {
		want  func(*api.ContainerAdjustment)
		words []string
	}{
		"hooks": {func(a *api.ContainerAdjustment) { a.AddHooks(&api.Hooks{Prestart: []*api.Hook{{Path: "/bin/true"}}}) }, []string{"cridock runtime install"}},
		"a device": {func(a *api.ContainerAdjustment) {
			a.AddDevice(&api.LinuxDevice{Path: "/dev/other", Type: "c", Major: 1, Minor: 3})
		}, []string{"/dev/other", "cridock runtime install"}},
		"a limit": {func(a *api.ContainerAdjustment) { a.AddRlimit("RLIMIT_AS", 1, 1) }, []string{"RLIMIT_AS"}},
		"a class": {func(a *api.ContainerAdjustment) { a.SetLinuxBlockIOClass("gold") }, []string{"gold", "blockio-config-file"}},
		"a mount": {func(a *api.ContainerAdjustment) {
			a.AddMount(&api.Mount{Type: "nfs", Source: "x:/y", Destination: "/data"})
		}, []string{"nfs"}},
		"an idle IO": {func(a *api.ContainerAdjustment) {
			a.SetLinuxIOPriority(&api.LinuxIOPriority{Class: api.IOPrioClass_IOPRIO_CLASS_IDLE})
		}, []string{"io priority"}},
		"a change each time": {func(a *api.ContainerAdjustment) { a.AddEnv("TIME", fmt.Sprint(time.Now().UnixNano())) }, []string{"each time"}},
	} {
		t.Run(name, func(t *testing.T) {
			want = tc.want
			_, err := n.tryCreate(pod, containerConfig("main", "pause"))
			if err == nil {
				t.Fatal("the container is created")
			}
			for _, word := range append(tc.words, "10-adjuster") {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%v; want %q", err, word)
				}
			}
			n.unchanged(t, before)
		})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	count := map[string]int{}
	for _, e := range p.events {
		event, _, _ := strings.Cut(e, " ")
		count[event]++
	}
	if count["CreateContainer"] != count["RemoveContainer"] || count["CreateContainer"] != count["StopContainer"] || count["PostCreateContainer"] != 0 {
		t.Errorf("plugins were told %v", count)
	}
}

// TestNRIHangingRuntime: a runtime that does not say what it supports fails the creation
// in time, and holds up nobody.
func TestNRIHangingRuntime(t *testing.T) {
	n := newNode(t, withNRI, func(n *node) {
		n.cfg.SeamDir = filepath.Join(n.dir, "run")
		runtime := filepath.Join(n.dir, "hangs")
		n.must(os.WriteFile(runtime, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755))
		n.docker.SetInfo(func(i *system.Info) {
			// It says what mounts it knows, so that cridock asks only for plugins.
			i.Runtimes["runc"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: runtime}, Status: map[string]string{"org.opencontainers.runtime-spec.features": `{"mountOptions": ["rro"]}`}}
			i.Runtimes["cridock"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "/usr/local/bin/cridock-runtime"}}
		})
	})
	var idle atomic.Bool // a call that its client has left may still ask
	idle.Store(true)
	p := &plugin{adjust: func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		if idle.Load() {
			a.SetLinuxIOPriority(&api.LinuxIOPriority{Class: api.IOPrioClass_IOPRIO_CLASS_IDLE})
		}
		return a, nil, nil
	}}
	n.connect(p, "10", "adjuster")
	pod := n.runPod(n.podConfig("web"))
	// A tenth of the time is left for the answer, which is too little on a slow machine.
	// In the last one, the limit for the runtime ends the wait long before.
	var err error
	for i, timeout := range []time.Duration{5 * time.Second, 5 * time.Second, time.Minute} {
		ctx, cancel := context.WithTimeout(n.ctx, timeout)
		_, err = n.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: containerConfig(fmt.Sprint("try", i), "pause")})
		cancel()
		if status.Code(err) != codes.DeadlineExceeded {
			break
		}
	}
	wantCode(t, err, codes.FailedPrecondition, "10-adjuster", "unknown version")
	idle.Store(false)
	n.create(pod, containerConfig("main", "pause"))
}

// TestNRIFaults: plugins that conflict, leave or refuse fail at most the call that they
// are asked about.
func TestNRIFaults(t *testing.T) {
	n := newNode(t, withNRI)
	set := func(value string) func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		return func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			a := &api.ContainerAdjustment{}
			if c.GetName() == "conflict" {
				a.AddEnv("SAME", value)
			}
			return a, nil, nil
		}
	}
	leaves := &plugin{adjust: set("1")}
	leaves.refuses = func(event, _ string) error {
		if event == "CreateContainer" && len(leaves.of("leave")) > 0 {
			go leaves.stub.Stop()
			<-leaves.gone
		}
		return nil
	}
	n.connect(leaves, "10", "first")
	stays := n.connect(&plugin{adjust: set("2")}, "20", "second")
	pod := n.runPod(n.podConfig("web"))
	before := n.remains()
	_, err := n.tryCreate(pod, containerConfig("conflict", "pause"))
	wantCode(t, err, codes.Aborted, "10-first", "20-second")
	n.unchanged(t, before)

	_ = leaves.note("note", &api.PodSandbox{Id: "leave"}, nil)
	id := n.create(pod, containerConfig("main", "pause"))
	stays.refuses = func(event, _ string) error {
		if event == "StartContainer" {
			return fmt.Errorf("not %s", strings.Repeat("now ", 10000))
		}
		return nil
	}
	if err = n.tryStart(id); err == nil || len(err.Error()) > 4096 {
		t.Errorf("a start that a plugin refuses: %.200v", err)
	}
	wantCode(t, err, codes.Aborted, "not now")
	if s := n.status(id).State; s != runtimeapi.ContainerState_CONTAINER_CREATED {
		t.Errorf("the container is %s", s)
	}
	wantEvents(t, stays, id, "CreateContainer", "PostCreateContainer", "StartContainer", "StopContainer")
	n.must(n.removeContainer(id))
}

// TestNRIRefusedPod: a pod that a plugin refuses leaves nothing.
func TestNRIRefusedPod(t *testing.T) {
	n := newNode(t, withNRI)
	var refused string
	p := &plugin{}
	p.refuses = func(event, id string) error {
		if event == "RunPodSandbox" && refused == "" {
			refused = id
			return fmt.Errorf("no")
		}
		return nil
	}
	n.connect(p, "10", "refuses")
	_, err := n.tryRunPod(n.podConfig("web"))
	wantCode(t, err, codes.Aborted, "no")
	if list := n.sandboxes(); len(list) > 0 {
		t.Errorf("there are %v", list)
	}
	wantEvents(t, p, refused, "RunPodSandbox", "StopPodSandbox", "RemovePodSandbox")
	n.runPod(n.podConfig("web"))
}

// TestNRIUpdates: plugins change what an update sets, update other containers, of the
// same pod too, and evict.
func TestNRIUpdates(t *testing.T) {
	n := newNode(t, withNRI)
	pod := n.runPod(n.podConfig("web"))
	other := n.runContainer(pod, containerConfig("other", "pause"))
	update := func(id string, shares uint64) *api.ContainerUpdate {
		u := &api.ContainerUpdate{ContainerId: id}
		u.SetLinuxCPUShares(shares)
		return u
	}
	p := &plugin{
		adjust: func(*api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
			return nil, []*api.ContainerUpdate{update(other, 111)}, nil
		},
		resize: func(c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
			return []*api.ContainerUpdate{update(c.GetId(), r.GetCpu().GetShares().GetValue()+1), update(other, 222)}, nil
		},
	}
	n.connect(p, "10", "updates")
	wantEvents(t, p, other, "Synchronize")
	shares := func(id string, want int64) {
		t.Helper()
		if got := n.status(id).Resources.Linux.CpuShares; got != want {
			t.Errorf("container %s has %d shares, want %d", id, got, want)
		}
	}
	id := n.create(pod, containerConfig("main", "pause"))
	shares(other, 111)
	_, err := n.runtime.UpdateContainerResources(n.ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: &linuxResources{CpuShares: 500}})
	n.must(err)
	shares(id, 501)
	shares(other, 222)
	wrong := &api.ContainerUpdate{ContainerId: other}
	wrong.SetLinuxPidLimits(5)
	failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{update(other, 333), wrong, update(strings.Repeat("0", 64), 1)})
	if err != nil || len(failed) != 1 || failed[0].GetLinux().GetResources().GetPids().GetLimit() != 5 {
		t.Errorf("%v, %v", failed, err)
	}
	shares(other, 333)
}

// TestNRIRDTClass: plugins see the RDT class that a pod's annotation names, and what
// they make of it.
func TestNRIRDTClass(t *testing.T) {
	n := newNode(t, withNRI, withRDT)
	p := n.connect(&plugin{adjust: func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		switch c.GetName() {
		case "other":
			a.SetLinuxRDTClass("silver")
		case "none":
			a.RemoveLinuxRDT()
		}
		return a, nil, nil
	}}, "10", "rdt")
	cfg := n.podConfig("web")
	cfg.Annotations = map[string]string{"rdt.resources.beta.kubernetes.io/pod": "gold"}
	pod := n.runPodOf("new", cfg)
	for name, want := range map[string]string{"main": "gold", "other": "silver", "none": ""} {
		n.create(pod, containerConfig(name, "pause"))
		if got := p.container("CreateContainer").GetLinux().GetRdt().GetClosId().GetValue(); got != "gold" {
			t.Errorf("%s: the plugin is asked about a container of class %q", name, got)
		}
		if got := p.container("PostCreateContainer").GetLinux().GetRdt().GetClosId().GetValue(); got != want {
			t.Errorf("%s: the plugin is told of a container of class %q, want %q", name, got, want)
		}
	}
	n.must(n.removePod(pod))
}

// TestNRIOwnDirectory: a plugin mounts a directory that it has made for the container, and
// removes it with the container.
func TestNRIOwnDirectory(t *testing.T) {
	n := newNode(t, withNRI)
	dir := t.TempDir()
	p := &plugin{adjust: func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		own := filepath.Join(dir, c.GetId())
		if err := os.Mkdir(own, 0o755); err != nil {
			return nil, nil, err
		}
		a := &api.ContainerAdjustment{}
		a.AddMount(&api.Mount{Type: "bind", Source: own, Destination: "/own", Options: []string{"bind", "ro", "rslave"}})
		return a, nil, nil
	}}
	p.refuses = func(event, id string) error {
		if event == "RemoveContainer" {
			return os.Remove(filepath.Join(dir, id))
		}
		return nil
	}
	n.connect(p, "10", "own")
	pod := n.runPod(n.podConfig("web"))
	before := n.remains()
	id := n.create(pod, containerConfig("main", "pause"))
	in, err := n.call().ContainerInspect(n.ctx, id)
	n.must(err)
	m := in.HostConfig.Mounts[len(in.HostConfig.Mounts)-1]
	if leads, err := filepath.EvalSymlinks(m.Source); err != nil || leads != filepath.Join(dir, id) || m.Target != "/own" {
		t.Errorf("the mount is %+v, which leads to %s: %v", m, leads, err)
	}
	told := p.container("PostCreateContainer").GetMounts()
	if i := slices.IndexFunc(told, func(m *api.Mount) bool { return m.GetDestination() == "/own" }); i < 0 || told[i].GetSource() != filepath.Join(dir, id) {
		t.Errorf("the plugin is told of the mounts %v", told)
	}
	n.must(n.removeContainer(id))
	n.unchanged(t, before)
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the plugin has %v, %v", left, err)
	}
	p.adjust = func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		a.AddMount(&api.Mount{Type: "bind", Source: filepath.Join(dir, c.GetId()), Destination: "/own"})
		a.AddEnv("ID", c.GetId()) // cannot be the same again
		return a, nil, nil
	}
	if _, err := n.tryCreate(pod, containerConfig("main", "pause")); err == nil {
		t.Error("the container is created")
	}
	n.unchanged(t, before)
}

// TestNRIInterrupted: a container that plugins were not asked about to the end is made
// again.
func TestNRIInterrupted(t *testing.T) {
	n := newNode(t, withNRI)
	p := n.connect(&plugin{}, "10", "notes")
	pod := n.runPod(n.podConfig("web"))
	id := n.create(pod, containerConfig("main", "pause"))
	n.must(os.Remove(filepath.Join(n.cfg.RootDir, "containers", id, "nri.json")))
	again := n.create(pod, containerConfig("main", "pause"))
	if again == id {
		t.Fatal("the container is kept")
	}
	wantEvents(t, p, again, "CreateContainer", "PostCreateContainer")
	n.eventually("the plugin learns that it is gone", func() bool { return slices.Contains(p.of(id), "RemoveContainer") })
}

// TestNRISocketInUse: another runtime's socket is not taken.
func TestNRISocketInUse(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "nri.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	p := nri.New(nri.Config{SocketPath: l.Addr().String(), PluginPath: dir, PluginConfigPath: dir}, nil)
	if err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another process serves") {
		t.Error(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "writable") {
		t.Error(err)
	}
}
