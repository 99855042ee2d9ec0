package shim_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/mount"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine/enginetest"
)

const dataImage = "data:1"

// volumeNode returns a node of an engine without image mounts. Its data image
// has two layers, with a file in /sub.
func volumeNode(t *testing.T) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: mounts file systems")
	}
	return newNode(t, func(n *node) {
		n.docker.SetAPIVersion("1.45")
		n.cfg.ImageVolumeDir = filepath.Join(n.dir, "volumes")
		t.Cleanup(func() {
			err := unix.Unmount(n.cfg.ImageVolumeDir, unix.MNT_DETACH)
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				t.Error(err)
			}
		})
		upper, lower := filepath.Join(n.dir, "upper"), filepath.Join(n.dir, "lower")
		n.must(os.MkdirAll(filepath.Join(upper, "sub"), 0o755))
		n.must(os.MkdirAll(lower, 0o755))
		n.must(os.WriteFile(filepath.Join(upper, "sub/file"), []byte("data"), 0o600))
		n.docker.AddImage(dataImage, enginetest.Image{Layers: []string{upper, lower}})
		n.docker.AddImage("other-driver:1", enginetest.Image{})
		n.docker.AddImage("broken:1", enginetest.Image{Layers: []string{"/nowhere/diff"}})
	})
}

func withVolume(name, image, subPath string) *runtimeapi.ContainerConfig {
	cfg := containerConfig(name, "sleep", "1000")
	cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", Readonly: true, Image: &runtimeapi.ImageSpec{Image: image}, ImageSubPath: subPath}}
	return cfg
}

// volumeSource returns what Docker was told to mount.
func (n *node) volumeSource(id string) string {
	n.t.Helper()
	c, err := n.call().ContainerInspect(n.ctx, id)
	n.must(err)
	if len(c.HostConfig.Mounts) != 1 || c.HostConfig.Mounts[0].Type != mount.TypeBind || !c.HostConfig.Mounts[0].ReadOnly {
		n.t.Fatalf("mounts %+v, want one read-only bind", c.HostConfig.Mounts)
	}
	return c.HostConfig.Mounts[0].Source
}

// wantNoVolumes checks that there is no mount, and no container that holds the
// image of one.
func (n *node) wantNoVolumes(before []string) {
	n.t.Helper()
	entries, err := filepath.Glob(filepath.Join(n.cfg.ImageVolumeDir, "[^.]*"))
	n.must(err)
	if len(entries) > 0 {
		n.t.Errorf("mounts left: %q", entries)
	}
	if diff := cmp.Diff(before, n.docker.Containers()); diff != "" {
		n.t.Errorf("containers (-before +after):\n%s", diff)
	}
}

func TestImageVolume(t *testing.T) {
	n := volumeNode(t)
	pod := n.runPod(n.podConfig("pod"))
	before := n.docker.Containers()
	cfg := withVolume("a", dataImage, "sub")
	id := n.create(pod, cfg)
	source := n.volumeSource(id)
	if b, err := os.ReadFile(filepath.Join(source, "file")); err != nil || string(b) != "data" {
		t.Errorf("the file in the volume: %q, %v", b, err)
	}
	if again := n.create(pod, cfg); again != id {
		t.Errorf("the same request again made %s, want %s", again, id)
	}
	if got := n.status(id).Mounts[0].GetImage(); !strings.HasPrefix(got.GetImage(), "sha256:") || got.GetImageRef() != got.GetImage() {
		t.Errorf("image in the status: %v, want its ID, for image and image_ref", got)
	}
	n.startContainer(id)

	// A failed attempt must not remove the running container's volume.
	_, err := n.tryCreate(pod, cfg)
	wantCode(t, err, codes.AlreadyExists)
	if _, err := os.Stat(filepath.Join(source, "file")); err != nil {
		t.Errorf("the volume of the running container: %v", err)
	}
	_, err = n.images.RemoveImage(n.ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: dataImage}})
	wantCode(t, err, codes.FailedPrecondition, "volume")

	n.must(n.removeContainer(id))
	n.wantNoVolumes(before)
}

