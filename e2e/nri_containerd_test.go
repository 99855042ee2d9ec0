package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// nriDifference is a pattern of EVENT OBJECT FIELD, for fields that plugins do not get as
// from containerd, and why.
type nriDifference struct {
	field, why string
	sometimes  bool // depends on which of two things containerd does first
}

// nriDifferences are those on every engine. docs/nri.md lists them, too.
var nriDifferences = []nriDifference{
	{field: `.* (pod|container)\.labels\.(io\.cri-containerd\.kind|oci_runtime_type)`, why: "containerd's own labels"},
	{field: `.* pod\.annotations\.io\.kubernetes\.cri\.podsandbox\.image-name`, why: "the sandbox image is the runtime's own"},
	{field: `.* pod\.linux\.resources\..*`, why: "of the sandbox's own process"},
	{field: `.* container\.linux\.seccomp_policy\..*`, why: "Docker does not tell its default policy"},
	{field: `.* container\.linux\.resources\.devices\[.*`, why: "Docker does not tell its rules; the devices are in linux.devices"},
	{field: `.* container\.linux\.devices\[/dev/null\]\.(file_mode|uid|gid)(\.value)?`, why: "cridock tells those of the host's device"},
	{field: `CreateContainer .* container\.(created_at|state)`, why: "the container is in Docker"},
	{field: `(StopContainer|RemoveContainer) .* container\.(state|status_reason)`, why: "cridock tells that it has exited"},
	{field: `(StartContainer|StopContainer) .* container\.pid`, why: "Docker makes the process when it starts it, and forgets it at the exit"},
	{field: `.* container host container\.linux\.namespaces\[(ipc|network|pid|uts)\]\..*`, why: "the host's, which containerd tells as the sandbox's"},
	{field: `RemoveContainer .* container\.linux\.namespaces\[\w+\]\.path`, why: "the pod has stopped"},
	{field: `(RemoveContainer|RemovePodSandbox) .* pod\.ips\[\d\]`, why: "others may have them once the pod has stopped"},
	{field: `StopPodSandbox .* pod\.pid`, why: "containerd stops the sandbox before, and may know its PID a moment longer", sometimes: true},
	{field: `.* pod\.linux\.pod_(overhead|resources)\..*`, why: "containerd does not tell updates of a pod's resources"},
	{field: `.* container\.linux\.(resources\.(cpu|memory)|oom_score_adj)`, why: "empty or missing means the same"},
	{field: `.* container\.mounts\[/sys/fs/cgroup\]\.options`, why: "Docker's do not have relatime"},
	{field: `.* main container\.mounts\[/etc/\w+(\.conf)?\]\.options`, why: "with a read-only root file system, Docker's files of the pod are writable"},
	{field: `.* container adjusted container\.CDI_devices\[.*`, why: "cridock also tells those that plugins have added"},
	{field: `.* adjusted container\.mounts\[/own\]\.options`, why: "bind or rbind: Docker does not tell"},
	{field: `.* adjusted container\.mounts\[/scratch\]\.options`, why: "Docker's form of the size"},
}

// nriDifferencesWithoutCDI are those on engines without CDI, where cridock has Docker make
// what CDI devices consist of.
var nriDifferencesWithoutCDI = []nriDifference{
	{field: `.* container\.linux\.devices\[/dev/of-\w+\]\.(uid|gid)(\.value)?`, why: "they have the host's owner; containerd gives them to the container's user"},
	{field: `.* container\.mounts\[/of-\w+\]\.(type|options)`, why: "they are bind mounts of Docker's"},
}

