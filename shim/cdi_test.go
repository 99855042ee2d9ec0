package shim_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/system"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	specs "tags.cncf.io/container-device-interface/specs-go"
)

// cdiNode returns a node of an engine with CDI, and the directory from which it
// reads specifications.
func cdiNode(t *testing.T) (*node, string) {
	t.Helper()
	var dir string
	n := newNode(t, func(n *node) {
		dir = filepath.Join(n.dir, "cdi")
		n.docker.SetAPIVersion("1.51")
		n.docker.SetInfo(func(i *system.Info) { i.CDISpecDirs = []string{"/etc/cdi", dir} })
	})
	return n, dir
}

func (n *node) withOptions(name string, options ...string) *runtimeapi.ContainerConfig {
	cfg := containerConfig(name, "sleep", "1000")
	cfg.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/plain", HostPath: n.dir},
		{ContainerPath: "/data", HostPath: n.dir, Readonly: true, MountOptions: options},
	}
	return cfg
}

// specs reads the specifications that dockerd would.
func (n *node) specs(dir string) []map[string]any {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	n.must(err)
	var all []map[string]any
	for _, f := range files {
		b, err := os.ReadFile(f)
		n.must(err)
		var typed specs.Spec
		n.must(json.Unmarshal(b, &typed))
		if err := specs.ValidateVersion(&typed); err != nil {
			n.t.Errorf("dockerd would drop %s: %v", b, err)
		}
		var spec map[string]any
		n.must(json.Unmarshal(b, &spec))
		all = append(all, spec)
	}
	return all
}

func TestMountOptions(t *testing.T) {
	n, dir := cdiNode(t)
	status, err := n.runtime.Status(n.ctx, &runtimeapi.StatusRequest{})
	n.must(err)
	if !status.Features.MountOptions {
		t.Error("mount_options are not offered")
	}
	pod := n.runPod(n.podConfig("pod"))
	id := n.create(pod, n.withOptions("a", "noexec", "nosuid"))
	c, err := n.call().ContainerInspect(n.ctx, id)
	n.must(err)
	if len(c.HostConfig.Mounts) != 1 || c.HostConfig.Mounts[0].Target != "/plain" {
		t.Errorf("Docker's own mounts: %+v, want /plain alone", c.HostConfig.Mounts)
	}
	if len(c.HostConfig.DeviceRequests) != 1 || len(c.HostConfig.DeviceRequests[0].DeviceIDs) != 1 {
		t.Fatalf("device requests %+v, want one for one device", c.HostConfig.DeviceRequests)
	}
	all := n.specs(dir)
	if len(all) != 1 {
		t.Fatalf("%d specifications, want 1", len(all))
	}
	device := all[0]["devices"].([]any)[0].(map[string]any)
	if got, want := c.HostConfig.DeviceRequests[0].DeviceIDs[0], all[0]["kind"].(string)+"="+device["name"].(string); got != want {
		t.Errorf("device %s, want %s of the specification", got, want)
	}
	want := map[string]any{"mounts": []any{map[string]any{
		"hostPath": n.dir, "containerPath": "/data", "options": []any{"rbind", "rprivate", "ro", "noexec", "nosuid"},
	}}}
	if diff := cmp.Diff(want, device["containerEdits"]); diff != "" {
		t.Errorf("edits (-want +got):\n%s", diff)
	}
	if got := n.status(id).Mounts; len(got) != 2 || len(got[1].MountOptions) != 2 {
		t.Errorf("mounts in the status: %v", got)
	}
	n.must(n.removeContainer(id))
	if left := n.specs(dir); len(left) > 0 {
		t.Errorf("left after the container: %v", left)
	}
}

// TestMountOptionsOfMany: dockerd accepts the specification of a container with
// any name.
func TestMountOptionsOfMany(t *testing.T) {
	n, dir := cdiNode(t)
	pod := n.runPod(n.podConfig("pod"))
	const many = 16
	for i := range many {
		n.create(pod, n.withOptions(fmt.Sprint("c", i), "noexec"))
	}
	if all := n.specs(dir); len(all) != many {
		t.Errorf("%d specifications, want %d", len(all), many)
	}
}

