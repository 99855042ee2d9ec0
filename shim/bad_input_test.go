package shim_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine/enginetest"
)

// long is longer than any name may be.
var long = strings.Repeat("x", 300)

// TestBadSandboxes sets every field of RunPodSandbox to a value that cannot be
// served.
func TestBadSandboxes(t *testing.T) {
	type config = runtimeapi.PodSandboxConfig
	n := newCNINode(t)
	security := func(change func(*runtimeapi.LinuxSandboxSecurityContext)) func(*config) {
		return func(c *config) { change(c.Linux.SecurityContext) }
	}
	namespaces := func(o *runtimeapi.NamespaceOption) func(*config) {
		return security(func(s *runtimeapi.LinuxSandboxSecurityContext) { s.NamespaceOptions = o })
	}
	sysctl := func(key string) func(*config) {
		return func(c *config) { c.Linux.Sysctls = map[string]string{key: "1"} }
	}
	for _, tc := range []struct {
		name   string
		change func(*config)
		code   codes.Code
		field  string
	}{
		{"no metadata", func(c *config) { c.Metadata = nil }, codes.InvalidArgument, "metadata"},
		{"no name", func(c *config) { c.Metadata.Name = "" }, codes.InvalidArgument, "metadata.name"},
		{"a name that forges CNI arguments", func(c *config) { c.Metadata.Name = "a;K8S_POD_NAME=b" }, codes.InvalidArgument, "metadata.name"},
		{"a namespace with a line break", func(c *config) { c.Metadata.Namespace = "a\nb" }, codes.InvalidArgument, "metadata.namespace"},
		{"a UID with a NUL", func(c *config) { c.Metadata.Uid = "a\x00" }, codes.InvalidArgument, "metadata.uid"},
		{"a host name that Linux has no room for", func(c *config) { c.Hostname = long }, codes.InvalidArgument, "hostname"},
		{"a host name with a path", func(c *config) { c.Hostname = "../etc" }, codes.InvalidArgument, "hostname"},
		{"a relative log directory", func(c *config) { c.LogDirectory = "logs" }, codes.InvalidArgument, "log_directory"},
		{"a label without a key", func(c *config) { c.Labels = map[string]string{"": "x"} }, codes.InvalidArgument, "labels"},
		{"an annotation without a key", func(c *config) { c.Annotations = map[string]string{"": "x"} }, codes.InvalidArgument, "annotations"},
		{"an unreadable bandwidth", func(c *config) { c.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "fast"} }, codes.InvalidArgument, "bandwidth"},
		{"a DNS server that is a name", func(c *config) { c.DnsConfig.Servers = []string{"dns.example"} }, codes.InvalidArgument, "dns_config.servers[0]"},
		{"a search domain that adds a line", func(c *config) { c.DnsConfig.Searches = []string{"a\nnameserver 6.6.6.6"} }, codes.InvalidArgument, "dns_config.searches[0]"},
		{"a DNS option of two words", func(c *config) { c.DnsConfig.Options = []string{"ndots:5", "a b"} }, codes.InvalidArgument, "dns_config.options[1]"},
		{"a port beyond the last", func(c *config) {
			c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 70000}}
		}, codes.InvalidArgument, "port_mappings[0].host_port"},
		{"a host port to nowhere", func(c *config) { c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 80}} }, codes.InvalidArgument, "port_mappings[0].container_port"},
		{"an unknown protocol", func(c *config) {
			c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, Protocol: 9}}
		}, codes.InvalidArgument, "port_mappings[0].protocol"},
		{"a host IP that is a name", func(c *config) {
			c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostIp: "eth0"}}
		}, codes.InvalidArgument, "port_mappings[0].host_ip"},
		{"a cgroup outside", func(c *config) { c.Linux.CgroupParent = "/kubepods/../.." }, codes.InvalidArgument, "linux.cgroup_parent"},
		{"a sysctl of the node", sysctl("vm.swappiness"), codes.InvalidArgument, "linux.sysctls"},
		{"a sysctl with a path", sysctl("net.ipv4/../../kernel/x"), codes.InvalidArgument, "linux.sysctls"},
		{"a network that is another container's", namespaces(&runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_TARGET}), codes.InvalidArgument, "namespace_options.network"},
		{"an unknown namespace mode", namespaces(&runtimeapi.NamespaceOption{Ipc: 77}), codes.InvalidArgument, "namespace_options.ipc"},
		{"a target", namespaces(&runtimeapi.NamespaceOption{TargetId: "web"}), codes.InvalidArgument, "target_id"},
		{"a user namespace", namespaces(&runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD}}), codes.InvalidArgument, "userns_options"},
		{"a group without a user", security(func(s *runtimeapi.LinuxSandboxSecurityContext) { s.RunAsGroup = &runtimeapi.Int64Value{Value: 1} }), codes.InvalidArgument, "run_as_group"},
		{"a negative user", security(func(s *runtimeapi.LinuxSandboxSecurityContext) { s.RunAsUser = &runtimeapi.Int64Value{Value: -1} }), codes.InvalidArgument, "run_as_user"},
		{"a group that is too large", security(func(s *runtimeapi.LinuxSandboxSecurityContext) { s.SupplementalGroups = []int64{1 << 40} }), codes.InvalidArgument, "supplemental_groups[0]"},
		{"an SELinux label in an SELinux field", security(func(s *runtimeapi.LinuxSandboxSecurityContext) {
			s.SelinuxOptions = &runtimeapi.SELinuxOption{Type: "a,b c"}
		}), codes.InvalidArgument, "selinux_options.type"},
		{"a seccomp profile of no file", security(func(s *runtimeapi.LinuxSandboxSecurityContext) {
			s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}
		}), codes.InvalidArgument, "localhost_ref"},
		{"a seccomp profile that is not there", security(func(s *runtimeapi.LinuxSandboxSecurityContext) {
			s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/no/such/profile"}
		}), codes.FailedPrecondition, "/no/such/profile"},
		{"an AppArmor profile that is not loaded", security(func(s *runtimeapi.LinuxSandboxSecurityContext) {
			s.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "no-such-profile"}
		}), codes.FailedPrecondition, "no-such-profile"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := n.podConfig("bad")
			tc.change(cfg)
			before := n.remains()
			_, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg})
			wantCode(t, err, tc.code, tc.field)
			n.unchanged(t, before)
		})
	}
	before := n.remains()
	_, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{})
	wantCode(t, err, codes.InvalidArgument, "config")
	_, err = n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: n.podConfig("bad"), RuntimeHandler: "no-such-runtime"})
	wantCode(t, err, codes.InvalidArgument, "runtime_handler")
	n.unchanged(t, before)
	if c := n.plugins.count("ADD"); c != 0 {
		t.Errorf("CNI ADD was called %d times", c)
	}
	if got := n.docker.Calls()["container create"]; got != 0 {
		t.Errorf("%d containers were created", got)
	}
}