// TestNRIContainerd runs the same pods on cridock and on containerd, and compares what
// plugins get. CRIDOCK_E2E_CONTAINERD is a directory with containerd and its shim for runc.
func TestNRIContainerd(t *testing.T) {
	dir := containerdPrograms(t)
	t.Parallel()
	flags := runtimeFlags(t)
	node := newNode(t, flags...)
	image, pause := node.imagesOfBoth(t)

	plugins := func(name string) (socket string, flags []string) {
		base := filepath.Join(node.dir, name)
		socket = filepath.Join(base, "nri.sock")
		return socket, []string{"--nri", "--nri-socket-path=" + socket, "--nri-plugin-path=" + filepath.Join(base, "plugins"), "--nri-plugin-config-path=" + filepath.Join(base, "conf.d"), "--nri-plugin-request-timeout=1m"}
	}
	socket, nriFlags := plugins("nri")
	ours := newCridock(t, node, "cni", nriFlags...)
	theirs := newContainerd(t, ours, dir, pause, flags)

	shared := filepath.Join(node.dir, "nri-volume")
	node.run(t, "mkdir", shared)
	// In a directory of the node that all engines and containerd read.
	node.run(t, "sh", "-ec", `mkdir -p /var/run/cdi; echo "$0" >/var/run/cdi/nri.tmp; mv /var/run/cdi/nri.tmp /var/run/cdi/nri.json`, nriCDI(shared))
	work := nriWorkload{image: image, volume: shared, cgroup: "/cridock-" + filepath.Base(node.dir), logs: ours.path("logs", "nri")}
	var want, got *nriRecorder
	t.Run("both", func(t *testing.T) {
		t.Run("cridock", func(t *testing.T) {
			t.Parallel()
			got = work.run(t, ours, socket)
		})
		t.Run("containerd", func(t *testing.T) {
			t.Parallel()
			want = work.run(t, theirs, theirs.path("nri.sock"))
		})
	})
	if t.Failed() {
		return
	}
	differences := nriDifferences
	if !rpc(t, ours.runtime.Status, &runtimeapi.StatusRequest{}).GetFeatures().GetMountOptions() { // no CDI
		differences = slices.Concat(differences, nriDifferencesWithoutCDI)
	}
	compareNRI(t, want, got, differences)
}

// nriCDI is a specification of the CDI devices that a pod and a plugin ask for.
func nriCDI(volume string) string {
	const device = `{"name":"%[1]s","containerEdits":{"env":["CDI_%[1]s=yes"],"deviceNodes":[{"path":"/dev/of-%[1]s","hostPath":%[2]q}],"mounts":[{"hostPath":%[3]q,"containerPath":"/of-%[1]s","options":["ro","rbind"]}]}}`
	return `{"cdiVersion":"0.5.0","kind":"e2e.test/nri","containerEdits":{"env":["CDI_ALL=yes"]},"devices":[` + fmt.Sprintf(device, "pod", "/dev/zero", volume) + "," + fmt.Sprintf(device, "plugin", "/dev/full", volume) + "]}"
}

// containerdPrograms returns the directory of containerd and its shim for runc.
func containerdPrograms(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("CRIDOCK_E2E_CONTAINERD")
	if dir == "" {
		t.Skip("CRIDOCK_E2E_CONTAINERD is not set: a directory with containerd and containerd-shim-runc-v2")
	}
	needEngine(t)
	return dir
}

// imagesOfBoth pushes images that cridock and containerd can pull: for containers, and for
// containerd's sandboxes.
func (n *node) imagesOfBoth(t *testing.T) (image, pause string) {
	t.Helper()
	registry := n.needRegistry(t)
	image, pause = registry+"/both/busybox", registry+"/both/pause"
	n.docker.build(t, pause+":1", "FROM "+n.image+"\nSTOPSIGNAL SIGKILL\nENTRYPOINT [\"sleep\", \"100000\"]\n")
	n.docker.tag(t, n.image, image, "1")
	n.docker.push(t, image, "1", "")
	n.docker.push(t, pause, "1", "")
	return image + ":1", pause + ":1"
}

