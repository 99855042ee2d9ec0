package translate

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/proto"

	"github.com/cridock/cridock/internal/seam"
)

// limitedRequest is a request for a container with these limits in a pod of crun.
func limitedRequest(t *testing.T, r *resources) ContainerRequest {
	t.Helper()
	req := containerRequest(t)
	req.Config = proto.CloneOf(req.Config)
	req.Config.Linux = &runtimeapi.LinuxContainerConfig{Resources: r}
	return req
}

// readCreated returns a created container as read from Docker.
func readCreated(t *testing.T, c *Create, change func(*container.InspectResponse)) *Container {
	t.Helper()
	in := inspect(c, containerID)
	if change != nil {
		change(&in)
	}
	out, err := ReadContainer(in, nil, exampleHost)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSmallMemory(t *testing.T) {
	created, err := DockerContainer(limitedRequest(t, &resources{MemoryLimitInBytes: 4 * mib, MemorySwapLimitInBytes: 5 * mib}), exampleHost)
	if err != nil {
		t.Fatal(err)
	}
	want := &Seam{RealRuntime: "crun", Record: seam.Record{Resources: &seam.Resources{Memory: &seam.Memory{Limit: 4 * mib, Swap: 5 * mib}}}}
	if diff := cmp.Diff(want, created.Seam); diff != "" || created.HostConfig.Runtime != "cridock" {
		t.Errorf("runtime %q: %s", created.HostConfig.Runtime, diff)
	}
	if r := created.HostConfig.Resources; r.Memory != 6*mib || r.MemorySwap != 6*mib {
		t.Errorf("Docker gets %+v", r)
	}
	for name, tc := range map[string]struct {
		change       func(*container.InspectResponse)
		memory, swap int64
	}{
		"as created":        {nil, 4 * mib, 5 * mib},
		"no swap accounted": {func(in *container.InspectResponse) { in.HostConfig.MemorySwap = -1 }, 4 * mib, -1},
		"updated": {func(in *container.InspectResponse) {
			in.HostConfig.Memory, in.HostConfig.MemorySwap = 8*mib, 9*mib
		}, 8 * mib, 9 * mib},
	} {
		c := readCreated(t, created, tc.change)
		if r := c.Resources; r.MemoryLimitInBytes != tc.memory || r.MemorySwapLimitInBytes != tc.swap || !c.Seam || c.RuntimeHandler != "crun" {
			t.Errorf("%s: %v, seam %t, handler %q", name, r, c.Seam, c.RuntimeHandler)
		}
	}
}

// TestNoSeam: a container that does not need cridock-runtime does not use it.
func TestNoSeam(t *testing.T) {
	for name, r := range map[string]*resources{
		"no limits": nil,
		"Docker's":  {MemoryLimitInBytes: 6 * mib, CpuShares: 3, CpuQuota: 5000, CpusetCpus: "0", Unified: map[string]string{"pids.max": "5", "memory.swap.max": "0"}},
		"defaults":  {Unified: map[string]string{"memory.high": "max", "memory.oom.group": "1"}, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}, {PageSize: "1GB"}}},
	} {
		created, err := DockerContainer(limitedRequest(t, r), exampleHost)
		if err != nil || created.Seam != nil || created.HostConfig.Runtime != "crun" {
			t.Errorf("%s: %+v, %v", name, created, err)
		}
	}
}