// TestBadContainers does the same for CreateContainer.
func TestBadContainers(t *testing.T) {
	type config = runtimeapi.ContainerConfig
	n := newNode(t)
	pod, other := n.runPod(n.podConfig("web")), n.runPod(n.podConfig("other"))
	neighbour := n.runContainer(other, containerConfig("neighbour", "sleep", "1"))
	foreign := n.foreign("someone", nil)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	n.must(os.WriteFile(file, nil, 0o600))
	n.must(os.Symlink("nowhere", filepath.Join(dir, "dangling")))

	security := func(change func(*runtimeapi.LinuxContainerSecurityContext)) func(*config) {
		return func(c *config) { change(c.Linux.SecurityContext) }
	}
	namespaces := func(o *runtimeapi.NamespaceOption) func(*config) {
		return security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.NamespaceOptions = o })
	}
	mount := func(m *runtimeapi.Mount) func(*config) {
		return func(c *config) { c.Mounts = []*runtimeapi.Mount{m} }
	}
	resources := func(r *runtimeapi.LinuxContainerResources) func(*config) {
		return func(c *config) { c.Linux.Resources = r }
	}
	device := func(d *runtimeapi.Device) func(*config) {
		return func(c *config) { c.Devices = []*runtimeapi.Device{d} }
	}
	user := func(id int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: id} }
	for _, tc := range []struct {
		name   string
		change func(*config)
		code   codes.Code
		field  string
	}{
		{"no metadata", func(c *config) { c.Metadata = nil }, codes.InvalidArgument, "metadata"},
		{"no name", func(c *config) { c.Metadata.Name = "" }, codes.InvalidArgument, "metadata.name"},
		{"a name with a control character", func(c *config) { c.Metadata.Name = "a\nb" }, codes.InvalidArgument, "metadata.name"},
		{"no image", func(c *config) { c.Image = nil }, codes.InvalidArgument, "image.image"},
		{"an image that is not there", func(c *config) { c.Image.Image = "no/such:image" }, codes.NotFound, "no/such:image"},
		{"an image of no readable name", func(c *config) { c.Image.Image = "No Such!" }, codes.InvalidArgument, "image.image"},
		{"another runtime handler than the pod's", func(c *config) { c.Image.RuntimeHandler = "other" }, codes.InvalidArgument, "image.runtime_handler"},
		{"a relative working directory", func(c *config) { c.WorkingDir = "tmp" }, codes.InvalidArgument, "working_dir"},
		{"an absolute log path", func(c *config) { c.LogPath = "/etc/passwd" }, codes.InvalidArgument, "log_path"},
		{"a log path outside", func(c *config) { c.LogPath = "../../etc/passwd" }, codes.InvalidArgument, "log_path"},
		{"a label without a key", func(c *config) { c.Labels = map[string]string{"": "x"} }, codes.InvalidArgument, "labels"},
		{"a command with a NUL", func(c *config) { c.Command = []string{"sh", secret + "\x00"} }, codes.InvalidArgument, "command[1]"},
		{"an argument with a NUL", func(c *config) { c.Args = []string{secret + "\x00"} }, codes.InvalidArgument, "args[0]"},
		{"a variable without a name", func(c *config) { c.Envs = []*runtimeapi.KeyValue{{Value: []byte(secret)}} }, codes.InvalidArgument, "envs[0].key"},
		{"a value that is not text", func(c *config) {
			c.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte(secret + "\xff")}}
		}, codes.InvalidArgument, "envs[0].value"},
		{"an unknown stop signal", func(c *config) { c.StopSignal = 999 }, codes.InvalidArgument, "stop_signal"},
		{"a relative container path", mount(&runtimeapi.Mount{ContainerPath: "data", HostPath: dir}), codes.InvalidArgument, "mounts[0].container_path"},
		{"a mount over the root", mount(&runtimeapi.Mount{ContainerPath: "/x/..", HostPath: dir}), codes.InvalidArgument, "mounts[0].container_path"},
		{"a relative host path", mount(&runtimeapi.Mount{ContainerPath: "/data", HostPath: "data"}), codes.InvalidArgument, "mounts[0].host_path"},
		{"a host path whose link leads nowhere", mount(&runtimeapi.Mount{ContainerPath: "/data", HostPath: dir + "/dangling"}), codes.FailedPrecondition, "mounts[0].host_path"},
		{"a host path below a file", mount(&runtimeapi.Mount{ContainerPath: "/data", HostPath: file + "/no"}), codes.FailedPrecondition, "mounts[0].host_path"},
		{"an unknown propagation", mount(&runtimeapi.Mount{ContainerPath: "/data", HostPath: dir, Propagation: 7}), codes.InvalidArgument, "mounts[0].propagation"},
		{"recursive read-only and writable", mount(&runtimeapi.Mount{ContainerPath: "/data", HostPath: dir, RecursiveReadOnly: true}), codes.InvalidArgument, "mounts[0].recursive_read_only"},
		{"recursive read-only on an old engine", mount(&runtimeapi.Mount{ContainerPath: "/data", HostPath: dir, RecursiveReadOnly: true, Readonly: true}), codes.FailedPrecondition, "RROUnsupported"},
		{"idmapped", mount(&runtimeapi.Mount{ContainerPath: "/data", HostPath: dir, UidMappings: []*runtimeapi.IDMapping{{}}}), codes.InvalidArgument, "mounts[0].uidMappings"},
		{"a mount of an image that is not there", mount(&runtimeapi.Mount{ContainerPath: "/data", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "no/such:image"}}), codes.NotFound, "ImageVolumeMountFailed"},
		{"a mount of an image on an old engine", mount(&runtimeapi.Mount{ContainerPath: "/data", Readonly: true, Image: &runtimeapi.ImageSpec{Image: testImage}}), codes.FailedPrecondition, "ImageVolumeMountFailed"},
		{"a mount of an image of an empty name", mount(&runtimeapi.Mount{ContainerPath: "/data", Readonly: true, Image: &runtimeapi.ImageSpec{}}), codes.InvalidArgument, "mounts[0]"},
		{"a device that is not there", device(&runtimeapi.Device{HostPath: "/dev/no-such"}), codes.FailedPrecondition, "devices[0].host_path"},
		{"a device below a file", device(&runtimeapi.Device{HostPath: file + "/no"}), codes.FailedPrecondition, "devices[0].host_path"},
		{"a device that is a file", device(&runtimeapi.Device{HostPath: file}), codes.InvalidArgument, "devices[0].host_path"},
		{"a relative device", device(&runtimeapi.Device{HostPath: "null"}), codes.InvalidArgument, "devices[0].host_path"},
		{"a device with odd rights", device(&runtimeapi.Device{HostPath: "/dev/null", Permissions: "rwx"}), codes.InvalidArgument, "devices[0].permissions"},
		{"a CDI device without CDI", func(c *config) { c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.com/gpu=0"}} }, codes.FailedPrecondition, "CDI device vendor.com/gpu=0"},
		{"a CDI device of no readable name", func(c *config) { c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "gpu"}} }, codes.InvalidArgument, "CDI_devices"},
		{"little memory", resources(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1}), codes.InvalidArgument, "linux.resources.memory_limit_in_bytes"},
		{"a short period", resources(&runtimeapi.LinuxContainerResources{CpuPeriod: 1}), codes.InvalidArgument, "linux.resources.cpu_period"},
		{"negative shares", resources(&runtimeapi.LinuxContainerResources{CpuShares: -1}), codes.InvalidArgument, "linux.resources.cpu_shares"},
		{"a cgroup file outside", resources(&runtimeapi.LinuxContainerResources{Unified: map[string]string{"../memory.max": "1"}}), codes.InvalidArgument, "linux.resources.unified"},
		{"an odd page size", resources(&runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "../x"}}}), codes.InvalidArgument, "linux.resources.hugepage_limits[0]"},
		{"user and user name", security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser, s.RunAsUsername = user(1), "web" }), codes.InvalidArgument, "run_as_username"},
		{"a group without a user", security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsGroup = user(1) }), codes.InvalidArgument, "run_as_group"},
		{"a user name that the image has not", security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUsername = "nobody-here" }), codes.InvalidArgument, "run_as_username"},
		{"a user name that is two", security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUsername = "web:root" }), codes.InvalidArgument, "run_as_username"},
		{"privileged in a pod that is not", security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Privileged = true }), codes.InvalidArgument, "privileged"},
		{"the host's network in a pod of its own", namespaces(&runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}), codes.InvalidArgument, "namespace_options.network"},
		{"processes of nobody", namespaces(&runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET}), codes.InvalidArgument, "target_id"},
		{"processes by name", namespaces(&runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "someone"}), codes.InvalidArgument, "target_id"},
		{"processes of somebody else's container", namespaces(&runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: foreign}), codes.NotFound, "target_id"},
		{"processes of another pod", namespaces(&runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: neighbour}), codes.FailedPrecondition, "target_id"},
		{"a relative masked path", security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.MaskedPaths = []string{"proc"} }), codes.InvalidArgument, "masked_paths[0]"},
		{"ambient capabilities", security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Capabilities = &runtimeapi.Capability{AddAmbientCapabilities: []string{"NET_RAW"}}
		}), codes.InvalidArgument, "add_ambient_capabilities"},
		{"a seccomp profile that is not there", security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/no/such/profile"}
		}), codes.FailedPrecondition, "/no/such/profile"},
		{"a seccomp profile that is a directory", security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: dir}
		}), codes.FailedPrecondition, dir},
		{"a seccomp profile that is not JSON", security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: file}
		}), codes.InvalidArgument, "localhost_ref"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := containerConfig("bad", "sleep", "1")
			tc.change(cfg)
			before := n.remains()
			_, err := n.tryCreate(pod, cfg)
			wantCode(t, err, tc.code, tc.field)
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the message quotes a value that may be secret: %v", err)
			}
			n.unchanged(t, before)
		})
	}
	for _, tc := range []struct {
		name, sandbox string
		cfg           *runtimeapi.ContainerConfig
		code          codes.Code
		field         string
	}{
		{"no config", pod, nil, codes.InvalidArgument, "config"},
		{"no sandbox", "", containerConfig("x"), codes.NotFound, "sandbox"},
		{"an unknown sandbox", strings.Repeat("0", 64), containerConfig("x"), codes.NotFound, strings.Repeat("0", 64)},
		{"a container for a sandbox", neighbour, containerConfig("x"), codes.NotFound, neighbour},
		{"somebody else's container for a sandbox", foreign, containerConfig("x"), codes.NotFound, foreign},
		{"a name for a sandbox", "someone", containerConfig("x"), codes.NotFound, "someone"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := n.remains()
			_, err := n.tryCreate(tc.sandbox, tc.cfg)
			wantCode(t, err, tc.code, tc.field)
			n.unchanged(t, before)
		})
	}
}

