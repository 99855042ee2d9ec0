package translate

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/proto"

	"github.com/cridock/cridock/internal/seam"
)

// TestUsernsRemap: pods are in the daemon's user namespace unless they cannot be,
// and containers are in the same one as their sandbox.
func TestUsernsRemap(t *testing.T) {
	node := runtimeapi.NamespaceMode_NODE
	type sc = runtimeapi.LinuxSandboxSecurityContext
	for name, tc := range map[string]struct {
		sc   *sc
		want container.UsernsMode
	}{
		"nothing asked for":     {nil, ""},
		"the node's users":      {&sc{NamespaceOptions: &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: node}}}, ""},
		"privileged":            {&sc{Privileged: true}, "host"},
		"the host's network":    {&sc{NamespaceOptions: &runtimeapi.NamespaceOption{Network: node}}, "host"},
		"the host's processes":  {&sc{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: node}}, "host"},
		"the host's semaphores": {&sc{NamespaceOptions: &runtimeapi.NamespaceOption{Ipc: node}}, "host"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sandboxUsernsMode(tc.sc, fullHost); got != "" {
				t.Errorf("without userns-remap: %q", got)
			}
			host := fullHost
			host.UsernsRemap = true
			if got := sandboxUsernsMode(tc.sc, host); got != tc.want {
				t.Errorf("sandbox: %q, want %q", got, tc.want)
			}
			req := containerRequest(t)
			sandbox := *req.Sandbox
			sandbox.UsernsMode = string(tc.want)
			req.Sandbox, req.Config = &sandbox, proto.CloneOf(req.Config)
			created, err := DockerContainer(req, host)
			if err != nil || created.HostConfig.UsernsMode != tc.want {
				t.Errorf("container: %+v, %v; want %q", created, err, tc.want)
			}
		})
	}
	in := createdSandbox(t)
	in.HostConfig.UsernsMode = "host"
	if got, err := ReadSandbox(in, nil, fullHost); err != nil || got.UsernsMode != "host" {
		t.Errorf("read back: %+v, %v", got, err)
	}
}

// usernsOptions is a user namespace as the kubelet requests it.
func usernsOptions(hostID uint32) *runtimeapi.UserNamespace {
	m := func() []*runtimeapi.IDMapping { return []*runtimeapi.IDMapping{{HostId: hostID, Length: 65536}} }
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: m(), Gids: m()}
}

// sandboxInUserNamespace returns a sandbox with a user namespace, as read from Docker.
func sandboxInUserNamespace(t *testing.T) (*Create, *Sandbox) {
	t.Helper()
	cfg := proto.CloneOf(podConfig)
	cfg.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: &runtimeapi.NamespaceOption{UsernsOptions: usernsOptions(100000)},
	}}
	created, s, err := createExampleSandbox(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return created, s
}

// inUserNamespaceRequest is a request for a container there, with an id-mapped mount.
func inUserNamespaceRequest(t *testing.T) ContainerRequest {
	t.Helper()
	req := containerRequest(t)
	_, req.Sandbox = sandboxInUserNamespace(t)
	o := usernsOptions(100000)
	req.Config = proto.CloneOf(req.Config)
	req.Config.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{UsernsOptions: usernsOptions(100000)}}
	req.Config.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/etc/hosts", HostPath: "/pod/hosts", UidMappings: o.Uids, GidMappings: o.Gids},
		{ContainerPath: "/data/", HostPath: "/pod/data", UidMappings: o.Uids, GidMappings: o.Gids},
		{ContainerPath: "/plain", HostPath: "/pod/plain"},
	}
	req.Mounts = make([]ResolvedMount, len(req.Config.Mounts))
	return req
}

func createInUserNamespace(t *testing.T) (*Create, *Container) {
	t.Helper()
	created, err := DockerContainer(inUserNamespaceRequest(t), exampleHost)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ReadContainer(inspect(created, containerID), nil, exampleHost)
	if err != nil {
		t.Fatal(err)
	}
	return created, c
}