func TestImageVolumeRefused(t *testing.T) {
	n := volumeNode(t)
	pod := n.runPod(n.podConfig("pod"))
	before := n.docker.Containers()
	for name, c := range map[string]struct {
		image, sub string
		want       codes.Code
		words      string
	}{
		"no such image":           {"missing:1", "", codes.NotFound, "missing:1"},
		"no such sub-path":        {dataImage, "nothing", codes.FailedPrecondition, "nothing"},
		"sub-path of a file":      {dataImage, "sub/file", codes.FailedPrecondition, "not a directory"},
		"sub-path outside":        {dataImage, "../lower", codes.InvalidArgument, "image_sub_path"},
		"layers that are gone":    {"broken:1", "", codes.NotFound, "/nowhere/diff"},
		"another storage driver ": {"other-driver:1", "", codes.FailedPrecondition, "28.0"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := n.tryCreate(pod, withVolume("a", c.image, c.sub))
			wantCode(t, err, c.want, "ImageVolumeMountFailed: ", c.words)
			n.wantNoVolumes(before)
		})
	}
}

// TestImageVolumeRollback: whichever call fails, nothing is left behind.
func TestImageVolumeRollback(t *testing.T) {
	n := volumeNode(t)
	pod := n.runPod(n.podConfig("pod"))
	n.must(n.removeContainer(n.create(pod, containerConfig("warm", "true")))) // reads the accounts
	before := n.docker.Containers()
	for nth := 1; nth <= 2; nth++ {
		n.docker.FailNext("container create", nth, http.StatusInternalServerError, "no space left")
		_, err := n.tryCreate(pod, withVolume("a", dataImage, "sub"))
		wantCode(t, err, codes.Internal, "no space left")
		n.wantNoVolumes(before)
	}
}

// TestImageVolumesOverRestart: volumes in use stay; those of containers removed
// in the meantime are removed.
func TestImageVolumesOverRestart(t *testing.T) {
	n := volumeNode(t)
	pod := n.runPod(n.podConfig("pod"))
	used := n.runContainer(pod, withVolume("used", dataImage, ""))
	before := n.docker.Containers()
	source := n.volumeSource(used)
	gone := n.create(pod, withVolume("gone", dataImage, ""))
	goneSource := n.volumeSource(gone)
	n.stop()
	n.must(n.call().ContainerRemove(n.ctx, gone))
	n.start()
	if _, err := os.Stat(filepath.Join(source, "sub/file")); err != nil {
		t.Errorf("the volume in use: %v", err)
	}
	if _, err := os.Stat(goneSource); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the volume of the container that is gone: %v, want it gone", err)
	}
	if diff := cmp.Diff(before, n.docker.Containers()); diff != "" {
		t.Errorf("containers (-before +after):\n%s", diff)
	}
	n.must(n.removeContainer(used))
	if _, err := os.Stat(source); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the volume of the removed container: %v, want it gone", err)
	}
}

// TestImageVolumeLabel: containers inherit an image's labels, so the label
// alone does not make a container cridock's to remove.
func TestImageVolumeLabel(t *testing.T) {
	n := volumeNode(t)
	owner := strings.Repeat("0a", 10)
	for name, label := range map[string]string{
		"mine": owner, "climbs": "../" + owner, "cridock_image-volume_" + owner: owner, "cridock_image-volume_other_" + owner: owner,
	} {
		n.foreign(name, map[string]string{"io.cridock.image-volume": label})
	}
	before := n.docker.Containers()
	n.stop()
	n.start()
	if diff := cmp.Diff(before, n.docker.Containers()); diff != "" {
		t.Errorf("containers (-before +after):\n%s", diff)
	}
}

// TestImageVolumeNative: an engine with image mounts does the mounting; cridock
// still checks the sub-path.
func TestImageVolumeNative(t *testing.T) {
	var id string
	n := newNode(t, func(n *node) {
		n.docker.SetAPIVersion("1.48")
		n.cfg.ImageVolumeDir = filepath.Join(n.dir, "volumes")
		id = n.docker.AddImage(dataImage, enginetest.Image{Files: map[string]string{"/sub/file": "data", "/sub/empty": ""}})
	})
	pod := n.runPod(n.podConfig("pod"))
	before := n.docker.Containers()
	for sub, words := range map[string]string{"nothing": "not in image", "sub/file": "not a directory", "sub/empty": "not a directory"} {
		_, err := n.tryCreate(pod, withVolume("a", dataImage, sub))
		wantCode(t, err, codes.FailedPrecondition, "ImageVolumeMountFailed: ", sub, words)
		n.wantNoVolumes(before)
	}

	c, err := n.call().ContainerInspect(n.ctx, n.create(pod, withVolume("a", dataImage, "sub")))
	n.must(err)
	want := []mount.Mount{{Type: mount.TypeImage, Source: id, Target: "/data", ReadOnly: true, ImageOptions: &mount.ImageOptions{Subpath: "sub"}}}
	if diff := cmp.Diff(want, c.HostConfig.Mounts); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}