// TestHugeInput: huge input is served; it is unusual but valid.
func TestHugeInput(t *testing.T) {
	n := newNode(t)
	cfg := n.podConfig("web")
	cfg.Metadata.Name, cfg.Metadata.Namespace = "Web_1 (ü)"+long, "name space"
	cfg.Annotations = map[string]string{"big": strings.Repeat("ä", 50<<10), "k/=:": "v"}
	pod := n.runPod(cfg)
	ctr := containerConfig("POD", "sleep", "1")
	ctr.Annotations = maps.Clone(cfg.Annotations)
	id := n.create(pod, ctr)
	if got := n.podStatus(pod); got.Annotations["big"] != cfg.Annotations["big"] || got.Metadata.Name != cfg.Metadata.Name {
		t.Error("name or annotations came back changed")
	}
	if got := n.status(id); got.Annotations["big"] != ctr.Annotations["big"] || got.Metadata.Name != "POD" {
		t.Error("name or annotations of the container came back changed")
	}
}

// TestUnknownIDs calls every RPC for objects that do not exist: with names, ID
// prefixes, IDs of another kind, and strings that are not IDs.
func TestUnknownIDs(t *testing.T) {
	n := newNode(t)
	pod := n.runPod(n.podConfig("web"))
	ctr := n.runContainer(pod, containerConfig("main", "sleep", "1"))
	foreign := n.foreign("someone", nil)
	// Labels alone do not make a pod member: containers inherit them from images.
	labelled := n.foreign("labelled", map[string]string{"io.kubernetes.docker.type": "container", "io.kubernetes.sandbox.id": pod})
	hostile := []string{
		"", "someone", "/someone", foreign, foreign[:12], labelled, "labelled", strings.Repeat("0", 64), "../../x", "a b", "%2e%2e", long,
		"k8s_POD_web_default_uid-web_0", "k8s_main_web_default_uid-web_0",
	}
	before := n.remains()
	for _, rpc := range byID(n) {
		want := codes.NotFound
		if rpc.idempotent {
			want = codes.OK
		}
		ids := append(slices.Clone(hostile), pod)
		if rpc.sandbox {
			ids = append(slices.Clone(hostile), ctr)
		}
		for _, id := range ids {
			t.Run(rpc.name+" "+id, func(t *testing.T) { wantCode(t, rpc.call(id), want) })
		}
	}
	n.unchanged(t, before)
	for _, id := range []string{foreign, labelled, pod, ctr} {
		in, err := n.call().ContainerInspect(n.ctx, id)
		n.must(err)
		if !in.State.Running {
			t.Errorf("container %s was stopped", in.Name)
		}
	}
	wantNotListed(n, foreign, labelled)
}