func TestUserNamespace(t *testing.T) {
	m := []seam.Mapping{{HostID: 100000, Size: 65536}}
	sandbox, s := sandboxInUserNamespace(t)
	want := &Seam{RealRuntime: "crun", Record: seam.Record{
		UserNamespace: &seam.UserNamespace{UIDs: m, GIDs: m}, MappedFiles: []string{"/etc/resolv.conf", "/etc/hostname", "/etc/hosts"},
	}}
	if diff := cmp.Diff(want, sandbox.Seam); diff != "" || sandbox.HostConfig.Runtime != "cridock" {
		t.Errorf("sandbox with runtime %q: %s", sandbox.HostConfig.Runtime, diff)
	}
	if s.RuntimeHandler != "crun" {
		t.Errorf("the handler is %q", s.RuntimeHandler)
	}
	ctr, _ := createInUserNamespace(t)
	want.Record.MappedMounts, want.Record.MappedFiles = []string{"/etc/hosts", "/data"}, []string{"/etc/resolv.conf", "/etc/hostname"}
	want.SharedUTS = true
	if diff := cmp.Diff(want, ctr.Seam); diff != "" || ctr.HostConfig.Runtime != "cridock" {
		t.Errorf("container with runtime %q: %s", ctr.HostConfig.Runtime, diff)
	}
	// Images are id-mapped with or without mappings.
	req := inUserNamespaceRequest(t)
	req.Config.Mounts = append(req.Config.Mounts, &runtimeapi.Mount{ContainerPath: "/data", Image: &runtimeapi.ImageSpec{Image: "a"}, Readonly: true})
	req.Mounts = append(req.Mounts, ResolvedMount{ImageID: imageID, Source: "/mounted", Layers: []string{"/l/2", "/l/1"}})
	withImage, err := DockerContainer(req, exampleHost)
	if err != nil {
		t.Fatal(err)
	}
	if r := withImage.Seam.Record; cmp.Diff([]string{"/etc/hosts", "/data"}, r.MappedMounts) != "" || cmp.Diff([]seam.Image{{Destination: "/data", Layers: []string{"/l/2", "/l/1"}}}, r.Images) != "" {
		t.Errorf("with an image: %+v", r)
	}
	// A container is in its pod's user namespace even if it does not ask for that.
	req = inUserNamespaceRequest(t)
	req.Config.Linux.SecurityContext.NamespaceOptions, req.Config.Mounts, req.Mounts = nil, nil, nil
	if plain, err := DockerContainer(req, exampleHost); err != nil || plain.Seam == nil || plain.HostConfig.Runtime != "cridock" {
		t.Errorf("%+v, %v", plain, err)
	}
	// The hash of the request depends on the mappings.
	req = inUserNamespaceRequest(t)
	req.Config.Mounts[1].UidMappings, req.Config.Mounts[1].GidMappings = nil, nil
	if other, err := DockerContainer(req, exampleHost); err != nil || other.Config.Labels[LabelRequest] == ctr.Config.Labels[LabelRequest] {
		t.Errorf("a request without a mapping is taken for the same (%v)", err)
	}
}

func TestUserNamespaceUnmet(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Host)
		want   string
	}{
		"no cridock-runtime":       {func(h *Host) { h.SeamRuntime = "" }, "cridock runtime install"},
		"no support in the kernel": {func(h *Host) { h.UserNamespacesUnmet = "the kernel says no" }, "the kernel says no"},
		"a runtime without a path": {func(h *Host) { h.Runtimes = map[string]RuntimeFeatures{"crun": {}} }, `"crun"`},
	} {
		t.Run(name, func(t *testing.T) {
			host := exampleHost
			tc.change(&host)
			cfg := exampleSandbox()
			inUserNamespace(cfg)
			_, err := DockerSandbox(SandboxRequest{Config: cfg, RuntimeHandler: "crun", ImageID: pauseID}, host)
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "hostUsers") {
				t.Errorf("sandbox: %v", err)
			}
			if _, err := DockerContainer(inUserNamespaceRequest(t), host); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("container: %v", err)
			}
			for _, h := range CRIRuntimeHandlers(host) {
				if h.Name == "crun" && h.Features.UserNamespaces {
					t.Error("it is advertised")
				}
			}
		})
	}
}

