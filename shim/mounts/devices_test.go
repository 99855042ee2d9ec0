package mounts_test

import (
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestDevices: a device is itself, a directory all device nodes below it.
func TestDevices(t *testing.T) {
	n := newNode(t)
	n.write("dev/file", "")
	n.must(os.Mkdir(n.path("dev/sub"), 0o755))
	for _, name := range []string{"dev/null", "dev/sub/null"} {
		if err := unix.Mknod(n.path(name), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
			t.Fatalf("needs root: %v", err)
		}
	}
	resolved, err := n.Resolve(t.Context(), &runtimeapi.ContainerConfig{Devices: []*runtimeapi.Device{
		{HostPath: "/dev/null", ContainerPath: "/dev/one", Permissions: "r"},
		{HostPath: n.path("dev"), ContainerPath: "/dev/all", Permissions: "rw"},
	}}, "", "c")
	n.must(err)
	want := []container.DeviceMapping{
		{PathOnHost: "/dev/null", PathInContainer: "/dev/one", CgroupPermissions: "r"},
		{PathOnHost: n.path("dev/null"), PathInContainer: "/dev/all/null", CgroupPermissions: "rw"},
		{PathOnHost: n.path("dev/sub/null"), PathInContainer: "/dev/all/sub/null", CgroupPermissions: "rw"},
	}
	if diff := cmp.Diff(want, resolved.Devices); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
}

func TestDevicesRefused(t *testing.T) {
	n := newNode(t)
	file := n.write("file", "")
	for path, is := range map[string]func(error) bool{
		n.path("missing"): errdefs.IsFailedPrecondition,
		file + "/below":   errdefs.IsFailedPrecondition,
		file:              errdefs.IsInvalidArgument,
	} {
		_, err := n.Resolve(t.Context(), &runtimeapi.ContainerConfig{Devices: []*runtimeapi.Device{
			{HostPath: path, ContainerPath: "/dev/x", Permissions: "r"},
		}}, "", "c")
		if !is(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