// rpc is an RPC that names one object.
type rpc struct {
	name                string
	sandbox, idempotent bool
	call                func(id string) error
}

func byID(n *node) []rpc {
	drop := func(_ any, err error) error { return err }
	return []rpc{
		{"StopPodSandbox", true, true, n.stopPod},
		{"RemovePodSandbox", true, true, n.removePod},
		{"PodSandboxStatus", true, false, func(id string) error {
			return drop(n.runtime.PodSandboxStatus(n.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true}))
		}},
		{"PortForward", true, false, func(id string) error {
			return drop(n.runtime.PortForward(n.ctx, &runtimeapi.PortForwardRequest{PodSandboxId: id, Port: []int32{80}}))
		}},
		{"PodSandboxStats", true, false, func(id string) error {
			return drop(n.runtime.PodSandboxStats(n.ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: id}))
		}},
		{"StartContainer", false, false, n.tryStart},
		{"StopContainer", false, true, func(id string) error { return n.stopContainer(id, 0) }},
		{"RemoveContainer", false, true, n.removeContainer},
		{"ContainerStatus", false, false, func(id string) error {
			return drop(n.runtime.ContainerStatus(n.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true}))
		}},
		{"UpdateContainerResources", false, false, func(id string) error {
			return drop(n.runtime.UpdateContainerResources(n.ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id}))
		}},
		{"ReopenContainerLog", false, false, func(id string) error {
			return drop(n.runtime.ReopenContainerLog(n.ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id}))
		}},
		{"ExecSync", false, false, func(id string) error {
			return drop(n.runtime.ExecSync(n.ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true", secret}}))
		}},
		{"Exec", false, false, func(id string) error {
			return drop(n.runtime.Exec(n.ctx, &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"true", secret}, Stdout: true}))
		}},
		{"Attach", false, false, func(id string) error {
			return drop(n.runtime.Attach(n.ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdout: true}))
		}},
		{"ContainerStats", false, false, func(id string) error {
			return drop(n.runtime.ContainerStats(n.ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id}))
		}},
	}
}

