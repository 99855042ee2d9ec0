package shim_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/system"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/needs"
	"github.com/cridock/cridock/shim/engine/enginetest"
	"github.com/cridock/cridock/translate"
)

// newVolumeNode is a node with the setting and an image that declares volumes.
func newVolumeNode(t *testing.T, setting translate.DeclaredVolumes, seamRuntime bool) *node {
	t.Helper()
	return newNode(t, func(n *node) {
		n.docker.AddImage("volumes:1", enginetest.Image{Config: ocispec.ImageConfig{Volumes: map[string]struct{}{"/a": {}, "/b/": {}, "/../../escape": {}}}})
		n.cfg.DeclaredVolumes, n.cfg.SeamDir = setting, filepath.Join(n.dir, "run")
		if seamRuntime {
			n.docker.SetInfo(func(i *system.Info) {
				i.Runtimes["cridock"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "/usr/local/bin/cridock-runtime"}}
				i.Runtimes["runc"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "/usr/bin/runc"}}
			})
		}
	})
}

// ofVolumes is a container of that image.
func ofVolumes(name string, attempt uint32) *runtimeapi.ContainerConfig {
	cfg := containerConfig(name, "pause")
	cfg.Metadata.Attempt, cfg.Image = attempt, &runtimeapi.ImageSpec{Image: "volumes:1"}
	return cfg
}

// devices returns the directories of a container's volumes, by their paths in it, and how
// many Docker does not fill.
func (n *node) devices(id string) (dirs map[string]string, kept int) {
	n.t.Helper()
	c, err := n.call().ContainerInspect(n.ctx, id)
	n.must(err)
	dirs = map[string]string{}
	for _, m := range c.HostConfig.Mounts {
		if m.Type != mount.TypeVolume || m.Source != "" {
			continue
		}
		dirs[m.Target] = m.VolumeOptions.DriverConfig.Options["device"]
		if info, err := os.Stat(dirs[m.Target]); err != nil || !info.IsDir() {
			n.t.Errorf("the directory for %s: %v, %v", m.Target, info, err)
		}
		if m.VolumeOptions.NoCopy {
			kept++
		}
	}
	return dirs, kept
}

