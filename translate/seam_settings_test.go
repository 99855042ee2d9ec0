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

// settingsRequest is a request for a container with these devices in a privileged pod
// of crun.
func settingsRequest(t *testing.T, sc *runtimeapi.LinuxContainerSecurityContext, devices ...*runtimeapi.Device) ContainerRequest {
	t.Helper()
	req := containerRequest(t)
	sandbox := *req.Sandbox
	sandbox.Privileged = true
	req.Sandbox, req.Config = &sandbox, proto.CloneOf(req.Config)
	req.Config.Linux, req.Config.Devices = &runtimeapi.LinuxContainerConfig{SecurityContext: sc}, devices
	return req
}

func id(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }

func TestSeamSettings(t *testing.T) {
	type sc = runtimeapi.LinuxContainerSecurityContext
	all := exampleHost
	all.CDI = false
	all.Settings = SeamSettings{DeviceOwnership: true, PrivilegedWithoutHostDevices: []string{"crun"}, WritableCgroups: []string{"crun"}}
	other := all
	other.Settings = SeamSettings{PrivilegedWithoutHostDevices: []string{"runc"}, WritableCgroups: []string{"runc"}}
	shared := exampleHost
	shared.Settings.SharedUTS = true
	owners := exampleHost
	owners.Settings.DeviceOwnership = true
	devices := []*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/x/", Permissions: "r"}, {HostPath: "/dev/zero", ContainerPath: "/dev/x"}, {HostPath: "/dev/full"}}
	user := uint32(1000)
	cdi := &CDIEdits{Devices: []container.DeviceMapping{{PathOnHost: "/dev/gpu", PathInContainer: "/dev/gpu", CgroupPermissions: "rw"}}}
	for name, tc := range map[string]struct {
		sc      *sc
		devices []*runtimeapi.Device
		host    Host
		cdi     *CDIEdits
		want    *Seam
	}{
		"no settings":      {&sc{Privileged: true, RunAsUser: id(1000)}, devices, exampleHost, nil, nil},
		"other runtimes":   {&sc{Privileged: true, RunAsUser: id(1000)}, devices, other, nil, nil},
		"an owner":         {&sc{RunAsUser: id(1000)}, devices, owners, nil, &Seam{Record: seam.Record{Devices: &seam.Devices{Nodes: []seam.DeviceNode{{Path: "/dev/x", UID: &user, Access: "rwm"}, {Path: "/dev/full", UID: &user, Access: "rwm"}}}}}},
		"root":             {&sc{RunAsUser: id(0), RunAsGroup: id(0)}, devices, owners, nil, nil},
		"nothing to own":   {&sc{RunAsUser: id(1000)}, nil, owners, nil, nil},
		"writable cgroups": {&sc{}, nil, all, nil, &Seam{Record: seam.Record{WritableCgroups: true}}},
		"privileged": {&sc{Privileged: true, RunAsUser: id(0), RunAsGroup: id(1000)}, devices[2:], all, cdi,
			&Seam{Record: seam.Record{Devices: &seam.Devices{Exclusive: true, Nodes: []seam.DeviceNode{{Path: "/dev/full", GID: &user, Access: "rwm"}, {Path: "/dev/gpu", Access: "rw"}}}}}},
		"privileged without devices": {&sc{Privileged: true}, nil, all, nil, &Seam{Record: seam.Record{Devices: &seam.Devices{Exclusive: true}}}},
		"a shared UTS namespace":     {&sc{}, nil, shared, nil, &Seam{SharedUTS: true}},
	} {
		t.Run(name, func(t *testing.T) {
			req := settingsRequest(t, tc.sc, tc.devices...)
			req.CDI = tc.cdi
			created, err := DockerContainer(req, tc.host)
			if err != nil {
				t.Fatal(err)
			}
			if tc.want != nil {
				tc.want.RealRuntime = "crun"
			}
			if diff := cmp.Diff(tc.want, created.Seam); diff != "" || (created.HostConfig.Runtime == "cridock") != (tc.want != nil) {
				t.Errorf("with runtime %q: %s", created.HostConfig.Runtime, diff)
			}
		})
	}
	req := settingsRequest(t, &sc{})
	req.Sandbox.HostNetwork = true
	if created, err := DockerContainer(req, shared); err != nil || created.Seam != nil {
		t.Errorf("with the host's UTS namespace: %+v, %v", created, err)
	}
}

// TestSeamSettingsUnmet: a container that a setting concerns is refused if that can't
// be done.
func TestSeamSettingsUnmet(t *testing.T) {
	type sc = runtimeapi.LinuxContainerSecurityContext
	device := &runtimeapi.Device{HostPath: "/dev/null"}
	for name, tc := range map[string]struct {
		settings SeamSettings
		change   func(*ContainerRequest, *Host)
		want     string
	}{
		"devices without cridock-runtime":    {SeamSettings{DeviceOwnership: true}, func(_ *ContainerRequest, h *Host) { h.SeamRuntime = "" }, "cridock runtime install"},
		"privileged without cridock-runtime": {SeamSettings{PrivilegedWithoutHostDevices: []string{"crun"}}, func(_ *ContainerRequest, h *Host) { h.SeamRuntime = "" }, "cridock runtime install"},
		"shared UTS without cridock-runtime": {SeamSettings{SharedUTS: true}, func(_ *ContainerRequest, h *Host) { h.SeamRuntime = "" }, "cridock runtime install"},
		"cgroups without cridock-runtime": {SeamSettings{WritableCgroups: []string{"crun"}}, func(r *ContainerRequest, h *Host) {
			h.SeamRuntime, r.Config.Linux.SecurityContext.Privileged = "", false
		}, "cridock runtime install"},
		"cgroup v1": {SeamSettings{WritableCgroups: []string{"crun"}}, func(r *ContainerRequest, h *Host) {
			h.CgroupV2, r.Config.Linux.SecurityContext.Privileged = false, false
		}, "cgroup v2"},
		"cgroups in a user namespace": {SeamSettings{WritableCgroups: []string{"crun"}}, func(r *ContainerRequest, _ *Host) {
			_, r.Sandbox = sandboxInUserNamespace(t)
			r.Config.Linux.SecurityContext.Privileged, r.Config.Mounts, r.Mounts = false, nil, nil
		}, "user namespace"},
		"devices with userns-remap": {SeamSettings{DeviceOwnership: true}, func(r *ContainerRequest, h *Host) {
			h.UsernsRemap, r.Config.Linux.SecurityContext.Privileged = true, false
		}, "userns-remap"},
		"cgroups with userns-remap": {SeamSettings{WritableCgroups: []string{"crun"}}, func(r *ContainerRequest, h *Host) {
			h.UsernsRemap, r.Config.Linux.SecurityContext.Privileged = true, false
		}, "user namespace"},
		"the engine's CDI": {SeamSettings{PrivilegedWithoutHostDevices: []string{"crun"}}, func(r *ContainerRequest, _ *Host) {
			r.Config.CDIDevices = []*runtimeapi.CDIDevice{{Name: "v.io/c=1"}}
		}, "v.io/c=1"},
	} {
		t.Run(name, func(t *testing.T) {
			host, req := exampleHost, settingsRequest(t, &sc{Privileged: true, RunAsUser: id(1000)}, device)
			host.Settings = tc.settings
			tc.change(&req, &host)
			if created, err := DockerContainer(req, host); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%+v, %v", created, err)
			}
		})
	}
}