func TestMountOptionsRollback(t *testing.T) {
	n, dir := cdiNode(t)
	pod := n.runPod(n.podConfig("pod"))
	n.must(n.removeContainer(n.create(pod, containerConfig("warm", "true"))))
	n.docker.FailNext("container create", 1, http.StatusInternalServerError, "no space left")
	_, err := n.tryCreate(pod, n.withOptions("a", "noexec"))
	wantCode(t, err, codes.Internal)
	if left := n.specs(dir); len(left) > 0 {
		t.Errorf("left after the failure: %v", left)
	}
}

// TestMountSpecsOverRestart: specifications of existing containers and of other
// programs stay; those of containers removed in the meantime are removed.
func TestMountSpecsOverRestart(t *testing.T) {
	n, dir := cdiNode(t)
	pod := n.runPod(n.podConfig("pod"))
	gone := n.create(pod, n.withOptions("gone", "nodev"))
	n.create(pod, n.withOptions("kept", "noexec"))
	n.must(os.WriteFile(filepath.Join(dir, "vendor.json"), []byte(`{"cdiVersion":"0.5.0","kind":"vendor.io/null","devices":[{"name":"one","containerEdits":{"env":["ONE=1"]}}]}`), 0o600))
	n.stop()
	n.must(n.call().ContainerRemove(n.ctx, gone))
	n.start()
	if left := n.specs(dir); len(left) != 2 {
		t.Errorf("left: %v; want the one of the container and the foreign one", left)
	}
}

func TestMountOptionsRefused(t *testing.T) {
	n := newNode(t)
	pod := n.runPod(n.podConfig("pod"))
	_, err := n.tryCreate(pod, n.withOptions("a", "noexec"))
	wantCode(t, err, codes.FailedPrecondition, "mounts[1].mount_options", "28.2")
}

// TestCDIDevicesResolved: cridock resolves a device if Docker cannot.
func TestCDIDevicesResolved(t *testing.T) {
	n := newNode(t, func(n *node) {
		dir := filepath.Join(n.dir, "cdi")
		n.cfg.CDISpecDirs = []string{dir}
		n.must(os.Mkdir(dir, 0o755))
		n.must(os.WriteFile(filepath.Join(dir, "vendor.yaml"), []byte(`
cdiVersion: 0.5.0
kind: vendor.io/null
containerEdits: {env: [ALL=1]}
devices:
- name: one
  containerEdits:
    env: [ONE=1]
    deviceNodes: [{path: /dev/one, hostPath: /dev/null}]
    mounts: [{hostPath: /etc, containerPath: /vendor, options: [ro, nosuid]}]
- name: hooked
  containerEdits: {hooks: [{hookName: createRuntime, path: /bin/true}]}
`), 0o600))
	})
	pod := n.runPod(n.podConfig("pod"))
	with := func(names ...string) *runtimeapi.ContainerConfig {
		cfg := containerConfig("a", "sleep", "1000")
		for _, name := range names {
			cfg.CDIDevices = append(cfg.CDIDevices, &runtimeapi.CDIDevice{Name: name})
		}
		return cfg
	}
	c, err := n.call().ContainerInspect(n.ctx, n.create(pod, with("vendor.io/null=one")))
	n.must(err)
	if diff := cmp.Diff([]string{"TOKEN=" + secret, "ALL=1", "ONE=1"}, c.Config.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	devices := []container.DeviceMapping{{PathOnHost: "/dev/null", PathInContainer: "/dev/one", CgroupPermissions: "rwm"}}
	if diff := cmp.Diff(devices, c.HostConfig.Devices); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	mounts := []mount.Mount{{Type: mount.TypeBind, Source: "/etc", Target: "/vendor", ReadOnly: true, BindOptions: &mount.BindOptions{}}}
	if diff := cmp.Diff(mounts, c.HostConfig.Mounts); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	for device, word := range map[string]string{"vendor.io/null=hooked": "hooks", "vendor.io/null=two": "vendor.io/null=two"} {
		_, err := n.tryCreate(pod, with(device))
		wantCode(t, err, codes.FailedPrecondition, word)
	}
}