// wantNotListed checks that no list has the IDs.
func wantNotListed(n *node, ids ...string) {
	n.t.Helper()
	seen := map[string]bool{}
	for _, sb := range n.sandboxes() {
		seen[sb.Id] = true
	}
	containers, err := n.runtime.ListContainers(n.ctx, &runtimeapi.ListContainersRequest{})
	n.must(err)
	for _, c := range containers.Containers {
		seen[c.Id] = true
	}
	stats, err := n.runtime.ListContainerStats(n.ctx, &runtimeapi.ListContainerStatsRequest{})
	n.must(err)
	for _, s := range stats.Stats {
		seen[s.GetAttributes().GetId()] = true
	}
	for _, id := range ids {
		if seen[id] {
			n.t.Errorf("container %s, which is not Kubernetes', is listed", id)
		}
	}
}

// TestBadExecs makes invalid requests for an existing container.
func TestBadExecs(t *testing.T) {
	n := newNode(t)
	pod := n.runPod(n.podConfig("web"))
	running := n.runContainer(pod, containerConfig("main", "sleep", "1"))
	created := n.create(pod, containerConfig("later", "sleep", "1"))
	exec := func(id string, cmd ...string) error {
		_, err := n.runtime.ExecSync(n.ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: cmd})
		return err
	}
	stream := func(r *runtimeapi.ExecRequest) error {
		_, err := n.runtime.Exec(n.ctx, r)
		return err
	}
	attach := func(r *runtimeapi.AttachRequest) error {
		_, err := n.runtime.Attach(n.ctx, r)
		return err
	}
	wantCode(t, exec(running), codes.InvalidArgument, "cmd")
	wantCode(t, exec(created, "true"), codes.FailedPrecondition, created)
	wantCode(t, stream(&runtimeapi.ExecRequest{ContainerId: running}), codes.InvalidArgument, "cmd")
	wantCode(t, stream(&runtimeapi.ExecRequest{ContainerId: running, Cmd: []string{"sh"}}), codes.InvalidArgument, "stdin")
	wantCode(t, stream(&runtimeapi.ExecRequest{ContainerId: running, Cmd: []string{"sh"}, Tty: true, Stdin: true, Stdout: true, Stderr: true}), codes.InvalidArgument, "tty")
	wantCode(t, stream(&runtimeapi.ExecRequest{ContainerId: created, Cmd: []string{"sh"}, Stdout: true}), codes.FailedPrecondition, created)
	wantCode(t, attach(&runtimeapi.AttachRequest{ContainerId: running}), codes.InvalidArgument, "stdin")
	wantCode(t, attach(&runtimeapi.AttachRequest{ContainerId: created, Stdout: true}), codes.FailedPrecondition, created)
	n.must(n.stopPod(pod))
	_, err := n.runtime.PortForward(n.ctx, &runtimeapi.PortForwardRequest{PodSandboxId: pod, Port: []int32{80}})
	wantCode(t, err, codes.FailedPrecondition, pod)
	_, err = n.tryCreate(pod, containerConfig("late", "sleep", "1"))
	wantCode(t, err, codes.FailedPrecondition, pod)
}