// TestLimitsBeforeStart: limits that Docker has no field for hold from the first
// instruction on if cridock-runtime is there.
func TestLimitsBeforeStart(t *testing.T) {
	type unified = map[string]string
	systemd := exampleHost
	systemd.CgroupDriver = "systemd"
	v1 := exampleHost
	v1.CgroupV2 = false
	without := exampleHost
	without.SeamRuntime = ""
	for name, tc := range map[string]struct {
		in   *resources
		host Host
		want *seam.Resources
	}{
		"unified": {&resources{Unified: unified{"memory.high": "1000", "memory.low": "0", "memory.oom.group": "1", "pids.max": "5"}}, exampleHost,
			&seam.Resources{Unified: unified{"memory.high": "1000", "memory.oom.group": "1"}}},
		"huge pages": {&resources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 1}, {PageSize: "2MB", Limit: 4}, {PageSize: "1GB"}}}, v1,
			&seam.Resources{Hugepages: []seam.Hugepages{{PageSize: "2MB", Limit: 4}}}},
		"systemd's":          {&resources{Unified: unified{"memory.high": "1000"}}, systemd, nil},
		"not systemd's":      {&resources{Unified: unified{"memory.high": "1000", "cpu.weight": "5"}}, systemd, &seam.Resources{Unified: unified{"cpu.weight": "5"}}},
		"no cridock-runtime": {&resources{Unified: unified{"memory.high": "1000"}}, without, nil},
	} {
		created, err := DockerContainer(limitedRequest(t, tc.in), tc.host)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got *seam.Resources
		if created.Seam != nil {
			got = created.Seam.Record.Resources
		}
		if diff := cmp.Diff(tc.want, got); diff != "" || (created.HostConfig.Runtime == "cridock") != (tc.want != nil) {
			t.Errorf("%s, with runtime %q: %s", name, created.HostConfig.Runtime, diff)
		}
		if got != nil {
			record := created.Seam.Record
			record.ID, record.Runtime.Path = containerID, "crun"
			if _, err := record.Encode(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestSmallMemoryUnmet: without cridock-runtime, such a limit is refused.
func TestSmallMemoryUnmet(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Host)
		want   string
	}{
		"no cridock-runtime":       {func(h *Host) { h.SeamRuntime = "" }, "cridock runtime install"},
		"a runtime without a path": {func(h *Host) { h.Runtimes = map[string]RuntimeFeatures{"crun": {}} }, `"crun"`},
	} {
		host := exampleHost
		tc.change(&host)
		_, err := DockerContainer(limitedRequest(t, &resources{MemoryLimitInBytes: 4 * mib}), host)
		if !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), "linux.resources.memory_limit_in_bytes: ") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSeamMountOptions: what Docker's own mounts can't have goes through
// cridock-runtime, unless the engine's CDI makes the mount.
func TestSeamMountOptions(t *testing.T) {
	private, both := runtimeapi.MountPropagation_PROPAGATION_PRIVATE, runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	old := exampleHost
	old.CDI, old.MountOptions, old.ReadOnlyNonRecursive = false, false, false
	old.Runtimes = map[string]RuntimeFeatures{"runc": {Seam: true}, "crun": {Seam: true, SeamRecursiveReadOnly: true}, "cridock": {}}
	bind := func(propagation runtimeapi.MountPropagation, recursive bool, options ...string) *runtimeapi.Mount {
		return &runtimeapi.Mount{HostPath: "/host", ContainerPath: "/in/", Readonly: recursive, RecursiveReadOnly: recursive, Propagation: propagation, MountOptions: options}
	}
	type options = map[string][]string
	for name, tc := range map[string]struct {
		mounts []*runtimeapi.Mount
		host   Host
		want   options
	}{
		"plain":                    {[]*runtimeapi.Mount{bind(private, false)}, old, nil},
		"options":                  {[]*runtimeapi.Mount{bind(private, false, "noexec", "noexec")}, old, options{"/in": {"noexec"}}},
		"options, both directions": {[]*runtimeapi.Mount{bind(both, false, "noexec")}, old, options{"/in": {"noexec"}}},
		"recursive read-only":      {[]*runtimeapi.Mount{bind(private, true, "nodev")}, old, options{"/in": {"nodev", "rro"}}},
		"the last one wins":        {[]*runtimeapi.Mount{bind(private, true), bind(private, false)}, old, nil},
		"the engine's own rro":     {[]*runtimeapi.Mount{bind(private, true)}, exampleHost, nil},
	} {
		t.Run(name, func(t *testing.T) {
			req := containerRequest(t)
			req.Config = proto.CloneOf(req.Config)
			req.Config.Linux, req.Config.Mounts, req.Mounts = nil, tc.mounts, make([]ResolvedMount, len(tc.mounts))
			created, err := DockerContainer(req, tc.host)
			if err != nil {
				t.Fatal(err)
			}
			var got options
			if created.Seam != nil {
				got = created.Seam.Record.MountOptions
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || (created.HostConfig.Runtime == "cridock") != (tc.want != nil) {
				t.Errorf("with runtime %q: %s", created.HostConfig.Runtime, diff)
			}
			if m := created.HostConfig.Mounts; len(m) != 1 || m[0].Target != "/in" || tc.want != nil && m[0].BindOptions.ReadOnlyForceRecursive {
				t.Errorf("Docker's mounts: %+v", m)
			}
		})
	}
	// A mount that CDI can make needs no cridock-runtime; one that it can't has no device.
	host := exampleHost
	if got, err := CDIMount("m", bind(private, true, "noexec"), "/host", "crun", host); got == nil || err != nil {
		t.Errorf("with CDI: %v, %v", got, err)
	}
	host.Runtimes = old.Runtimes
	for _, m := range []*runtimeapi.Mount{bind(both, false, "noexec"), bind(private, true, "noexec")} {
		if got, err := CDIMount("m", m, "/host", "crun", host); got != nil || err != nil {
			t.Errorf("%v: %v, %v", m, got, err)
		}
	}
}

// TestSeamMountOptionsUnmet: what neither can do is refused.
func TestSeamMountOptionsUnmet(t *testing.T) {
	host := exampleHost
	host.CDI, host.MountOptions, host.ReadOnlyNonRecursive, host.DockerRootDir = false, false, false, "/var/lib/docker"
	without := host
	without.SeamRuntime = ""
	host.Runtimes = map[string]RuntimeFeatures{"runc": {Seam: true, SeamRecursiveReadOnly: true}, "crun": {Seam: true}, "cridock": {}}
	readOnly := &runtimeapi.Mount{HostPath: "/a", ContainerPath: "/a", Readonly: true, RecursiveReadOnly: true}
	for name, tc := range map[string]struct {
		mount *runtimeapi.Mount
		host  Host
		want  string
	}{
		"options without cridock-runtime":   {&runtimeapi.Mount{HostPath: "/a", ContainerPath: "/a", MountOptions: []string{"noexec"}}, without, "cridock runtime install"},
		"read-only without cridock-runtime": {readOnly, without, "cridock runtime install"},
		"an old runtime":                    {readOnly, host, "runc 1.1"},
		"an image":                          {&runtimeapi.Mount{Image: &runtimeapi.ImageSpec{Image: "a"}, ContainerPath: "/a", Readonly: true, MountOptions: []string{"noexec"}}, host, "image"},
	} {
		req := containerRequest(t)
		req.Config = proto.CloneOf(req.Config)
		req.Config.Mounts, req.Mounts = []*runtimeapi.Mount{tc.mount}, make([]ResolvedMount, 1)
		if created, err := DockerContainer(req, tc.host); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %+v, %v", name, created, err)
		}
	}
	// Mounts that appear later on the host would be writable.
	host.Runtimes = map[string]RuntimeFeatures{"crun": {Seam: true, SeamRecursiveReadOnly: true}, "cridock": {}}
	if _, err := bindMount("m", readOnly, "/var", "crun", host); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "data directory") {
		t.Errorf("Docker's own directory: %v", err)
	}
	features := CRIRuntimeFeatures(host)
	for _, h := range CRIRuntimeHandlers(host) {
		if h.Features.RecursiveReadOnlyMounts != (h.Name == "crun") {
			t.Errorf("handler %q advertises recursive read-only mounts: %t", h.Name, h.Features.RecursiveReadOnlyMounts)
		}
	}
	host.Runtimes = map[string]RuntimeFeatures{"runc": {Seam: true}, "cridock": {}}
	if features.MountOptions || !CRIRuntimeFeatures(host).MountOptions || CRIRuntimeFeatures(without).MountOptions {
		t.Error("mount_options are not offered as they are possible")
	}
}