// newContainerd starts containerd on the node of a cridock.
func newContainerd(t *testing.T, peer *cridock, dir, pause string, runtimeFlags []string) *cridock {
	t.Helper()
	base := filepath.Join(peer.node.dir, "containerd")
	d := &cridock{node: peer.node, dir: base, runDir: base}
	if err := os.MkdirAll(d.path("cni"), 0o755); err != nil {
		t.Fatal(err)
	}
	// The form of the configuration that all releases read.
	config := fmt.Sprintf(`version = 2
root = %q
state = %q
[grpc]
  address = %q
[ttrpc]
  address = %q
[plugins."io.containerd.internal.v1.opt"]
  path = %q
[plugins."io.containerd.nri.v1.nri"]
  disable = false
  socket_path = %q
  plugin_path = %q
  plugin_config_path = %q
  plugin_request_timeout = "1m"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`, d.path("root"), d.path("state"), d.socket(), d.socket()+".ttrpc", d.path("opt"), d.path("nri.sock"), d.path("plugins"), d.path("conf.d"), pause, cniBinDir, d.path("cni"))
	for _, flag := range runtimeFlags {
		if runtime, ok := strings.CutPrefix(flag, "--add-runtime="); ok {
			_, path, _ := strings.Cut(runtime, "=")
			config += fmt.Sprintf("    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n      BinaryName = %q\n", path)
		}
	}
	conflist := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "nri", "plugins": [{"type": "bridge", "bridge": "nri0", "isGateway": true,
  "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.78.0.0/16"}], [{"subnet": "fd78::/64"}]]}}]}`, d.path("ipam"))
	for path, content := range map[string]string{d.path("config.toml"): config, d.path("cni", "10-nri.conflist"): conflist} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// It looks for its shim in PATH first, and leaves directories in TMPDIR.
	if err := d.launchAs(d.command("env", "PATH="+dir+":"+os.Getenv("PATH"), "TMPDIR="+base, "containerd", "--config", d.path("config.toml"))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(strings.Replace(d.logTail(), "cridock's", "containerd's", 1))
		}
		if err := d.signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		<-d.done
		_ = d.conn.Close()
	})
	eventually(t, "containerd is ready", time.Minute, func() bool {
		s, err := try(d.runtime.Status, &runtimeapi.StatusRequest{})
		return err == nil && !slices.ContainsFunc(s.Status.Conditions, func(c *runtimeapi.RuntimeCondition) bool {
			return !c.Status && (c.Type == runtimeapi.RuntimeReady || c.Type == runtimeapi.NetworkReady)
		})
	})
	return d
}

// nriWorkload is what both runtimes run.
type nriWorkload struct {
	image, volume, cgroup, logs string
}

// run runs and removes pods, and returns what a plugin was told.
func (w nriWorkload) run(t *testing.T, c *cridock, socket string) *nriRecorder {
	t.Helper()
	if c.imageStatus(t, w.image) == nil {
		c.pull(t, w.image)
	}
	r, late := newNRIRecorder(w.volume), newNRIRecorder("")
	r.connect(t, socket, "10")
	pods := []*pod{w.pod(t, c, "plain"), w.pod(t, c, "host", func(cfg *runtimeapi.PodSandboxConfig) {
		const host = runtimeapi.NamespaceMode_NODE
		cfg.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: host, Pid: host, Ipc: host}
	}), w.pod(t, c, "privileged", privilegedPod)}
	pods[0].start("plain", "sleep 1000", w.of)
	main := pods[0].start("main", "sleep 1000", w.of, w.full)
	adjusted := pods[0].start("adjusted", "sleep 1000", w.of)
	pods[1].start("host", "sleep 1000", w.of)
	pods[2].start("privileged", "sleep 1000", w.of, privileged)
	rpc(t, c.runtime.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: main.id, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 300, MemoryLimitInBytes: 128 << 20}})
	rpc(t, c.runtime.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: adjusted.id, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 300}})
	if _, err := try(c.runtime.UpdatePodSandboxResources, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pods[0].id, Overhead: &runtimeapi.LinuxContainerResources{CpuShares: 20}, Resources: &runtimeapi.LinuxContainerResources{CpuShares: 200}}); err != nil {
		t.Error(err)
	}
	late.connect(t, socket, "20")
	main.stop(0)
	rpc(t, c.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: main.id})
	for _, p := range pods {
		p.remove()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	late.mu.Lock()
	defer late.mu.Unlock()
	for event, fields := range late.got {
		if strings.HasPrefix(event, "Synchronize ") {
			r.got[event] = fields
		}
	}
	return r
}

func (w nriWorkload) pod(t *testing.T, c *cridock, name string, options ...podOption) *pod {
	t.Helper()
	p := &pod{cridock: c, t: t, cfg: c.podConfig(t, options...)}
	p.cfg.Metadata = &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "nri", Uid: "uid-of-" + name, Attempt: 1}
	p.cfg.Labels, p.cfg.Hostname, p.cfg.LogDirectory = map[string]string{"app": name}, name, w.logs
	p.cfg.Annotations = map[string]string{"e2e.test/name": name}
	if p.cfg.Linux.SecurityContext.NamespaceOptions.Network == runtimeapi.NamespaceMode_NODE {
		p.cfg.Hostname = ""
	} else {
		p.cfg.Linux.Sysctls = map[string]string{"net.ipv4.ip_local_port_range": "1024 65000"}
	}
	p.cfg.Linux.CgroupParent = w.cgroup
	p.cfg.Linux.Overhead = &runtimeapi.LinuxContainerResources{CpuShares: 10, MemoryLimitInBytes: 10 << 20}
	p.cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 100, CpuQuota: 50000, CpuPeriod: 100000, MemoryLimitInBytes: 256 << 20}
	p.id = rpc(t, c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: p.cfg}).PodSandboxId
	t.Cleanup(p.remove) // does nothing the second time
	return p
}

func (w nriWorkload) of(cfg *runtimeapi.ContainerConfig) {
	cfg.Image = &runtimeapi.ImageSpec{Image: w.image}
	cfg.Labels, cfg.Annotations = map[string]string{"of": cfg.Metadata.Name}, map[string]string{"e2e.test/of": cfg.Metadata.Name}
}

func (w nriWorkload) full(cfg *runtimeapi.ContainerConfig) {
	cfg.Command, cfg.Args, cfg.WorkingDir = []string{"sh"}, []string{"-c", "sleep 1000"}, "/tmp"
	cfg.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("1")}, {Key: "EMPTY"}}
	cfg.Mounts = []*runtimeapi.Mount{
		{HostPath: w.volume, ContainerPath: "/ro", Readonly: true},
		{HostPath: w.volume, ContainerPath: "/slave", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
	}
	cfg.Devices = []*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/own", Permissions: "rw"}}
	cfg.CDIDevices = []*runtimeapi.CDIDevice{{Name: "e2e.test/nri=pod"}}
	cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 200, CpuQuota: 50000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 64 << 20, OomScoreAdj: 500}
	s := cfg.Linux.SecurityContext
	s.RunAsUser, s.RunAsGroup, s.SupplementalGroups = &runtimeapi.Int64Value{Value: 1000}, &runtimeapi.Int64Value{Value: 2000}, []int64{3000}
	s.ReadonlyRootfs, s.NoNewPrivs = true, true
	s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
}

// nriRecorder is a plugin that records what it gets.
type nriRecorder struct {
	dir    string // for directories of containers; "" if another recorder has them
	mu     sync.Mutex
	got    map[string]map[string]string // the fields, by EVENT OBJECT
	events []string                     // EVENT OBJECT
	synced chan struct{}
}

func newNRIRecorder(dir string) *nriRecorder {
	return &nriRecorder{dir: dir, got: map[string]map[string]string{}, synced: make(chan struct{})}
}

func (r *nriRecorder) connect(t *testing.T, socket, index string) {
	t.Helper()
	eventually(t, "a plugin can connect", time.Minute, func() bool {
		s, err := stub.New(r, stub.WithPluginIdx(index), stub.WithPluginName("recorder"), stub.WithSocketPath(socket), stub.WithOnClose(func() {}))
		if err != nil {
			t.Fatal(err)
		}
		if s.Start(t.Context()) != nil {
			return false
		}
		t.Cleanup(s.Stop)
		return true
	})
	<-r.synced
}

// note records an event about a pod or container, and the resources it comes with.
func (r *nriRecorder) note(event string, pod *api.PodSandbox, c *api.Container, resources ...*api.LinuxResources) {
	fields := map[string]string{}
	object := "pod " + pod.GetName()
	flatten(fields, "pod", pod)
	if c != nil {
		object = "container " + c.GetName()
		flatten(fields, "container", c)
	}
	for i, l := range resources {
		flatten(fields, fmt.Sprintf("resources%d", i), l)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event+" "+object)
	r.got[event+" "+object] = fields
}

// flatten adds the fields of a message. What cannot be equal is replaced by words.
func flatten(to map[string]string, path string, m proto.Message) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	var value any
	if err == nil {
		err = json.Unmarshal(text, &value)
	}
	if err != nil {
		to[path] = err.Error()
		return
	}
	flattenValue(to, path, value)
}

var (
	nriPath     = regexp.MustCompile(`\.(cgroups_path|namespaces\[\w+\]\.path|mounts\[/(etc/.*|dev/shm)\]\.source)$`)
	nriID       = regexp.MustCompile(`[0-9a-f]{64}`)
	nriVolatile = regexp.MustCompile(`\.(id|pod_sandbox_id|pid|created_at|started_at|finished_at|ips\[\d\]|annotations\.io\.kubernetes\.cri\.sandbox-id)$`)
)

func flattenValue(to map[string]string, path string, value any) {
	switch v := value.(type) {
	case map[string]any:
		for key, field := range v {
			flattenValue(to, path+"."+key, field)
		}
		if len(v) == 0 {
			to[path] = "{}"
		}
	case []any:
		if strings.HasSuffix(path, ".options") { // in any order
			slices.SortFunc(v, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			to[path] = fmt.Sprint(v)
			return
		}
		for i, item := range v {
			key := fmt.Sprint(i)
			switch f := item.(type) {
			case string:
				if name, _, ok := strings.Cut(f, "="); ok && strings.HasSuffix(path, ".env") {
					key = name
				}
			case map[string]any:
				for _, name := range []string{"destination", "path", "type", "name", "page_size"} {
					if text, ok := f[name].(string); ok && !strings.HasSuffix(path, ".resources.devices") && (name != "path" || !strings.HasSuffix(path, ".namespaces")) {
						key = text
						break
					}
				}
			}
			flattenValue(to, path+"["+key+"]", item)
		}
	default:
		text := nriID.ReplaceAllString(fmt.Sprint(v), "ID")
		switch {
		case nriVolatile.MatchString(path):
			text = "(some)"
		case nriPath.MatchString(path):
			text = "(a path)"
		}
		to[path] = text
	}
}

// compareNRI compares what two recorders have been told, which must differ exactly in
// differences, other than those that there are only sometimes.
func compareNRI(t *testing.T, want, got *nriRecorder, differences []nriDifference) {
	t.Helper()
	perObject := func(r *nriRecorder) map[string][]string {
		out := map[string][]string{}
		for _, e := range r.events {
			event, object, _ := strings.Cut(e, " ")
			out[object] = append(out[object], event)
		}
		return out
	}
	told, tells := perObject(want), perObject(got)
	// As Docker cannot change it, the first one made way for another.
	const adjusted = "container adjusted"
	told[adjusted] = append([]string{"CreateContainer", "StopContainer", "RemoveContainer"}, told[adjusted]...)
	if diff := gocmp.Diff(told, tells); diff != "" {
		t.Errorf("events (-containerd +cridock): %s", diff)
	}
	used, patterns := make([]int, len(differences)), make([]*regexp.Regexp, len(differences))
	for i, d := range differences {
		patterns[i] = regexp.MustCompile("^" + d.field + "$")
	}
	for _, event := range slices.Sorted(maps.Keys(want.got)) {
		theirs, ours := want.got[event], got.got[event]
		both := maps.Clone(theirs)
		maps.Copy(both, ours)
		for _, field := range slices.Sorted(maps.Keys(both)) {
			if theirs[field] == ours[field] {
				continue
			}
			i := slices.IndexFunc(patterns, func(p *regexp.Regexp) bool { return p.MatchString(event + " " + field) })
			if i < 0 {
				t.Errorf("%s %s: containerd has %q, cridock %q", event, field, cmp.Or(theirs[field], "(none)"), cmp.Or(ours[field], "(none)"))
				continue
			}
			used[i]++
		}
	}
	for i, d := range differences {
		if used[i] == 0 && !d.sometimes {
			t.Errorf("no longer different: %s (%s)", d.field, d.why)
		}
	}
}

func (r *nriRecorder) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	byID := map[string]*api.PodSandbox{}
	for _, p := range pods {
		byID[p.GetId()] = p
		r.note("Synchronize", p, nil)
	}
	for _, c := range containers {
		r.note("Synchronize", byID[c.GetPodSandboxId()], c)
	}
	close(r.synced)
	return nil, nil
}

func (r *nriRecorder) RunPodSandbox(_ context.Context, p *api.PodSandbox) error {
	r.note("RunPodSandbox", p, nil)
	return nil
}

func (r *nriRecorder) UpdatePodSandbox(_ context.Context, p *api.PodSandbox, overhead, resources *api.LinuxResources) error {
	r.note("UpdatePodSandbox", p, nil, overhead, resources)
	return nil
}

func (r *nriRecorder) PostUpdatePodSandbox(_ context.Context, p *api.PodSandbox) error {
	r.note("PostUpdatePodSandbox", p, nil)
	return nil
}

func (r *nriRecorder) StopPodSandbox(_ context.Context, p *api.PodSandbox) error {
	r.note("StopPodSandbox", p, nil)
	return nil
}

func (r *nriRecorder) RemovePodSandbox(_ context.Context, p *api.PodSandbox) error {
	r.note("RemovePodSandbox", p, nil)
	return nil
}

func (r *nriRecorder) CreateContainer(_ context.Context, p *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	r.note("CreateContainer", p, c)
	a := &api.ContainerAdjustment{}
	if c.GetName() == "adjusted" {
		a.AddEnv("ADDED", "yes")
		a.AddMount(&api.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/scratch", Options: []string{"size=1m"}})
		own := filepath.Join(r.dir, c.GetId())
		if err := os.Mkdir(own, 0o755); err != nil {
			return nil, nil, err
		}
		a.AddMount(&api.Mount{Type: "bind", Source: own, Destination: "/own", Options: []string{"bind", "ro", "rslave"}})
		a.AddRlimit("RLIMIT_NOFILE", 2000, 1000)
		a.AddDevice(&api.LinuxDevice{Path: "/dev/null", Type: "c", Major: 1, Minor: 3})
		a.AddCDIDevice(&api.CDIDevice{Name: "e2e.test/nri=plugin"})
		a.SetLinuxCPUShares(512)
		a.SetLinuxMemoryLimit(32 << 20)
		a.SetLinuxPidLimits(99)
		score := 600
		a.SetLinuxOomScoreAdj(&score)
	}
	return a, nil, nil
}

func (r *nriRecorder) PostCreateContainer(_ context.Context, p *api.PodSandbox, c *api.Container) error {
	r.note("PostCreateContainer", p, c)
	return nil
}

func (r *nriRecorder) StartContainer(_ context.Context, p *api.PodSandbox, c *api.Container) error {
	r.note("StartContainer", p, c)
	return nil
}

func (r *nriRecorder) PostStartContainer(_ context.Context, p *api.PodSandbox, c *api.Container) error {
	r.note("PostStartContainer", p, c)
	return nil
}

func (r *nriRecorder) UpdateContainer(_ context.Context, p *api.PodSandbox, c *api.Container, l *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	r.note("UpdateContainer", p, c, l)
	if c.GetName() != "adjusted" {
		return nil, nil
	}
	u := &api.ContainerUpdate{ContainerId: c.GetId()}
	u.SetLinuxCPUShares(700)
	u.SetLinuxMemoryLimit(48 << 20)
	return []*api.ContainerUpdate{u}, nil
}

func (r *nriRecorder) PostUpdateContainer(_ context.Context, p *api.PodSandbox, c *api.Container) error {
	r.note("PostUpdateContainer", p, c)
	return nil
}

func (r *nriRecorder) StopContainer(_ context.Context, p *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	r.note("StopContainer", p, c)
	return nil, nil
}

func (r *nriRecorder) RemoveContainer(_ context.Context, p *api.PodSandbox, c *api.Container) error {
	r.note("RemoveContainer", p, c)
	if c.GetName() == "adjusted" && r.dir != "" {
		return os.Remove(filepath.Join(r.dir, c.GetId()))
	}
	return nil
}