// TestVolumeDirectories: a container has the same directories after a restart, as no other
// one has, until its pod is removed.
func TestVolumeDirectories(t *testing.T) {
	n := newVolumeNode(t, translate.DirectoryVolumes, false)
	pod, other := n.runPod(n.podConfig("web")), n.runPod(n.podConfig("other"))
	first := n.create(pod, ofVolumes("main", 0))
	dirs, kept := n.devices(first)
	if len(dirs) != 3 || dirs["/escape"] == "" || kept != 0 {
		t.Fatalf("%v, %d kept", dirs, kept)
	}
	for _, dir := range dirs {
		if match, err := filepath.Match(filepath.Join(n.cfg.RootDir, "sandboxes", "*", "volumes", "*", "*"), dir); err != nil || !match {
			t.Errorf("the directory is %s, %v", dir, err)
		}
	}
	if again := n.create(pod, ofVolumes("main", 0)); again != first {
		t.Errorf("a repeated request created %s", again)
	}
	if got := n.status(first).Mounts; len(got) > 0 {
		t.Errorf("the status has %v", got)
	}
	n.must(n.removeContainer(first))
	n.stop()
	n.start()
	again, kept := n.devices(n.create(pod, ofVolumes("main", 1)))
	if diff := cmp.Diff(dirs, again); diff != "" || kept != 3 {
		t.Errorf("restarted, with %d kept: %s", kept, diff)
	}
	seen := map[string]bool{}
	for _, id := range []string{first, n.create(pod, ofVolumes("second", 0)), n.create(other, ofVolumes("main", 0))} {
		list := dirs
		if id != first {
			list, _ = n.devices(id)
		}
		for _, dir := range list {
			if seen[dir] {
				t.Errorf("%s is used twice", dir)
			}
			seen[dir] = true
		}
	}
	n.must(n.removePod(pod))
	n.must(n.removePod(other))
	if left, err := os.ReadDir(filepath.Join(n.cfg.RootDir, "sandboxes")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestVolumeDirectoryUnfinished: what a creation that failed was filling is not used again,
// and nothing is left of it.
func TestVolumeDirectoryUnfinished(t *testing.T) {
	n := newVolumeNode(t, translate.DirectoryVolumes, false)
	pod := n.runPod(n.podConfig("web"))
	n.docker.LoseAnswer("container create", 1)
	_, err := n.tryCreate(pod, ofVolumes("main", 0))
	wantCode(t, err, codes.Unavailable)
	n.docker.FailNext("container create", 1, http.StatusInternalServerError, "no space left on device")
	_, err = n.tryCreate(pod, ofVolumes("other", 0))
	wantCode(t, err, codes.ResourceExhausted)
	left, err := filepath.Glob(filepath.Join(n.cfg.RootDir, "sandboxes", "*", "volumes", "*", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v, %v are left", left, err)
	}
	for _, name := range []string{"main", "other"} {
		if dirs, kept := n.devices(n.create(pod, ofVolumes(name, 0))); len(dirs) != 3 || kept != 0 {
			t.Errorf("%v, %d kept", dirs, kept)
		}
	}
}

// TestMountedVolume: where something is mounted there is no directory, and a later
// container without that mount gets what the image has there.
func TestMountedVolume(t *testing.T) {
	n := newVolumeNode(t, translate.DirectoryVolumes, false)
	pod := n.runPod(n.podConfig("web"))
	cfg := ofVolumes("main", 0)
	cfg.Mounts = []*runtimeapi.Mount{{HostPath: n.dir, ContainerPath: "/a"}}
	id := n.create(pod, cfg)
	if dirs, _ := n.devices(id); len(dirs) != 2 || dirs["/a"] != "" {
		t.Errorf("%v", dirs)
	}
	// All but the file "kept".
	if left, err := filepath.Glob(filepath.Join(n.cfg.RootDir, "sandboxes", "*", "volumes", "*", "[!k]*")); err != nil || len(left) != 2 {
		t.Errorf("there are the directories %v, %v", left, err)
	}
	if dirs, kept := n.devices(n.create(pod, ofVolumes("main", 1))); len(dirs) != 3 || kept != 2 {
		t.Errorf("%v, %d kept", dirs, kept)
	}
}

// TestVolumeOwner: a directory that the image does not have belongs to the root of the
// user namespace into which the engine puts the container. Without knowing it, none is made.
func TestVolumeOwner(t *testing.T) {
	needs.Root(t, "changes owners")
	remapped := func(rootDir string) *node {
		return newNode(t, func(n *node) {
			n.docker.AddImage("volumes:1", enginetest.Image{Config: ocispec.ImageConfig{Volumes: map[string]struct{}{"/a": {}}}})
			n.cfg.DeclaredVolumes = translate.DirectoryVolumes
			n.docker.SetInfo(func(i *system.Info) {
				i.SecurityOptions, i.DockerRootDir = append(i.SecurityOptions, "name=userns"), rootDir
			})
		})
	}
	for _, rootDir := range []string{"/var/lib/docker", "/var/lib/docker/100000", "/var/lib/docker/100000.200000.1", "/var/lib/docker/-1.200000"} {
		n := remapped(rootDir)
		_, err := n.tryCreate(n.runPod(n.podConfig("web")), ofVolumes("main", 0))
		wantCode(t, err, codes.FailedPrecondition, "UID.GID", "/a")
	}
	n := remapped("/var/lib/docker/100000.200000")
	host := n.podConfig("host")
	host.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
	for cfg, want := range map[*runtimeapi.PodSandboxConfig]string{n.podConfig("web"): "100000:200000", host: "0:0"} {
		dirs, _ := n.devices(n.create(n.runPod(cfg), ofVolumes("main", 0)))
		info, err := os.Stat(dirs["/a"])
		n.must(err)
		st := info.Sys().(*syscall.Stat_t)
		if got := fmt.Sprintf("%d:%d", st.Uid, st.Gid); got != want {
			t.Errorf("%s: the directory belongs to %s, want %s", cfg.Metadata.Name, got, want)
		}
	}
}

// TestVolumesIgnored: cridock-runtime drops them, and without it the image can't be used.
func TestVolumesIgnored(t *testing.T) {
	n := newVolumeNode(t, translate.NoVolumes, true)
	pod := n.runPod(n.podConfig("web"))
	record, err := n.record(n.create(pod, ofVolumes("main", 0)))
	n.must(err)
	if diff := cmp.Diff([]string{"/a", "/b", "/escape"}, record.DroppedMounts); diff != "" {
		t.Error(diff)
	}
	n = newVolumeNode(t, translate.NoVolumes, false)
	_, err = n.tryCreate(n.runPod(n.podConfig("web")), ofVolumes("main", 0))
	wantCode(t, err, codes.FailedPrecondition, "cridock runtime install", "/a")
}