// TestCDIHooks: hooks of CDI devices need an engine with CDI or cridock-runtime.
func TestCDIHooks(t *testing.T) {
	hooks := []seam.Hook{{Name: "createRuntime", Path: "/bin/hook"}}
	create := func(change func(*Host)) (*Create, error) {
		host := exampleHost
		change(&host)
		req := containerRequest(t)
		req.Config = proto.CloneOf(req.Config)
		req.Config.Linux, req.Config.CDIDevices, req.CDI = nil, []*runtimeapi.CDIDevice{{Name: "v.io/c=1"}}, &CDIEdits{Hooks: hooks}
		return DockerContainer(req, host)
	}
	created, err := create(func(h *Host) { h.CDI = false })
	if err != nil || created.Seam == nil || created.HostConfig.Runtime != "cridock" {
		t.Fatalf("without CDI: %+v, %v", created, err)
	}
	if diff := cmp.Diff(hooks, created.Seam.Record.Hooks); diff != "" {
		t.Error(diff)
	}
	if created, err := create(func(*Host) {}); err != nil || created.Seam != nil {
		t.Errorf("with CDI: %+v, %v", created, err)
	}
	if created, err := create(func(h *Host) { h.CDI, h.SeamRuntime = false, "" }); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "v.io/c=1") || !strings.Contains(err.Error(), "cridock runtime install") {
		t.Errorf("with neither: %+v, %v", created, err)
	}
}

