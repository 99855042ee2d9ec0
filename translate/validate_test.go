package translate

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/mount"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/proto"
)

// TestValidateSandboxConfig: each change to a valid configuration is refused, and
// the error names the field.
func TestValidateSandboxConfig(t *testing.T) {
	if err := ValidateSandboxConfig(podConfig); err != nil {
		t.Fatal(err)
	}
	type sc = runtimeapi.LinuxSandboxSecurityContext
	security := func(s *sc) func(*runtimeapi.PodSandboxConfig) {
		return func(c *runtimeapi.PodSandboxConfig) { c.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: s} }
	}
	sysctl := func(key string, ns *runtimeapi.NamespaceOption) func(*runtimeapi.PodSandboxConfig) {
		return func(c *runtimeapi.PodSandboxConfig) {
			c.Linux = &runtimeapi.LinuxPodSandboxConfig{Sysctls: map[string]string{key: "1"}, SecurityContext: &sc{NamespaceOptions: ns}}
		}
	}
	node := runtimeapi.NamespaceMode_NODE
	for name, tc := range map[string]struct {
		change func(*runtimeapi.PodSandboxConfig)
		field  string
	}{
		"nil metadata":                    {func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil }, "metadata"},
		"no name":                         {func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name = "" }, "metadata.name"},
		"a line break in a name":          {func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Uid = "a\nb" }, "metadata.uid"},
		"a name that forges CNI_ARGS":     {func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Namespace = "a;b=c" }, "metadata.namespace"},
		"a long host name":                {func(c *runtimeapi.PodSandboxConfig) { c.Hostname = strings.Repeat("a", 65) }, "hostname"},
		"a host name with a space":        {func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "a b" }, "hostname"},
		"a relative log directory":        {func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = "logs" }, "log_directory"},
		"an empty label key":              {func(c *runtimeapi.PodSandboxConfig) { c.Labels[""] = "x" }, "labels"},
		"a DNS server that is no address": {func(c *runtimeapi.PodSandboxConfig) { c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"dns"}} }, "dns_config.servers[0]"},
		"a DNS search with a line break": {func(c *runtimeapi.PodSandboxConfig) {
			c.DnsConfig = &runtimeapi.DNSConfig{Searches: []string{"a", "b\nnameserver 6.6.6.6"}}
		}, "dns_config.searches[1]"},
		"a port that is none": {func(c *runtimeapi.PodSandboxConfig) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 70000, ContainerPort: 1}}
		}, "port_mappings[0].host_port"},
		"a host port to nowhere": {func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 70}} }, "port_mappings[0].container_port"},
		"a host IP that is none": {func(c *runtimeapi.PodSandboxConfig) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 70, ContainerPort: 1, HostIp: "x"}}
		}, "port_mappings[0].host_ip"},
		"a nil port mapping": {func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = []*runtimeapi.PortMapping{nil} }, "port_mappings[0]"},
		"a cgroup parent that climbs": {func(c *runtimeapi.PodSandboxConfig) {
			c.Linux = &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/a/../b"}
		}, "linux.cgroup_parent"},
		"Windows":                         {func(c *runtimeapi.PodSandboxConfig) { c.Windows = &runtimeapi.WindowsPodSandboxConfig{} }, "windows"},
		"a sysctl of the node":            {sysctl("vm.swappiness", nil), "linux.sysctls"},
		"net sysctls on the host network": {sysctl("net.core.somaxconn", &runtimeapi.NamespaceOption{Network: node}), "linux.sysctls"},
		"IPC sysctls with the host's IPC": {sysctl("kernel.shmmax", &runtimeapi.NamespaceOption{Ipc: node}), "linux.sysctls"},
		"a sysctl that climbs":            {sysctl("net/../kernel.panic", nil), "linux.sysctls"},
		"a group without a user":          {security(&sc{RunAsGroup: &runtimeapi.Int64Value{}}), "linux.security_context.run_as_group"},
		"a user namespace":                {security(&sc{NamespaceOptions: &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{}}}), "linux.security_context.namespace_options.userns_options.uids"},
		"a target":                        {security(&sc{NamespaceOptions: &runtimeapi.NamespaceOption{TargetId: "x"}}), "linux.security_context.namespace_options.target_id"},
		"mode TARGET":                     {security(&sc{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET}}), "linux.security_context.namespace_options.pid"},
		"a relative seccomp profile":      {security(&sc{SeccompProfilePath: "localhost/x"}), "linux.security_context.seccomp.localhost_ref"},
		"an SELinux part with a space":    {security(&sc{SelinuxOptions: &runtimeapi.SELinuxOption{Type: "a b"}}), "linux.security_context.selinux_options.type"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := proto.CloneOf(podConfig)
			tc.change(cfg)
			refused(t, ValidateSandboxConfig(cfg), tc.field)
			_, err := DockerSandbox(SandboxRequest{Config: cfg, ImageID: pauseID}, fullHost)
			refused(t, err, tc.field)
		})
	}
	refused(t, ValidateSandboxConfig(nil), "config")
}

