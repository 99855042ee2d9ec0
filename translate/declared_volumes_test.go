package translate

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestVolumePaths(t *testing.T) {
	got := VolumePaths(Image{Volumes: []string{"/b", "/a/", "/a", "/x/../../b", "", ".", "rel", "/", "/..", "/a\x00", "/c:/d", "/n\nl"}})
	if diff := cmp.Diff([]string{"/a", "/b", "/c:/d", "/n\nl"}, got); diff != "" {
		t.Error(diff)
	}
}

// volumeRequest is for a container of an image with volumes, on one of which the request
// mounts something, and a CDI device on another.
func volumeRequest(t *testing.T) ContainerRequest {
	t.Helper()
	req := settingsRequest(t, &runtimeapi.LinuxContainerSecurityContext{})
	req.Image.Volumes = []string{"/kept", "/mounted/", "/new/", "/options"}
	req.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/mounted", HostPath: "/host"}, {ContainerPath: "/options/", HostPath: "/host", MountOptions: []string{"noexec"}}}
	req.Mounts = []ResolvedMount{{}, {CDIDevice: "cridock/mount=one"}}
	return req
}

// declared returns the device of each volume, and whether Docker leaves it as it is.
func declared(c *Create) map[string]VolumeDir {
	out := map[string]VolumeDir{}
	for _, m := range c.HostConfig.Mounts {
		if m.Type == mount.TypeVolume && m.Source == "" {
			out[m.Target] = VolumeDir{Path: m.VolumeOptions.DriverConfig.Options["device"], Kept: m.VolumeOptions.NoCopy}
		}
	}
	return out
}

func TestDirectoryVolumes(t *testing.T) {
	host := exampleHost
	host.DeclaredVolumes = DirectoryVolumes
	req := volumeRequest(t)
	req.VolumeDirs = map[string]VolumeDir{"/kept": {"/dirs/kept", true}, "/new": {"/dirs/new", false}, "/mounted": {"/dirs/mounted", false}, "/options": {"/dirs/options", false}}
	created, err := DockerContainer(req, host)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]VolumeDir{"/kept": {"/dirs/kept", true}, "/new": {"/dirs/new", false}}, declared(created)); diff != "" || created.Seam != nil {
		t.Errorf("with cridock-runtime: %+v: %s", created.Seam, diff)
	}
	for path, dir := range req.VolumeDirs {
		if _, used := declared(created)[path]; created.HasVolumeDir(dir.Path) != used {
			t.Errorf("the container has %s: %t", dir.Path, !used)
		}
	}
	// A repeated request finds the directories kept.
	req.VolumeDirs["/new"] = VolumeDir{"/dirs/new", true}
	again, err := DockerContainer(req, host)
	if err != nil || again.Config.Labels[LabelRequest] != created.Config.Labels[LabelRequest] || !declared(again)["/new"].Kept {
		t.Errorf("repeated: %+v, %v", again, err)
	}
	req.VolumeDirs["/new"] = VolumeDir{"/dirs/other", false}
	if other, err := DockerContainer(req, host); err != nil || other.Config.Labels[LabelRequest] == created.Config.Labels[LabelRequest] {
		t.Errorf("with another directory: %+v, %v", other, err)
	}
}

func TestNoVolumes(t *testing.T) {
	host := exampleHost
	host.DeclaredVolumes = NoVolumes
	req := volumeRequest(t)
	created, err := DockerContainer(req, host)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/kept", "/new"}, created.Seam.Record.DroppedMounts); diff != "" || created.HostConfig.Runtime != "cridock" || len(declared(created)) > 0 {
		t.Errorf("%+v: %s", created, diff)
	}
	for _, volume := range []string{"/dev", "/dev/shm", "/proc/sys", "/sys", "/etc/hosts", "/", "relative"} {
		req.Image.Volumes = []string{volume}
		if created, err := DockerContainer(req, host); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), volume) {
			t.Errorf("%s: %+v, %v", volume, created, err)
		}
	}
	req.Image.Volumes = []string{"/mounted", "/options"}
	if created, err := DockerContainer(req, host); err != nil || created.Seam != nil {
		t.Errorf("with mounts on all volumes: %+v, %v", created, err)
	}
	host.SeamRuntime = ""
	if created, err := DockerContainer(req, host); err != nil {
		t.Errorf("the same without cridock-runtime: %+v, %v", created, err)
	}
	req.Image.Volumes = []string{"/new"}
	if created, err := DockerContainer(req, host); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "cridock runtime install") {
		t.Errorf("without cridock-runtime: %+v, %v", created, err)
	}
}

// TestDockerVolumes: by default, Docker makes them without being asked.
func TestDockerVolumes(t *testing.T) {
	host := exampleHost
	for _, host.DeclaredVolumes = range []DeclaredVolumes{"", DockerVolumes} {
		created, err := DockerContainer(volumeRequest(t), host)
		if err != nil || created.Seam != nil || len(declared(created)) > 0 {
			t.Errorf("%q: %+v, %v", host.DeclaredVolumes, created, err)
		}
	}
}

// TestAdoptedVolumes: nobody requested them.
func TestAdoptedVolumes(t *testing.T) {
	got := adoptedMounts(&container.HostConfig{Mounts: []mount.Mount{
		volumeOf("/volume", VolumeDir{Path: "/dir"}), {Type: mount.TypeBind, Source: "/host", Target: "/bind"},
	}})
	if len(got) != 1 || got[0].ContainerPath != "/bind" {
		t.Errorf("%v", got)
	}
}
