package mounts_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/storage"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// volumeNode is a node of an engine without image mounts, which has an image of two
// layers named data.
func volumeNode(t *testing.T) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: mounts file systems")
	}
	n := newNode(t)
	n.write("upper/sub/file", "data")
	n.write("lower/file", "lower")
	n.docker.images["data"] = image.InspectResponse{GraphDriver: storage.DriverData{
		Name: "overlay2", Data: map[string]string{"UpperDir": n.path("upper"), "LowerDir": n.path("lower")},
	}}
	n.docker.images["other"] = image.InspectResponse{GraphDriver: storage.DriverData{Name: "btrfs"}}
	return n
}

func volume(imageID, subPath string) *runtimeapi.Mount {
	return &runtimeapi.Mount{ContainerPath: "/data", Readonly: true, Image: &runtimeapi.ImageSpec{Image: imageID}, ImageSubPath: subPath}
}

// mount mounts the data image for a container and returns the source.
func (n *node) mount(name string) string {
	n.t.Helper()
	got, err := n.resolve(name, volume("data", ""))
	n.must(err)
	return got[0].Source
}

// holder is the name of the container that holds the data image for a container.
func holder(name string) string { return "cridock_image-volume_" + hash(name) + "_" + hash("data") }

func (n *node) wantContainers(want ...string) {
	n.t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, n.docker.names()); diff != "" {
		n.t.Errorf("containers (-want +got):\n%s", diff)
	}
}

func (n *node) wantMounted(source string, want bool) {
	n.t.Helper()
	_, err := os.Stat(filepath.Join(source, "sub/file"))
	if err == nil != want || err != nil && !errors.Is(err, os.ErrNotExist) {
		n.t.Errorf("%s is mounted: %v, want %v", source, err, want)
	}
}

// TestArtifactVolume: an artifact is a directory, on every engine, and has none in it.
func TestArtifactVolume(t *testing.T) {
	n := volumeNode(t)
	n.artifacts = map[string]string{"data": n.dir}
	for _, n.host.ImageMounts = range []bool{false, true} {
		for _, sub := range []string{"", "."} {
			got, err := n.resolve("c", volume("data", sub))
			n.must(err)
			if diff := cmp.Diff([]translate.ResolvedMount{{ImageID: "data", Source: n.dir}}, got); diff != "" {
				t.Errorf("mounts (-want +got):\n%s", diff)
			}
		}
		if _, err := n.resolve("c", volume("data", "file")); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "no directories") {
			t.Errorf("a sub-path: %v", err)
		}
	}
	n.wantContainers()
}

func TestImageVolume(t *testing.T) {
	n := volumeNode(t)
	got, err := n.resolve("c", volume("data", "sub"))
	n.must(err)
	if b, err := os.ReadFile(filepath.Join(got[0].Source, "file")); err != nil || string(b) != "data" || got[0].ImageID != "data" {
		t.Errorf("%+v with file %q, %v", got, b, err)
	}
	again, err := n.resolve("c", volume("data", "sub"))
	if diff := cmp.Diff(got, again); err != nil || diff != "" {
		t.Errorf("the same again: %v (-first +second):\n%s", err, diff)
	}
	source, other := filepath.Dir(got[0].Source), n.mount("other")

	n.create("c")
	n.must(n.Release(t.Context(), "c"))
	n.wantMounted(source, true)
	delete(n.pods.byID, "c")
	for range 2 {
		n.must(n.Release(t.Context(), "c"))
		n.wantMounted(source, false)
		n.wantMounted(other, true)
		n.wantContainers(holder("other"))
	}
}

// TestImageVolumeRefused: the error has the reason that the kubelet shows, and
// Release removes what is left.
func TestImageVolumeRefused(t *testing.T) {
	n := volumeNode(t)
	n.must(os.Symlink("/", n.path("upper/root")))
	for name, c := range map[string]struct {
		image, sub string
		is         func(error) bool
		words      string
	}{
		"no such image":          {"missing", "", errdefs.IsNotFound, "missing"},
		"no such sub-path":       {"data", "nothing", errdefs.IsFailedPrecondition, "nothing"},
		"sub-path of a file":     {"data", "sub/file", errdefs.IsFailedPrecondition, "not a directory"},
		"a file of the node":     {"data", "root" + n.path("upper"), errdefs.IsFailedPrecondition, "not in image"},
		"another storage driver": {"other", "", errdefs.IsFailedPrecondition, "overlay2"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := n.resolve("c", volume(c.image, c.sub))
			var reason *translate.ReasonError
			if !errors.As(err, &reason) || reason.Reason != translate.ReasonImageVolumeMountFailed {
				t.Errorf("%v has no reason", err)
			}
			if !c.is(err) || !strings.Contains(err.Error(), "mounts[0].image") || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v", err)
			}
			n.must(n.Release(t.Context(), "c"))
			n.wantContainers()
		})
	}
}

// TestHoldBeforeMount: layers are mounted only while they cannot be removed.
func TestHoldBeforeMount(t *testing.T) {
	n := volumeNode(t)
	n.docker.fail = map[string]error{"create": errdefs.ErrUnavailable}
	if _, err := n.resolve("c", volume("data", "")); !errdefs.IsUnavailable(err) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
	if left := n.names("volumes"); len(left) > 0 {
		t.Errorf("mounted %q", left)
	}
}