// TestSeamIsNoHandler: a RuntimeClass cannot select cridock-runtime.
func TestSeamIsNoHandler(t *testing.T) {
	for _, h := range CRIRuntimeHandlers(exampleHost) {
		if h.Name == "cridock" {
			t.Error("it is listed")
		}
	}
	if got, err := RuntimeHandler("cridock", exampleHost); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSandboxUserNamespaceRefuses(t *testing.T) {
	const in = "linux.security_context.namespace_options.userns_options"
	for name, tc := range map[string]struct {
		change func(*runtimeapi.NamespaceOption)
		field  string
	}{
		"host network":       {func(o *runtimeapi.NamespaceOption) { o.Network = runtimeapi.NamespaceMode_NODE }, in + ".mode"},
		"host PIDs":          {func(o *runtimeapi.NamespaceOption) { o.Pid = runtimeapi.NamespaceMode_NODE }, in + ".mode"},
		"host IPC":           {func(o *runtimeapi.NamespaceOption) { o.Ipc = runtimeapi.NamespaceMode_NODE }, in + ".mode"},
		"mode CONTAINER":     {func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Mode = runtimeapi.NamespaceMode_CONTAINER }, in + ".mode"},
		"NODE with mappings": {func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Mode = runtimeapi.NamespaceMode_NODE }, in},
		"two mappings": {func(o *runtimeapi.NamespaceOption) {
			o.UsernsOptions.Uids = append(o.UsernsOptions.Uids, o.UsernsOptions.Uids...)
		}, in + ".uids"},
		"no groups":             {func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Gids = nil }, in + ".gids"},
		"nil mapping":           {func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Uids = []*runtimeapi.IDMapping{nil} }, in + ".uids"},
		"the host's root":       {func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Uids[0].HostId = 0 }, in + ".uids"},
		"the host's root group": {func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Gids[0].HostId = 0 }, in + ".gids"},
		"no root":               {func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Uids[0].ContainerId = 1 }, in + ".uids"},
		"beyond all IDs":        {func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Gids[0].Length = 1<<32 - 1 }, in + ".gids"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := exampleSandbox()
			inUserNamespace(cfg)
			tc.change(cfg.Linux.SecurityContext.NamespaceOptions)
			if err := ValidateSandboxConfig(cfg); !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), tc.field+": ") {
				t.Errorf("%v; want %s", err, tc.field)
			}
		})
	}
}

func TestContainerUserNamespaceRefuses(t *testing.T) {
	other := usernsOptions(200000)
	for name, change := range map[string]func(*ContainerRequest){
		"another range": func(r *ContainerRequest) {
			r.Config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = other
		},
		"the host's users": func(r *ContainerRequest) {
			r.Config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}
		},
		"host PIDs": func(r *ContainerRequest) {
			r.Config.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE
		},
		"a mount of another range": func(r *ContainerRequest) { r.Config.Mounts[1].UidMappings = other.Uids },
		"a mount without groups":   func(r *ContainerRequest) { r.Config.Mounts[1].GidMappings = nil },
		"a mount without users":    func(r *ContainerRequest) { r.Config.Mounts[1].UidMappings = nil },
		"a bidirectional mount": func(r *ContainerRequest) {
			r.Config.Mounts[2].Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		},
		"an image": func(r *ContainerRequest) {
			r.Config.Mounts[1].HostPath, r.Config.Mounts[1].Readonly, r.Config.Mounts[1].Image = "", true, &runtimeapi.ImageSpec{Image: "data"}
		},
		"a sandbox without one": func(r *ContainerRequest) { r.Sandbox = containerRequest(t).Sandbox },
		"only its mounts": func(r *ContainerRequest) {
			r.Sandbox, r.Config.Linux.SecurityContext = containerRequest(t).Sandbox, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			req := inUserNamespaceRequest(t)
			change(&req)
			if created, err := DockerContainer(req, exampleHost); !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
				t.Errorf("%+v, %v", created, err)
			}
		})
	}
}

// TestVolumesOfImage: Docker says where it has made volumes; binds are none.
func TestVolumesOfImage(t *testing.T) {
	in := createdContainer(t)
	in.Mounts = []container.MountPoint{{Type: mount.TypeBind, Destination: "/bind"}, {Type: mount.TypeVolume, Destination: "/vol"}}
	c, err := ReadContainer(in, nil, fullHost)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/vol"}, c.Volumes); diff != "" {
		t.Error(diff)
	}
}

// TestUnsealedUserNamespace: without its seal, nothing is known of a sandbox's user
// namespace, so it gets no container, which would run as the host's users.
func TestUnsealedUserNamespace(t *testing.T) {
	created, _ := sandboxInUserNamespace(t)
	host := exampleHost
	host.Seal = nil // as with a new key
	sandbox, err := ReadSandbox(inspect(created, sandboxID), &Image{ID: pauseID}, host)
	if err != nil {
		t.Fatal(err)
	}
	req := containerRequest(t)
	req.Sandbox = sandbox
	for _, runtime := range []string{"cridock", ""} {
		host.SeamRuntime = runtime
		if runtime == "" {
			host.Runtimes = map[string]RuntimeFeatures{"runc": {}, "crun": {}}
		}
		if got, err := DockerContainer(req, host); !errdefs.IsInvalidArgument(err) {
			t.Errorf("runtime %q: %+v, %v", runtime, got, err)
		}
	}
}