func TestValidateContainerConfig(t *testing.T) {
	if err := ValidateContainerConfig(containerConfig); err != nil {
		t.Fatal(err)
	}
	type cc = runtimeapi.ContainerConfig
	mounted := func(m *runtimeapi.Mount) func(*cc) {
		return func(c *cc) { c.Mounts = []*runtimeapi.Mount{m} }
	}
	security := func(s *runtimeapi.LinuxContainerSecurityContext) func(*cc) {
		return func(c *cc) { c.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: s} }
	}
	type sc = runtimeapi.LinuxContainerSecurityContext
	namespaces := func(ns *runtimeapi.NamespaceOption) func(*cc) { return security(&sc{NamespaceOptions: ns}) }
	image := &runtimeapi.ImageSpec{Image: "i"}
	private := runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	for name, tc := range map[string]struct {
		change func(*cc)
		field  string
	}{
		"nil metadata":                       {func(c *cc) { c.Metadata = nil }, "metadata"},
		"no name":                            {func(c *cc) { c.Metadata.Name = "" }, "metadata.name"},
		"nil image":                          {func(c *cc) { c.Image = nil }, "image.image"},
		"a relative working directory":       {func(c *cc) { c.WorkingDir = "a" }, "working_dir"},
		"an absolute log path":               {func(c *cc) { c.LogPath = "/etc/passwd" }, "log_path"},
		"a log path that climbs":             {func(c *cc) { c.LogPath = "a/../../b" }, "log_path"},
		"a NUL in an argument":               {func(c *cc) { c.Args = []string{"a", "b\x00"} }, "args[1]"},
		"a variable without a name":          {func(c *cc) { c.Envs = []*runtimeapi.KeyValue{{}} }, "envs[0].key"},
		"a variable's name with =":           {func(c *cc) { c.Envs = []*runtimeapi.KeyValue{{Key: "a=b"}} }, "envs[0].key"},
		"a value that is not UTF-8":          {func(c *cc) { c.Envs = []*runtimeapi.KeyValue{{Key: "a", Value: []byte{0xff}}} }, "envs[0].value"},
		"an unknown signal":                  {func(c *cc) { c.StopSignal = 999 }, "stop_signal"},
		"Windows":                            {func(c *cc) { c.Windows = &runtimeapi.WindowsContainerConfig{} }, "windows"},
		"a nil mount":                        {mounted(nil), "mounts[0]"},
		"a relative container path":          {mounted(&runtimeapi.Mount{ContainerPath: "a", HostPath: "/b"}), "mounts[0].container_path"},
		"a mount on the root":                {mounted(&runtimeapi.Mount{ContainerPath: "/a/..", HostPath: "/b"}), "mounts[0].container_path"},
		"a relative host path":               {mounted(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "b"}), "mounts[0].host_path"},
		"neither host path nor image":        {mounted(&runtimeapi.Mount{ContainerPath: "/a"}), "mounts[0].host_path"},
		"host path and image":                {mounted(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", Image: image, Readonly: true}), "mounts[0].host_path"},
		"an image to write to":               {mounted(&runtimeapi.Mount{ContainerPath: "/a", Image: image}), "mounts[0].readonly"},
		"a sub-path that climbs":             {mounted(&runtimeapi.Mount{ContainerPath: "/a", Image: image, Readonly: true, ImageSubPath: "a/../.."}), "mounts[0].image_sub_path"},
		"recursive read-only but writable":   {mounted(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", RecursiveReadOnly: true}), "mounts[0].recursive_read_only"},
		"recursive read-only but propagated": {mounted(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", RecursiveReadOnly: true, Readonly: true, Propagation: private}), "mounts[0].recursive_read_only"},
		"an idmapped mount":                  {mounted(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", UidMappings: []*runtimeapi.IDMapping{{}}}), "mounts[0].uidMappings"},
		"an unknown mount option":            {mounted(&runtimeapi.Mount{ContainerPath: "/a", HostPath: "/b", MountOptions: []string{"suid"}}), "mounts[0].mount_options[0]"},
		"a device that is no path":           {func(c *cc) { c.Devices = []*runtimeapi.Device{{HostPath: "x"}} }, "devices[0].host_path"},
		"device permissions":                 {func(c *cc) { c.Devices = []*runtimeapi.Device{{HostPath: "/dev/x", Permissions: "rx"}} }, "devices[0].permissions"},
		"a CDI device without a class":       {func(c *cc) { c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "gpu=0"}} }, "CDI_devices[0].name"},
		"a CDI annotation without a device":  {func(c *cc) { c.Annotations = map[string]string{"cdi.k8s.io/x": "v/c"} }, "annotations"},
		"user and user name":                 {security(&sc{RunAsUser: &runtimeapi.Int64Value{}, RunAsUsername: "a"}), "linux.security_context.run_as_username"},
		"a group without a user":             {security(&sc{RunAsGroup: &runtimeapi.Int64Value{}}), "linux.security_context.run_as_group"},
		"ambient capabilities":               {security(&sc{Capabilities: &runtimeapi.Capability{AddAmbientCapabilities: []string{"A"}}}), "linux.security_context.capabilities.add_ambient_capabilities"},
		"a relative masked path":             {security(&sc{MaskedPaths: []string{"proc"}}), "linux.security_context.masked_paths[0]"},
		"a network of its own":               {namespaces(&runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_CONTAINER}), "linux.security_context.namespace_options.network"},
		"a target without an ID":             {namespaces(&runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "web"}), "linux.security_context.namespace_options.target_id"},
		"an ID without a target":             {namespaces(&runtimeapi.NamespaceOption{TargetId: containerID}), "linux.security_context.namespace_options.target_id"},
		"a user namespace":                   {namespaces(&runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{}}), "linux.security_context.namespace_options.userns_options.uids"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := proto.CloneOf(containerConfig)
			tc.change(cfg)
			refused(t, ValidateContainerConfig(cfg), tc.field)
		})
	}
	refused(t, ValidateContainerConfig(nil), "config")
}