// TestReleaseAgain: the next attempt finds what could not be removed, even
// after a restart.
func TestReleaseAgain(t *testing.T) {
	n := volumeNode(t)
	first, second := n.mount("first"), n.mount("second")
	for _, call := range []string{"list", "remove"} {
		n.docker.fail = map[string]error{call: errdefs.ErrUnavailable}
		if err := n.Release(t.Context(), "first"); !errdefs.IsUnavailable(err) {
			t.Errorf("Release while %s fails: %v", call, err)
		}
		n.wantMounted(first, true)
	}
	n.docker.fail = nil
	n.must(n.Release(t.Context(), "first"))
	n.wantMounted(first, false)
	n.restart()
	n.must(n.Sweep(t.Context()))
	n.wantMounted(second, false)
	n.wantContainers()
}

// TestReleaseWithoutIndex: without knowing the containers nothing is released.
func TestReleaseWithoutIndex(t *testing.T) {
	n := volumeNode(t)
	source := n.mount("c")
	n.restart()
	n.pods.lost = errdefs.ErrUnavailable
	if err := errors.Join(n.Release(t.Context(), "c"), n.Sweep(t.Context())); !errdefs.IsUnavailable(err) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
	n.wantMounted(source, true)
	n.wantContainers(holder("c"))
}

// TestSweepVolumes: volumes in use stay. Those of removed containers are
// removed, and so are holders whose mounts a reboot has removed, at the latest with
// their containers. Other containers stay, even with similar names.
func TestSweepVolumes(t *testing.T) {
	n := volumeNode(t)
	gone, kept := n.mount("gone"), n.mount("kept")
	n.create("kept")
	foreign := []string{"cridock_image-volume_" + hash("gone"), "cridock_image-volume_other_" + hash("data"), "x" + holder("gone"), "cridock_image-volume_" + hash("gone") + "_notes"}
	for _, name := range foreign {
		n.docker.containers[name] = name
	}
	n.restart()
	fresh := n.mount("new") // Docker does not have its container yet
	n.must(n.Sweep(t.Context()))
	n.wantMounted(gone, false)
	n.wantMounted(kept, true)
	n.wantMounted(fresh, true)
	want := append([]string{holder("kept"), holder("new")}, foreign...)
	n.wantContainers(want...)

	n.must(unix.Unmount(n.options.ImageVolumeDir, unix.MNT_DETACH))
	n.restart()
	n.must(n.Sweep(t.Context()))
	n.wantContainers(append([]string{holder("kept")}, foreign...)...)
	delete(n.pods.byID, "kept")
	n.must(n.Release(t.Context(), "kept"))
	n.wantContainers(foreign...)
	if left := n.names("volumes"); len(left) != 1 { // the empty layer
		t.Errorf("the store has %q", left)
	}
}

// TestSweepGoesOn: image volumes that cannot be swept do not prevent the sweep
// of specifications.
func TestSweepGoesOn(t *testing.T) {
	n := optionNode(t)
	_, err := n.resolve("gone", n.withOptions()...)
	n.must(err)
	n.restart()
	n.docker.fail = map[string]error{"list": errdefs.ErrUnavailable}
	if err := n.Sweep(t.Context()); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "image volumes") {
		t.Errorf("%v, want ErrUnavailable of image volumes", err)
	}
	n.wantSpecs("of the container that is gone")
}

// TestImageVolumeNative: the engine does the mounting, but would mount a file
// too.
func TestImageVolumeNative(t *testing.T) {
	n := newNode(t)
	n.host.ImageMounts = true
	n.docker.images["data"] = image.InspectResponse{}
	isNil := func(err error) bool { return err == nil }
	notDirectory := func(err error) bool {
		return errdefs.IsFailedPrecondition(err) && strings.Contains(err.Error(), "not a directory")
	}
	missing := func(err error) bool {
		return errdefs.IsFailedPrecondition(err) && !errdefs.IsNotFound(err) && strings.Contains(err.Error(), "not in image")
	}
	for name, c := range map[string]struct {
		sub  string
		file error
		is   func(error) bool
	}{
		"whole":         {"", errdefs.ErrUnavailable, isNil},
		"a directory":   {"sub", errdefs.ErrInvalidArgument, isNil},
		"a file":        {"sub", errdefs.ErrOutOfRange, notDirectory},
		"an empty file": {"sub", nil, notDirectory},
		"missing":       {"sub", errdefs.ErrNotFound, missing},
		"no answer":     {"sub", errdefs.ErrUnavailable, errdefs.IsUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			n.docker.file = c.file
			got, err := n.resolve("c", volume("data", c.sub))
			if !c.is(err) {
				t.Fatalf("%v", err)
			}
			if diff := cmp.Diff([]translate.ResolvedMount{{ImageID: "data"}}, got); err == nil && diff != "" {
				t.Errorf("mounts (-want +got):\n%s", diff)
			}
		})
	}
	n.wantContainers()
}
