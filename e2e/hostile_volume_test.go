package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var volumeAttacks = []attack{
	{"a local user runs what an image volume has", setuidInVolume},
	{"a sub-path leads out of an image volume", subPaths},
}

var labelRestarts = []restartAttack{
	{"labels of an image have its containers removed", markedContainers},
	{"a label of an image is a path", markedByPath},
	{"a label of an image names another's volume", markedByOwner},
}

// imageVolume mounts an image in a container.
func imageVolume(image, sub string) ctrOption {
	return func(cfg *runtimeapi.ContainerConfig) {
		cfg.Mounts = append(cfg.Mounts, &runtimeapi.Mount{ContainerPath: "/volume", Readonly: true, Image: &runtimeapi.ImageSpec{Image: image}, ImageSubPath: sub})
	}
}

// imageMountsByDocker: since API 1.48, Docker mounts images itself, below its
// own directories.
func (c *cridock) imageMountsByDocker(t *testing.T) bool {
	t.Helper()
	return c.docker.apiMinor(t) >= 48
}

// volumeMounts returns the mounts of image volumes.
func (c *cridock) volumeMounts(t *testing.T) (all []string) {
	t.Helper()
	mounts, err := c.mounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if strings.HasPrefix(m, c.imageVolumes()+"/") {
			all = append(all, m)
		}
	}
	return all
}

// setuidInVolume runs a setuid program of an image volume as a local user, by
// its path on the node.
func setuidInVolume(t *testing.T, p *pod) {
	if p.imageMountsByDocker(t) {
		t.Skip("Docker mounts images itself")
	}
	program, err := os.ReadFile("/usr/bin/id")
	if err != nil {
		t.Fatal(err)
	}
	image := p.load(t, "setuid", nil, directory("data"), regular("data/file", 0o644, "content\n"),
		regular("data/id", 0o4755, string(program)), device("data/null", 1, 3))
	before := p.volumeMounts(t)
	c := p.start("setuid", "cat /volume/data/file; exec sleep 100000", imageVolume(image, ""), func(cfg *runtimeapi.ContainerConfig) {
		cfg.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 65534}
	})
	eventuallyLog(t, c, "content")
	mounts := slices.DeleteFunc(p.volumeMounts(t), func(m string) bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d/root%s/data/id", p.pid, m))
		return slices.Contains(before, m) || err != nil
	})
	if len(mounts) != 1 {
		t.Fatalf("the image is mounted on %q", mounts)
	}
	// The test's directories are accessible to root alone, unlike those of a node:
	// the user starts where /run/cridock would be. setpriv itself still has root's
	// capabilities; the program that it runs has none.
	as := func(dir, program string) (string, error) {
		out, err := p.command("sh", "-c", `cd "$0" && exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -c 'exec "$@"' sh "$@"`, dir, program, "-u").CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if out, err := as(p.dir, "/usr/bin/id"); err != nil || out != "65534" {
		t.Fatalf("the local user is %q, %v", out, err)
	}
	relative, err := filepath.Rel(p.dir, mounts[0])
	if err != nil {
		t.Fatal(err)
	}
	if out, err := as(p.dir, "./"+relative+"/data/id"); err == nil || !strings.Contains(out, "Permission denied") {
		t.Errorf("a local user can run programs of the volume: %q, %v", out, err)
	}
	// In case it got there anyway.
	if out, err := as(mounts[0], "./data/id"); err == nil && out != "65534" {
		t.Errorf("a local user runs a setuid program of the volume as user %s", out)
	}
	if out, err := p.command("dd", "if="+mounts[0]+"/data/null", "count=0").CombinedOutput(); err == nil {
		t.Errorf("a device of the volume can be opened: %s", out)
	}
	if got := p.output("sub-path", "cat /volume/file", imageVolume(image, "data"), func(cfg *runtimeapi.ContainerConfig) {
		cfg.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 65534}
	}); got != "content\n" {
		t.Errorf("below a sub-path there is %q", got)
	}
}