// refused checks for an ErrInvalidArgument that starts with the field, or with a
// reason and the field.
func refused(t *testing.T, err error, field string) {
	t.Helper()
	if !errdefs.IsInvalidArgument(err) {
		t.Fatalf("got %v, want ErrInvalidArgument", err)
	}
	text := strings.TrimPrefix(err.Error(), ReasonImageVolumeMountFailed+": ")
	if !strings.HasPrefix(text, field) {
		t.Errorf("%q does not name %s", err, field)
	}
}

func TestContainerAgainstSandbox(t *testing.T) {
	change := func(f func(*ContainerRequest, *runtimeapi.LinuxContainerSecurityContext)) ContainerRequest {
		req := containerRequest(t)
		sandbox := *req.Sandbox
		req.Sandbox, req.Config = &sandbox, proto.CloneOf(req.Config)
		sc := &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{}}
		req.Config.Linux.SecurityContext = sc
		f(&req, sc)
		return req
	}
	type sc = runtimeapi.LinuxContainerSecurityContext
	for name, tc := range map[string]struct {
		change func(*ContainerRequest, *sc)
		field  string
	}{
		"no sandbox":                               {func(r *ContainerRequest, _ *sc) { r.Sandbox = nil }, "pod_sandbox_id"},
		"a name for a sandbox":                     {func(r *ContainerRequest, _ *sc) { r.Sandbox.ID = "web" }, "pod_sandbox_id"},
		"an image that was not found":              {func(r *ContainerRequest, _ *sc) { r.Image = Image{} }, "image.image"},
		"another runtime than the sandbox's":       {func(r *ContainerRequest, _ *sc) { r.Config.Image.RuntimeHandler = "runc" }, "image.runtime_handler"},
		"privileged in a sandbox that is not":      {func(_ *ContainerRequest, s *sc) { s.Privileged = true }, "linux.security_context.privileged"},
		"the host's network in a pod with its own": {func(_ *ContainerRequest, s *sc) { s.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE }, "linux.security_context.namespace_options.network"},
		"the host's IPC in a pod with its own":     {func(_ *ContainerRequest, s *sc) { s.NamespaceOptions.Ipc = runtimeapi.NamespaceMode_NODE }, "linux.security_context.namespace_options.ipc"},
		"mounts that were not resolved":            {func(r *ContainerRequest, _ *sc) { r.Mounts = nil }, "mounts"},
		"a runtime that is gone from the engine":   {func(r *ContainerRequest, _ *sc) { r.Sandbox.RuntimeHandler = "gone" }, "runtime_handler"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DockerContainer(change(tc.change), fullHost)
			refused(t, err, tc.field)
		})
	}
	t.Run("mount options and CDI devices on an engine without CDI", func(t *testing.T) {
		for _, f := range []func(*ContainerRequest, *sc){
			func(r *ContainerRequest, _ *sc) { r.Config.Mounts[0].MountOptions = []string{"noexec"} },
			func(r *ContainerRequest, _ *sc) { r.Config.CDIDevices = []*runtimeapi.CDIDevice{{Name: "v.io/c=1"}} },
		} {
			if _, err := DockerContainer(change(f), fullHost); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("got %v", err)
			}
		}
	})
	t.Run("a target's PID namespace", func(t *testing.T) {
		created, err := DockerContainer(change(func(_ *ContainerRequest, s *sc) {
			s.NamespaceOptions.Pid, s.NamespaceOptions.TargetId = runtimeapi.NamespaceMode_TARGET, containerID
		}), fullHost)
		if err != nil || string(created.HostConfig.PidMode) != "container:"+containerID {
			t.Errorf("%v %v", created, err)
		}
	})
	t.Run("a mount with options is a CDI device, beside those asked for", func(t *testing.T) {
		host := fullHost
		host.CDI = true
		created, err := DockerContainer(change(func(r *ContainerRequest, _ *sc) {
			r.Config.CDIDevices = []*runtimeapi.CDIDevice{{Name: "v.io/c=1"}}
			r.Config.Mounts[0].MountOptions = []string{"noexec"}
			r.Mounts[0].CDIDevice = "cridock.io/mount=x"
		}), host)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"v.io/c=1", "cridock.io/mount=x"}, created.HostConfig.DeviceRequests[0].DeviceIDs); diff != "" || len(created.HostConfig.Mounts) != 1 {
			t.Errorf("%s %v", diff, created.HostConfig.Mounts)
		}
	})
}

