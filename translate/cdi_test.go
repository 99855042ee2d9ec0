package translate

import (
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cdi "tags.cncf.io/container-device-interface/specs-go"

	"github.com/cridock/cridock/internal/seam"
)

func TestCDIMount(t *testing.T) {
	host := fullHost
	host.DockerRootDir = "/var/lib/docker"
	mounted := func(change func(*runtimeapi.Mount)) *runtimeapi.Mount {
		m := &runtimeapi.Mount{ContainerPath: "/in/", HostPath: "/link", MountOptions: []string{"noexec", "nodev"}}
		change(m)
		return m
	}
	for name, tc := range map[string]struct {
		mount   *runtimeapi.Mount
		source  string
		options []string
	}{
		"private":             {mounted(func(*runtimeapi.Mount) {}), "/data", []string{"rbind", "rprivate", "noexec", "nodev"}},
		"read-only":           {mounted(func(m *runtimeapi.Mount) { m.Readonly = true }), "/data", []string{"rbind", "rprivate", "ro", "noexec", "nodev"}},
		"all read-only":       {mounted(func(m *runtimeapi.Mount) { m.Readonly, m.RecursiveReadOnly = true, true }), "/data", []string{"rbind", "rprivate", "rro", "noexec", "nodev"}},
		"from the host":       {mounted(func(m *runtimeapi.Mount) { m.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER }), "/data", []string{"rbind", "rslave", "noexec", "nodev"}},
		"Docker's own":        {mounted(func(*runtimeapi.Mount) {}), "/var/lib", []string{"rbind", "rslave", "noexec", "nodev"}},
		"source not resolved": {mounted(func(*runtimeapi.Mount) {}), "", []string{"rbind", "rprivate", "noexec", "nodev"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := CDIMount("mounts[0]", tc.mount, tc.source, "", host)
			if err != nil {
				t.Fatal(err)
			}
			want := &cdi.Mount{HostPath: tc.source, ContainerPath: "/in", Options: tc.options}
			if tc.source == "" {
				want.HostPath = "/link"
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	if got, err := CDIMount("mounts[0]", &runtimeapi.Mount{ContainerPath: "/in", HostPath: "/a"}, "/a", "", host); got != nil || err != nil {
		t.Errorf("a mount without options: %v, %v", got, err)
	}
	for name, m := range map[string]*runtimeapi.Mount{
		"an image":          mounted(func(m *runtimeapi.Mount) { m.Image = &runtimeapi.ImageSpec{Image: "a"} }),
		"both directions":   mounted(func(m *runtimeapi.Mount) { m.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL }),
		"what a bind lacks": mounted(func(m *runtimeapi.Mount) { m.Readonly, m.RecursiveReadOnly, m.HostPath = true, true, "/" }),
	} {
		if got, err := CDIMount("mounts[0]", m, m.HostPath, "", host); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v, %v; want ErrFailedPrecondition", name, got, err)
		}
	}
}

func TestCDIEdits(t *testing.T) {
	var got CDIEdits
	timeout := 5
	without, err := got.Append("v.io/c=1", &cdi.ContainerEdits{
		Env:         []string{"A=1"},
		Hooks:       []*cdi.Hook{{HookName: "createRuntime", Path: "/bin/a", Args: []string{"a"}, Env: []string{"X=1"}, Timeout: &timeout}, {HookName: "poststop", Path: "/bin/b"}},
		DeviceNodes: []*cdi.DeviceNode{{Path: "/dev/a"}, {Path: "/dev/b", HostPath: "/dev/host", Permissions: "r"}},
		Mounts: []*cdi.Mount{
			{HostPath: "/lib/x", ContainerPath: "/lib/y", Options: []string{"ro", "nosuid", "nodev", "bind"}},
			{HostPath: "/run/x", ContainerPath: "/run/x", Options: []string{"rbind", "rw", "rslave"}, Type: "bind"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := got.Append("v.io/c=2", &cdi.ContainerEdits{Env: []string{"B=2"}}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"nosuid", "nodev"}, without); diff != "" {
		t.Errorf("options that are missing:\n%s", diff)
	}
	want := CDIEdits{
		Env:   []string{"A=1", "B=2"},
		Hooks: []seam.Hook{{Name: "createRuntime", Path: "/bin/a", Args: []string{"a"}, Env: []string{"X=1"}, Timeout: 5}, {Name: "poststop", Path: "/bin/b"}},
		Devices: []container.DeviceMapping{
			{PathOnHost: "/dev/a", PathInContainer: "/dev/a", CgroupPermissions: "rwm"},
			{PathOnHost: "/dev/host", PathInContainer: "/dev/b", CgroupPermissions: "r"},
		},
		Mounts: []mount.Mount{
			{Type: mount.TypeBind, Source: "/lib/x", Target: "/lib/y", ReadOnly: true, BindOptions: &mount.BindOptions{NonRecursive: true}},
			{Type: mount.TypeBind, Source: "/run/x", Target: "/run/x", BindOptions: &mount.BindOptions{Propagation: mount.PropagationRSlave}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCDIEditsRefused(t *testing.T) {
	mode, id := os.FileMode(0o600), uint32(1)
	for name, edits := range map[string]*cdi.ContainerEdits{
		"a network device":      {NetDevices: []*cdi.LinuxNetDevice{{HostInterfaceName: "eth1", Name: "eth1"}}},
		"a resource class":      {IntelRdt: &cdi.IntelRdt{}},
		"a further group":       {AdditionalGIDs: []uint32{1}},
		"a device's mode":       {DeviceNodes: []*cdi.DeviceNode{{Path: "/dev/a", FileMode: &mode}}},
		"a device's owner":      {DeviceNodes: []*cdi.DeviceNode{{Path: "/dev/a", UID: &id}}},
		"no permissions":        {DeviceNodes: []*cdi.DeviceNode{{Path: "/dev/a", Permissions: "none"}}},
		"a file system":         {Mounts: []*cdi.Mount{{HostPath: "tmpfs", ContainerPath: "/a", Type: "tmpfs"}}},
		"an unknown option":     {Mounts: []*cdi.Mount{{HostPath: "/a", ContainerPath: "/a", Options: []string{"idmap"}}}},
		"options of tmpfs":      {Mounts: []*cdi.Mount{{HostPath: "/a", ContainerPath: "/a", Options: []string{"size=1"}}}},
		"a mount without a dir": {Mounts: []*cdi.Mount{{HostPath: "a", ContainerPath: "/a"}}},
	} {
		if _, err := new(CDIEdits).Append("v.io/c=1", edits); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v, want ErrFailedPrecondition", name, err)
		}
	}
}
