package translate

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/proto"

	"github.com/cridock/cridock/internal/seam"
)

// TestAdjustedDevices: the settings of devices concern what an adjustment has made of
// them. It takes no ownership of its own devices.
func TestAdjustedDevices(t *testing.T) {
	type sc = runtimeapi.LinuxContainerSecurityContext
	host := exampleHost
	host.Settings = SeamSettings{DeviceOwnership: true, PrivilegedWithoutHostDevices: []string{"crun"}}
	host.CDI = false
	devices := []*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/x/", Permissions: "r"}, {HostPath: "/dev/full"}}
	user, one, three := uint32(1000), int64(1), int64(3)
	replacement := container.DeviceMapping{PathOnHost: "/dev/zero", PathInContainer: "/dev/x", CgroupPermissions: "rwm"}
	full := seam.DeviceNode{Path: "/dev/full", UID: &user, Access: "rwm"}
	for name, tc := range map[string]struct {
		privileged bool
		adjustment Adjustment
		want       *seam.Devices
		docker     []string
	}{
		"removed":  {false, Adjustment{RemoveDevices: []string{"/dev/x"}}, &seam.Devices{Nodes: []seam.DeviceNode{full}}, []string{"/dev/full"}},
		"all gone": {false, Adjustment{RemoveDevices: []string{"/dev/x", "/dev/full"}}, nil, nil},
		"replaced": {false, Adjustment{Devices: []container.DeviceMapping{replacement}}, &seam.Devices{Nodes: []seam.DeviceNode{full}}, []string{"/dev/full", "/dev/x"}},
		"replaced by one that the host lacks": {false, Adjustment{Spec: &seam.Spec{Devices: []specs.LinuxDevice{{Path: "/dev/x", Type: "c"}}}},
			&seam.Devices{Nodes: []seam.DeviceNode{full}}, []string{"/dev/full"}},
		"added to a privileged one": {true, Adjustment{Devices: []container.DeviceMapping{replacement}, DeviceRules: []string{"c 1:3 rw", "b *:* r"}},
			&seam.Devices{Exclusive: true, Nodes: []seam.DeviceNode{full, {Path: "/dev/x", Access: "rwm"}}, Rules: []specs.LinuxDeviceCgroup{
				{Allow: true, Type: "c", Major: &one, Minor: &three, Access: "rw"}, {Allow: true, Type: "b", Access: "r"},
			}}, []string{"/dev/full", "/dev/x"}},
		"removed from a privileged one": {true, Adjustment{RemoveDevices: []string{"/dev/x", "/dev/full"}}, &seam.Devices{Exclusive: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			req := settingsRequest(t, &sc{Privileged: tc.privileged, RunAsUser: id(1000)}, devices...)
			req.Adjustment = &tc.adjustment
			created, err := DockerContainer(req, host)
			if err != nil {
				t.Fatal(err)
			}
			var got *seam.Devices
			if created.Seam != nil {
				got = created.Seam.Record.Devices
			}
			var docker []string
			for _, d := range created.HostConfig.Devices {
				docker = append(docker, d.PathInContainer)
			}
			if diff := cmp.Diff([]any{tc.want, tc.docker}, []any{got, docker}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestAdjustedMounts: what was recorded of a mount goes with it, so that nothing applies
// to the one that takes its place.
func TestAdjustedMounts(t *testing.T) {
	request := func(a *Adjustment) ContainerRequest {
		req := inUserNamespaceRequest(t)
		req.Config.Mounts = append(req.Config.Mounts, &runtimeapi.Mount{ContainerPath: "/image", Image: &runtimeapi.ImageSpec{Image: imageID}, Readonly: true},
			&runtimeapi.Mount{ContainerPath: "/options", HostPath: "/pod/plain", MountOptions: []string{"noexec"}})
		req.Mounts = append(req.Mounts, ResolvedMount{ImageID: imageID, Layers: []string{"/layer"}}, ResolvedMount{})
		req.Adjustment = a
		return req
	}
	record := func(a *Adjustment) seam.Record {
		t.Helper()
		created, err := DockerContainer(request(a), exampleHost)
		if err != nil {
			t.Fatal(err)
		}
		r := created.Seam.Record
		return seam.Record{MappedMounts: r.MappedMounts, MappedFiles: r.MappedFiles, Images: r.Images, MountOptions: r.MountOptions}
	}
	want := seam.Record{
		MappedMounts: []string{"/etc/hosts", "/data", "/image"}, MappedFiles: []string{"/etc/resolv.conf", "/etc/hostname"},
		Images: []seam.Image{{Destination: "/image", Layers: []string{"/layer"}}}, MountOptions: map[string][]string{"/options": {"noexec"}},
	}
	if diff := cmp.Diff(want, record(&Adjustment{})); diff != "" {
		t.Errorf("without an adjustment of mounts: %s", diff)
	}
	left := seam.Record{MappedMounts: []string{"/etc/hosts"}, MappedFiles: []string{"/etc/resolv.conf", "/etc/hostname"}}
	if diff := cmp.Diff(left, record(&Adjustment{Unmount: []string{"/data", "/image", "/options"}})); diff != "" {
		t.Errorf("removed: %s", diff)
	}
	var others []mount.Mount
	for _, target := range []string{"/data/", "/image", "/options", "/etc/hosts", "/etc/hostname"} {
		others = append(others, mount.Mount{Type: mount.TypeBind, Source: "/other", Target: target})
	}
	if diff := cmp.Diff(seam.Record{MappedFiles: []string{"/etc/resolv.conf"}}, record(&Adjustment{Mounts: others})); diff != "" {
		t.Errorf("replaced: %s", diff)
	}
}

// TestAdjustedMountOptions: without the mount, its options need neither cridock-runtime
// nor the engine's CDI.
func TestAdjustedMountOptions(t *testing.T) {
	for _, device := range []string{"", "cridock.io/mounts=one"} {
		req := containerRequest(t)
		req.Config = proto.CloneOf(req.Config)
		req.Config.Linux, req.Mounts = nil, []ResolvedMount{{CDIDevice: device}}
		req.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data/", HostPath: "/host", MountOptions: []string{"noexec"}}}
		for name, tc := range map[string]struct {
			adjustment Adjustment
			mounts     int
		}{
			"removed":  {Adjustment{Unmount: []string{"/data"}}, 0},
			"replaced": {Adjustment{Mounts: []mount.Mount{{Type: mount.TypeTmpfs, Target: "/data"}}}, 1},
		} {
			req.Adjustment = &tc.adjustment
			created, err := DockerContainer(req, exampleHost)
			if err != nil {
				t.Fatal(err)
			}
			if hc := created.HostConfig; created.Seam != nil || hc.Runtime != "crun" || len(hc.DeviceRequests) > 0 || len(hc.Mounts) != tc.mounts {
				t.Errorf("%s, with the device %q: %+v with runtime %q, %+v, %+v", name, device, created.Seam, hc.Runtime, hc.Mounts, hc.DeviceRequests)
			}
		}
	}
}

// TestAdjustedUTS: an adjustment precedes the pod's UTS namespace.
func TestAdjustedUTS(t *testing.T) {
	for _, a := range []*seam.Spec{{Namespaces: []specs.LinuxNamespace{{Type: specs.UTSNamespace}}}, {RemoveNamespaces: []specs.LinuxNamespaceType{specs.UTSNamespace}}} {
		req := inUserNamespaceRequest(t)
		req.Adjustment = &Adjustment{Spec: a}
		created, err := DockerContainer(req, exampleHost)
		if err != nil || created.Seam.SharedUTS {
			t.Errorf("%+v: %+v, %v", a, created, err)
		}
	}
}

// TestRemovedVolume: Docker would make an image's volume all the same, so that
// cridock-runtime drops it.
func TestRemovedVolume(t *testing.T) {
	req := containerRequest(t)
	req.Image.Volumes = []string{"/volume/"}
	req.Adjustment = &Adjustment{Unmount: []string{"/volume"}}
	for setting := range map[DeclaredVolumes]bool{DockerVolumes: true, DirectoryVolumes: true} {
		host := exampleHost
		host.DeclaredVolumes = setting
		req.VolumeDirs = map[string]VolumeDir{"/volume": {Path: "/dir"}}
		created, err := DockerContainer(req, host)
		if err != nil || len(created.HostConfig.Mounts) != len(req.Config.Mounts) || !cmp.Equal(created.Seam.Record.DroppedMounts, []string{"/volume"}) {
			t.Errorf("%s: removed: %+v, %v", setting, created, err)
		}
	}
	without := exampleHost
	without.SeamRuntime = ""
	if created, err := DockerContainer(req, without); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "/volume") || !strings.Contains(err.Error(), "cridock runtime install") {
		t.Errorf("removed without cridock-runtime: %+v, %v", created, err)
	}
	req.Adjustment.Mounts = []mount.Mount{{Type: mount.TypeTmpfs, Target: "/volume"}}
	if created, err := DockerContainer(req, without); err != nil || created.Seam != nil {
		t.Errorf("replaced: %+v, %v", created, err)
	}
}

// TestAdjustmentUnmet: what cridock-runtime would refuse at the start is refused before.
func TestAdjustmentUnmet(t *testing.T) {
	without := func(kind specs.LinuxNamespaceType) *seam.Spec {
		return &seam.Spec{RemoveNamespaces: []specs.LinuxNamespaceType{kind}}
	}
	plain := func(t *testing.T) ContainerRequest {
		return settingsRequest(t, &runtimeapi.LinuxContainerSecurityContext{})
	}
	for name, tc := range map[string]struct {
		request func(*testing.T) ContainerRequest
		spec    *seam.Spec
		change  func(*Host)
		want    string
	}{
		"network":         {inUserNamespaceRequest, without(specs.NetworkNamespace), nil, "host's network namespace"},
		"ipc":             {inUserNamespaceRequest, without(specs.IPCNamespace), nil, "host's ipc namespace"},
		"pid":             {inUserNamespaceRequest, without(specs.PIDNamespace), nil, "host's pid namespace"},
		"cgroups":         {plain, without(specs.CgroupNamespace), func(h *Host) { h.Settings.WritableCgroups = []string{"crun"} }, "cgroup namespace"},
		"another's group": {plain, &seam.Spec{Namespaces: []specs.LinuxNamespace{{Type: specs.CgroupNamespace, Path: "/x"}}}, func(h *Host) { h.Settings.WritableCgroups = []string{"crun"} }, "cgroup namespace"},
		"devices":         {plain, &seam.Spec{Devices: []specs.LinuxDevice{{Path: "/dev/made", Type: "c"}}}, func(h *Host) { h.UsernsRemap = true }, "/dev/made"},
	} {
		t.Run(name, func(t *testing.T) {
			host, req := exampleHost, tc.request(t)
			if tc.change != nil {
				tc.change(&host)
			}
			req.Adjustment = &Adjustment{Spec: tc.spec}
			if created, err := DockerContainer(req, host); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%+v, %v", created, err)
			}
		})
	}
}
