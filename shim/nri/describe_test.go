package nri

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// details are those of a container that Docker describes by hc.
func details(hc *container.HostConfig) ContainerDetails {
	return ContainerDetails{Docker: &container.InspectResponse{ContainerJSONBase: &container.ContainerJSONBase{HostConfig: hc}, Config: &container.Config{}}}
}

// TestPrivilegedDevices: a privileged container has the devices of the host, and those
// that it asks for in place of the host's, unless it has only the latter.
func TestPrivilegedDevices(t *testing.T) {
	find := func(c *api.Container, path string) (found []*api.LinuxDevice) {
		for _, d := range c.GetLinux().GetDevices() {
			if d.GetPath() == path {
				found = append(found, d)
			}
		}
		return found
	}
	for _, tc := range []struct{ privileged, hostDevices bool }{{true, true}, {true, false}, {false, true}} {
		d := details(&container.HostConfig{Privileged: tc.privileged, Resources: container.Resources{
			Devices: []container.DeviceMapping{{PathOnHost: "/dev/zero", PathInContainer: "/dev/full"}},
		}})
		d.HostDevices = tc.hostDevices
		c, err := Container(&translate.Container{}, nil, d)
		if err != nil {
			t.Fatal(err)
		}
		if got := find(c, "/dev/full"); len(got) != 1 || got[0].GetMinor() != 5 {
			t.Errorf("%+v: /dev/full is %v", tc, got)
		}
		want := 0
		if tc.privileged && tc.hostDevices {
			want = 1
		}
		if got := find(c, "/dev/null"); len(got) != want || want == 1 && (got[0].GetType() != "c" || got[0].GetMajor() != 1 || got[0].GetMinor() != 3) {
			t.Errorf("%+v: /dev/null is %v", tc, got)
		}
		for _, d := range c.GetLinux().GetDevices() {
			if d.GetPath() == "/dev/console" || filepath.Dir(d.GetPath()) == "/dev/pts" || d.GetType() != "c" && d.GetType() != "b" {
				t.Errorf("%+v: there is %v", tc, d)
			}
		}
		access := "ro"
		if tc.privileged {
			access = "rw"
		}
		for _, m := range c.GetMounts() {
			if path := m.GetDestination(); (path == "/sys" || path == "/sys/fs/cgroup") && !slices.Contains(m.GetOptions(), access) {
				t.Errorf("%+v: %v is not %s", tc, m, access)
			}
		}
	}
}

// TestInjectedCDI: an engine with CDI does not tell what CDI devices consist of.
func TestInjectedCDI(t *testing.T) {
	dir := t.TempDir()
	spec := `{"cdiVersion":"0.5.0","kind":"e2e.test/cdi","containerEdits":{"hooks":[{"hookName":"createRuntime","path":"/hook"}]},"devices":[{"name":"one",
 "containerEdits":{"env":["ONE=1"],"deviceNodes":[{"path":"/dev/one","hostPath":"/dev/zero"}],"mounts":[{"hostPath":"/host","containerPath":"/one","options":["ro"]}]}}]}`
	if err := os.WriteFile(filepath.Join(dir, "one.json"), []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	c := &translate.Container{User: &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{Uid: 1000}}}
	d := details(&container.HostConfig{Resources: container.Resources{DeviceRequests: []container.DeviceRequest{{Driver: "cdi", DeviceIDs: []string{"e2e.test/cdi=one"}}}}})
	d.CDISpecDirs = []string{dir}
	d.Adjustment = &api.ContainerAdjustment{}
	d.Adjustment.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: "/plugins"}}})
	got, err := Container(c, nil, d)
	if err != nil {
		t.Fatal(err)
	}
	devices := []*api.LinuxDevice{{Path: "/dev/one", Type: "c", Major: 1, Minor: 5, Uid: api.UInt32(uint32(1000))}}
	hooks := &api.Hooks{CreateRuntime: []*api.Hook{{Path: "/hook"}, {Path: "/plugins"}}}
	ignored := protocmp.IgnoreFields(&api.LinuxDevice{}, "file_mode")
	if diff := cmp.Diff(devices, got.GetLinux().GetDevices(), protocmp.Transform(), ignored) + cmp.Diff(hooks, got.GetHooks(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if m := got.GetMounts(); len(m) == 0 || m[len(m)-1].GetSource() != "/host" || m[len(m)-1].GetDestination() != "/one" {
		t.Errorf("the mounts are %v", m)
	}
	d.CDISpecDirs = nil
	if got, err := Container(c, nil, d); err == nil || len(got.GetLinux().GetDevices()) > 0 {
		t.Errorf("without a specification: %v, %v", got, err)
	}
}