// TestPrivatePropagation: Docker answers 400 to rprivate for these sources.
func TestPrivatePropagation(t *testing.T) {
	host := fullHost
	host.DockerRootDir = "/var/lib/docker"
	for source, want := range map[string]mount.Propagation{
		"/": mount.PropagationRSlave, "/var": mount.PropagationRSlave, "/var/lib/docker/containers": mount.PropagationRSlave,
		"/var/log": mount.PropagationRPrivate, "/data": mount.PropagationRPrivate,
	} {
		m := &runtimeapi.Mount{ContainerPath: "/a", HostPath: source}
		got, err := bindMount("mounts[0]", m, source, "", host)
		if err != nil || got.BindOptions.Propagation != want {
			t.Errorf("%s: %+v, %v", source, got.BindOptions, err)
		}
		m.Readonly, m.RecursiveReadOnly = true, true
		if _, err := bindMount("mounts[0]", m, source, "", host); (err == nil) != (want == mount.PropagationRPrivate) {
			t.Errorf("%s recursively read-only: %v", source, err)
		}
	}
}

func TestRuntimeHandler(t *testing.T) {
	for in, want := range map[string]string{"": "", "docker": "", "runc": "runc", "crun": "crun"} {
		if got, err := RuntimeHandler(in, fullHost); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	_, err := RuntimeHandler("kata", fullHost)
	refused(t, err, "runtime_handler")
	if !strings.Contains(err.Error(), "crun") {
		t.Errorf("%v does not name the known runtimes", err)
	}
	var names []string
	for _, h := range CRIRuntimeHandlers(fullHost) {
		names = append(names, h.Name)
		if rro := h.Name != "crun"; h.Features.RecursiveReadOnlyMounts != rro || h.Features.UserNamespaces {
			t.Errorf("%s: %v", h.Name, h.Features)
		}
	}
	if diff := cmp.Diff([]string{"", "crun", "docker", "runc"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestInterfaceSysctls(t *testing.T) {
	atCreate, afterCNI := InterfaceSysctls(map[string]string{
		"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.rp_filter": "2", "net.ipv4.conf.eth0.rp_filter": "3",
		"net.ipv6.neigh.eth0.gc_stale_time": "4", "net/ipv4/conf/eth0.100/forwarding": "5", "net.ipv4.conf.lo.forwarding": "6", "kernel.shmmax": "7",
	})
	want := []map[string]string{
		{"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.rp_filter": "2", "net.ipv4.conf.lo.forwarding": "6", "kernel.shmmax": "7"},
		{"net.ipv4.conf.eth0.rp_filter": "3", "net.ipv6.neigh.eth0.gc_stale_time": "4", "net/ipv4/conf/eth0.100/forwarding": "5"},
	}
	if diff := cmp.Diff(want, []map[string]string{atCreate, afterCNI}); diff != "" {
		t.Error(diff)
	}
	if a, b := InterfaceSysctls(nil); a != nil || b != nil {
		t.Error("nothing is something")
	}
}

func TestCgroupParent(t *testing.T) {
	if got, err := cgroupParent("/a.slice/a-b.slice", systemdHost); err != nil || got != "a-b.slice" {
		t.Errorf("systemd: %q, %v", got, err)
	}
	if got, err := cgroupParent("/kubepods/x", v1Host); err != nil || got != "/kubepods/x" {
		t.Errorf("cgroupfs: %q, %v", got, err)
	}
	if got, err := cgroupParent("", systemdHost); err != nil || got != "" {
		t.Errorf("none: %q, %v", got, err)
	}
	_, err := cgroupParent("/kubepods/x", systemdHost)
	refused(t, err, "linux.cgroup_parent")
}

func TestResolvConf(t *testing.T) {
	got := ResolvConf(&runtimeapi.DNSConfig{Servers: []string{"10.0.0.10", "fd00::a"}, Searches: []string{"a.b", "c"}, Options: []string{"ndots:5", "edns0"}})
	if want := "search a.b c\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5 edns0\n"; string(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := ResolvConf(nil); got != nil {
		t.Errorf("nothing asked for gives %q", got)
	}
}

// TestSubPathOfAnother: in a pod with an image volume the kubelet sets image_sub_path for
// the host's paths, too, which have it already.
func TestSubPathOfAnother(t *testing.T) {
	req := containerRequest(t)
	req.Config = proto.CloneOf(req.Config)
	req.Config.Mounts, req.Mounts = []*runtimeapi.Mount{{ContainerPath: "/part", HostPath: "/subpaths/part", ImageSubPath: "part"}}, []ResolvedMount{{Source: "/subpaths/part"}}
	created, err := DockerContainer(req, exampleHost)
	if err != nil {
		t.Fatal(err)
	}
	if m := created.HostConfig.Mounts; len(m) != 1 || m[0].Source != "/subpaths/part" || m[0].Target != "/part" {
		t.Errorf("mounts are %+v", m)
	}
}