// TestPauseRuntime: the operator's runtime runs the sandbox of a pod that requests none,
// also through cridock-runtime.
func TestPauseRuntime(t *testing.T) {
	host := exampleHost
	host.PauseRuntime = "crun"
	userns := proto.CloneOf(podConfig)
	userns.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: &runtimeapi.NamespaceOption{UsernsOptions: usernsOptions(100000)},
	}}
	remapped := host
	remapped.UsernsRemap = true
	for name, tc := range map[string]struct {
		req        SandboxRequest
		host       Host
		want, real string
	}{
		"default":        {req: SandboxRequest{Config: podConfig}, host: host, want: "crun"},
		"dockershim's":   {req: SandboxRequest{Config: podConfig, RuntimeHandler: dockerHandler}, host: host, want: "crun"},
		"by its name":    {req: SandboxRequest{Config: podConfig, RuntimeHandler: "runc"}, host: host, want: "runc"},
		"early network":  {req: SandboxRequest{Config: podConfig, EarlyNetwork: true}, host: host, want: "cridock", real: "crun"},
		"user namespace": {req: SandboxRequest{Config: userns}, host: host, want: "cridock", real: "runc"},
		"userns-remap":   {req: SandboxRequest{Config: podConfig}, host: remapped, want: ""},
		"no setting":     {req: SandboxRequest{Config: podConfig}, host: exampleHost, want: ""},
	} {
		tc.req.ImageID = imageID
		c, err := DockerSandbox(tc.req, tc.host)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		realRuntime := ""
		if c.Seam != nil {
			realRuntime = c.Seam.RealRuntime
		}
		if c.HostConfig.Runtime != tc.want || realRuntime != tc.real {
			t.Errorf("%s: runtime %q, which executes %q; want %q, %q", name, c.HostConfig.Runtime, realRuntime, tc.want, tc.real)
		}
	}
	for _, missing := range []string{"youki", "cridock"} {
		host.PauseRuntime = missing
		if _, err := DockerSandbox(SandboxRequest{Config: podConfig, ImageID: imageID}, host); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "pause-runtime") {
			t.Errorf("%s: %v", missing, err)
		}
	}
}

func TestEarlyNetwork(t *testing.T) {
	request := func(change func(*SandboxRequest, *Host)) *Create {
		t.Helper()
		req, host := SandboxRequest{Config: proto.CloneOf(podConfig), ImageID: imageID, EarlyNetwork: true}, exampleHost
		change(&req, &host)
		c, err := DockerSandbox(req, host)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := request(func(*SandboxRequest, *Host) {})
	want := &Seam{RealRuntime: runtimeName("", exampleHost), Record: seam.Record{Network: &seam.Network{}}}
	if diff := cmp.Diff(want, c.Seam); diff != "" || !c.EarlyNetwork() || c.HostConfig.Runtime != exampleHost.SeamRuntime {
		t.Errorf("runtime %q: %s", c.HostConfig.Runtime, diff)
	}
	namespaces := func(req *SandboxRequest, o *runtimeapi.NamespaceOption) {
		req.Config.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: o}}
	}
	for name, change := range map[string]func(*SandboxRequest, *Host){
		"not wanted":         func(req *SandboxRequest, _ *Host) { req.EarlyNetwork = false },
		"Docker's network":   func(req *SandboxRequest, _ *Host) { req.Network = "bridge" },
		"no cridock-runtime": func(_ *SandboxRequest, h *Host) { h.SeamRuntime = "" },
		"host network": func(req *SandboxRequest, _ *Host) {
			namespaces(req, &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE})
		},
		"userns-remap": func(_ *SandboxRequest, h *Host) { h.UsernsRemap = true },
		"user namespace": func(req *SandboxRequest, _ *Host) {
			namespaces(req, &runtimeapi.NamespaceOption{UsernsOptions: usernsOptions(100000)})
		},
	} {
		if c := request(change); c.EarlyNetwork() {
			t.Errorf("%s: %+v", name, c.Seam)
		}
	}
	c = request(func(req *SandboxRequest, h *Host) {
		req.Config.Linux = &runtimeapi.LinuxPodSandboxConfig{Sysctls: map[string]string{"net/ipv6/conf/all/disable_ipv6": "1", "net.ipv4.conf.default.rp_filter": "2"}}
		h.Base = &BaseSpec{Sysctls: map[string]string{"net.ipv6.conf.default.disable_ipv6": "1"}}
	})
	if diff := cmp.Diff(map[string]string{"net.ipv4.conf.default.rp_filter": "2"}, c.HostConfig.Sysctls); diff != "" {
		t.Errorf("the runtime sets while CNI adds addresses: %s", diff)
	}
	// The engine leaves this one out of its user namespace.
	if c := request(func(req *SandboxRequest, h *Host) {
		h.UsernsRemap = true
		namespaces(req, &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_NODE})
	}); !c.EarlyNetwork() {
		t.Errorf("userns-remap, without the user namespace: %+v", c.HostConfig)
	}
}