// TestBadImages makes invalid requests to the image service.
func TestBadImages(t *testing.T) {
	n := newNode(t)
	n.docker.Publish("registry.test/app:1", enginetest.Image{})
	pull := func(image *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig) error {
		_, err := n.images.PullImage(n.ctx, &runtimeapi.PullImageRequest{Image: image, Auth: auth})
		return err
	}
	app := &runtimeapi.ImageSpec{Image: "registry.test/app:1"}
	wantCode(t, pull(nil, nil), codes.InvalidArgument, "image")
	wantCode(t, pull(&runtimeapi.ImageSpec{Image: "Not An Image"}, nil), codes.InvalidArgument, "image.image")
	wantCode(t, pull(&runtimeapi.ImageSpec{Image: n.imageID}, nil), codes.InvalidArgument, "image")
	wantCode(t, pull(&runtimeapi.ImageSpec{Image: app.Image, RuntimeHandler: "no-such"}, nil), codes.InvalidArgument, "runtime_handler")
	wantCode(t, pull(app, &runtimeapi.AuthConfig{Auth: secret + "!"}), codes.InvalidArgument, "auth.auth")
	_, err := n.images.ImageStatus(n.ctx, &runtimeapi.ImageStatusRequest{})
	wantCode(t, err, codes.InvalidArgument, "image.image")
	_, err = n.images.RemoveImage(n.ctx, &runtimeapi.RemoveImageRequest{})
	wantCode(t, err, codes.InvalidArgument, "image.image")
	if got := n.docker.Calls()["image pull"] + n.docker.Calls()["image remove"]; got != 0 {
		t.Errorf("Docker was asked %d times", got)
	}
}
