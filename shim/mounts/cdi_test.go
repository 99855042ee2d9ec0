package mounts_test

import (
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/seam"
	"github.com/cridock/cridock/translate"
)

const vendorSpec = `
cdiVersion: 0.5.0
kind: vendor.io/null
containerEdits: {env: [ALL=1]}
devices:
- name: one
  containerEdits: {env: [ONE=1], deviceNodes: [{path: /dev/one, hostPath: /dev/null}]}
- name: two
  containerEdits: {env: [TWO=1]}
- name: hooked
  containerEdits: {env: [HOOKED=1], hooks: [{hookName: createRuntime, path: /bin/true}]}
`

// cdiDevices resolves devices of a vendor's specification.
func (n *node) cdiDevices(names ...string) (*translate.CDIEdits, error) {
	cfg := &runtimeapi.ContainerConfig{}
	for _, name := range names {
		cfg.CDIDevices = append(cfg.CDIDevices, &runtimeapi.CDIDevice{Name: "vendor.io/null=" + name})
	}
	r, err := n.Resolve(n.t.Context(), cfg, "", "c")
	return r.CDI, err
}

// TestCDIDevices: for an engine without CDI all edits are resolved, those common to
// the devices of a specification once.
func TestCDIDevices(t *testing.T) {
	n := newNode(t)
	n.write("own/vendor.yaml", vendorSpec)
	n.options.CDISpecDirs = []string{n.path("own")}
	n.restart()
	if got, err := n.cdiDevices(); got != nil || err != nil {
		t.Errorf("no devices: %+v, %v; want nil", got, err)
	}
	got, err := n.cdiDevices("one", "two")
	n.must(err)
	want := &translate.CDIEdits{
		Env:     []string{"ALL=1", "ONE=1", "TWO=1"},
		Devices: []container.DeviceMapping{{PathOnHost: "/dev/null", PathInContainer: "/dev/one", CgroupPermissions: "rwm"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("edits (-want +got):\n%s", diff)
	}
	if _, err := n.cdiDevices("missing"); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "vendor.io/null=missing") {
		t.Errorf("%v, want ErrFailedPrecondition with the device", err)
	}
}

// TestCDIHooks: hooks run as root of the node, so only root can choose them.
func TestCDIHooks(t *testing.T) {
	n := newNode(t)
	spec, hook := n.write("own/vendor.yaml", strings.ReplaceAll(vendorSpec, "/bin/true", n.path("hook"))), n.write("hook", "#!/bin/sh\n")
	n.options.CDISpecDirs = []string{n.path("own")}
	n.restart()
	got, err := n.cdiDevices("hooked")
	n.must(err)
	if diff := cmp.Diff([]seam.Hook{{Name: "createRuntime", Path: hook}}, got.Hooks); diff != "" {
		t.Error(diff)
	}
	for _, path := range []string{spec, hook} {
		n.must(os.Chmod(path, 0o666))
		if _, err := n.cdiDevices("hooked"); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "vendor.io/null=hooked") || !strings.Contains(err.Error(), path+" is writable") {
			t.Errorf("%s is everybody's: %v", path, err)
		}
		_, err := n.cdiDevices("one") // has no hooks
		n.must(err)
		n.must(os.Chmod(path, 0o600))
	}
}

// TestCDIDevicesInjected: an engine with CDI makes all edits, from its own
// directories; exec sessions still need the environment.
func TestCDIDevicesInjected(t *testing.T) {
	n := newNode(t)
	n.write("engine/vendor.yaml", vendorSpec)
	n.options.CDISpecDirs = []string{n.path("own")}
	n.restart()
	n.host.CDI = true
	n.docker.caps.CDISpecDirs = []string{n.path("engine")}
	got, err := n.cdiDevices("one", "hooked")
	n.must(err)
	if diff := cmp.Diff(&translate.CDIEdits{Env: []string{"ALL=1", "ONE=1", "HOOKED=1"}}, got); diff != "" {
		t.Errorf("edits (-want +got):\n%s", diff)
	}
}