func subPaths(t *testing.T, p *pod) {
	dir, before := outside(t)
	const up = "../../../../../../../../../../../../../../../.."
	image := p.load(t, "sub-paths", nil, directory("data"), regular("data/file", 0o644, "content\n"),
		symlink("data/absolute", dir), symlink("data/relative", up+dir), symlink("data/twice", "relative"), symlink("data/self", "self"), symlink("data/process", "/proc/self/root"))
	for i, sub := range []string{
		"..", "../..", "data/../..", up + dir, "data/absolute", "data/relative", "data/twice", "data/twice/secret", "data/self", "data/process" + dir, "data/relative/../outside", dir, "/", "data\x00/..",
	} {
		cfg := p.ctrConfig(fmt.Sprint("escape-", i), "ls -aR /volume; cat /volume /volume/secret; true", imageVolume(image, sub))
		id, err := p.tryCreate(cfg)
		if err == nil {
			_, err = try(p.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
		}
		if err != nil {
			continue
		}
		c := &ctr{pod: p, id: id, cfg: cfg}
		c.exited()
		if out := c.logText(); strings.Contains(out, "secret\n") && !strings.Contains(out, "No such file") {
			t.Errorf("sub-path %q shows what is not in the image: %q", sub, out)
		}
	}
	if got := p.output("no-escape", "cat /volume/file", imageVolume(image, "data")); got != "content\n" {
		t.Errorf("an ordinary sub-path has %q", got)
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("outside (-before +after):\n%s", diff)
	}
}

// ownMarks are the labels that mark cridock's internal containers.
var ownMarks = []string{"io.cridock.image-volume", "io.cridock.probe"}

// markedContainers has these labels on containers of pods and on others.
func markedContainers(t *testing.T, c *cridock) (func(), func(*testing.T)) {
	p := c.runPod(t)
	ids := map[string]string{}
	for i, mark := range ownMarks {
		for j, value := range []string{"forged", ""} {
			image := c.load(t, fmt.Sprintf("marked-%d-%d", i, j), labelled(map[string]string{mark: value}))
			what := fmt.Sprintf("%s=%q", mark, value)
			ids["pod's container, "+what] = p.start(fmt.Sprintf("marked-%d-%d", i, j), "exec sleep 100000", ofImage(image)).id
			ids["container of docker run, "+what] = c.dockerRun(t, image, "exec sleep 100000")
		}
	}
	return nil, func(t *testing.T) {
		for what, id := range ids {
			if !c.runs(id) {
				t.Errorf("cridock's start has removed a %s", what)
			}
		}
	}
}

// markedByPath has a label that leads out of the directory of image volumes to
// a symbolic link, which the pod creates while its container is being removed.
func markedByPath(t *testing.T, c *cridock) (func(), func(*testing.T)) {
	dir, _ := outside(t)
	if err := os.Mkdir(filepath.Join(dir, "mounted"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	c.run(t, "mount", "-t", "tmpfs", "hostile", filepath.Join(dir, "mounted"))
	t.Cleanup(func() { _ = c.command("umount", filepath.Join(dir, "mounted")).Run() }) // the attack may have unmounted it
	work := t.TempDir()
	relative, err := filepath.Rel(c.imageVolumes(), filepath.Join(work, "link"))
	if err != nil {
		t.Fatal(err)
	}
	image := c.load(t, "marked-path", labelled(map[string]string{"io.cridock.image-volume": relative}))
	p := c.runPod(t)
	// The other end of the pipe is closed when the marked container's process
	// exits.
	p.start("links", "mkfifo /work/alive; cat /work/alive; ln -s "+dir+" /work/link; exec sleep 100000", mounting(work, "/work"))
	marked := p.start("marked", "until [ -p /work/alive ]; do sleep 0.1; done; exec 3>/work/alive; echo ready; exec sleep 100000", ofImage(image), mounting(work, "/work"))
	eventuallyLog(t, marked, "ready")
	return nil, func(t *testing.T) {
		if !c.runs(marked.id) {
			t.Error("cridock's start has removed a pod's container")
		}
		if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
			t.Errorf("on the node (-before +after):\n%s", diff)
		}
		mounts, err := c.mounts()
		if err != nil || !slices.Contains(mounts, filepath.Join(dir, "mounted")) {
			t.Errorf("a mount of the node is gone, %v", err)
		}
	}
}

// markedByOwner has the label of cridock's own container for another pod's
// volume.
func markedByOwner(t *testing.T, c *cridock) (func(), func(*testing.T)) {
	if c.imageMountsByDocker(t) {
		return nil, func(t *testing.T) { t.Skip("Docker mounts images itself") }
	}
	volume := c.load(t, "owned", nil, directory("data"), regular("data/file", 0o644, "content\n"))
	before := c.volumeMounts(t)
	victim := c.runPod(t).start("victim", "exec sleep 100000", imageVolume(volume, ""))
	mounted := slices.DeleteFunc(c.volumeMounts(t), func(m string) bool { return slices.Contains(before, m) })
	if len(mounted) != 1 {
		t.Fatalf("the image is mounted on %q", mounted)
	}
	owner := filepath.Base(filepath.Dir(mounted[0]))
	image := c.load(t, "marked-owner", labelled(map[string]string{"io.cridock.image-volume": owner}))
	p := c.runPod(t)
	marked, removed := p.start("marked", "exec sleep 100000", ofImage(image)), p.start("removed", "exec sleep 100000", ofImage(image))
	return nil, func(t *testing.T) {
		checkRuns(t, "after the restart", marked.in(t), victim.in(t))
		rpc(t, c.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: removed.id})
		if !slices.Contains(c.volumeMounts(t), mounted[0]) || victim.in(t).sh("cat /volume/data/file") != "content" {
			t.Error("the other pod's volume has gone with a container that has its label")
		}
		rpc(t, c.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: victim.id})
		if slices.Contains(c.volumeMounts(t), mounted[0]) {
			t.Error("the volume has outlived its container")
		}
		if !c.runs(marked.id) {
			t.Error("a pod's container was removed with the volume of another")
		}
	}
}
