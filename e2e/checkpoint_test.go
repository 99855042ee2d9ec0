package e2e

import (
	"archive/tar"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/needs"
)

func (c *ctr) checkpoint(location string) error {
	_, err := try(c.runtime.CheckpointContainer, &runtimeapi.CheckpointContainerRequest{ContainerId: c.id, Location: location})
	return err
}

// TestCheckpointUnimplemented: by default, an engine is not experimental.
func TestCheckpointUnimplemented(t *testing.T) {
	t.Parallel()
	main := sharedCridock(t, "cni").runPod(t).start("main", "sleep 1000")
	location := filepath.Join(t.TempDir(), "main.tar")
	wantCode(t, main.checkpoint(location), codes.Unimplemented, "experimental")
	if _, err := os.Stat(location); err == nil {
		t.Error("there is an archive all the same")
	}
}

// needCRIU ends a test on a machine without CRIU.
func (n *node) needCRIU(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("criu"); err != nil {
		t.Skip("no CRIU, which Debian 12 does not have; hack/matrix.sh brings that of later releases")
	}
	out, err := n.command("criu", "check").CombinedOutput()
	needs.That(t, err == nil, "needs a kernel for CRIU: %v: %s", err, out)
}

// TestCheckpoint needs CRIU on the node, and a kernel that CRIU supports.
func TestCheckpoint(t *testing.T) {
	t.Parallel()
	n := newNode(t, "--experimental")
	n.needCRIU(t)
	c := newCridock(t, n, "cni")
	p := c.runPod(t)
	data := t.TempDir()
	main := p.start("main", "echo remembered >/root/file; rm /etc/group; trap 'echo $n >/data/last' USR1; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done",
		func(cfg *runtimeapi.ContainerConfig) {
			cfg.Mounts = []*runtimeapi.Mount{{HostPath: data, ContainerPath: "/data"}}
			cfg.Envs = []*runtimeapi.KeyValue{{Key: "WHAT", Value: []byte("in-the-specification")}}
		})
	for range 2 {
		checkCheckpoint(t, main)
	}
	var list []any
	if c.docker.must(t, http.MethodGet, "/containers/"+main.id+"/checkpoints", nil, &list); len(list) > 0 {
		t.Errorf("Docker keeps %v", list)
	}
	if left, err := globs(filepath.Join(c.root(), "containers", "*", "checkpoint")); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	checkFailedCheckpoint(t, p)
}

// TestCheckpointUserNamespace is TestCheckpoint for a container in a user namespace.
func TestCheckpointUserNamespace(t *testing.T) {
	t.Parallel()
	n := newNode(t, "--experimental")
	n.needCRIU(t)
	u := newUsernsTestOn(t, n)
	if err := u.start(); err != nil {
		t.Fatal(err)
	}
	u.mustRegister(t)
	u.restart(t, nil)
	main := u.runPod(t, inUserNamespace(100000)).start("main", "echo remembered >/root/file; rm /etc/group; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done",
		func(cfg *runtimeapi.ContainerConfig) {
			cfg.Envs = []*runtimeapi.KeyValue{{Key: "WHAT", Value: []byte("in-the-specification")}}
		})
	checkCheckpoint(t, main)
}

// checkCheckpoint takes a checkpoint of a container that writes "line N", has the file
// /root/file and no /etc/group. It runs on.
func checkCheckpoint(t *testing.T, main *ctr) {
	t.Helper()
	eventually(t, "it works", time.Minute, func() bool { return strings.Contains(main.logText(), "line 3") })
	location := filepath.Join(t.TempDir(), "main.tar")
	if err := main.checkpoint(location); err != nil {
		t.Fatal(err)
	}
	checkArchive(t, main, location)
	lines := strings.Count(main.logText(), "\n")
	eventually(t, "it works on", time.Minute, func() bool { return strings.Count(main.logText(), "\n") > lines+2 })
	if s := main.status(); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("afterwards it is %v", s.State)
	}
}

func checkArchive(t *testing.T, main *ctr, location string) {
	t.Helper()
	f, err := os.Open(location)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	files := readTar(t, f)
	for name, word := range map[string]string{
		"checkpoint/inventory.img": "", "checkpoint/pages-1.img": "", "config.dump": main.id, "status.dump": main.id,
		"spec.dump": "in-the-specification", "container.log": "line 3",
	} {
		if content, ok := files[name]; !ok || !strings.Contains(content, word) {
			t.Errorf("%s (there: %v) has no %q", name, ok, word)
		}
	}
	layer := readTar(t, strings.NewReader(files["rootfs-diff.tar"]))
	if _, ok := layer["etc/.wh.group"]; layer["root/file"] != "remembered\n" || !ok {
		t.Errorf("the writable layer has %v", layer)
	}
}

func readTar(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	files := map[string]string{}
	for r := tar.NewReader(r); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(b)
	}
}

// checkFailedCheckpoint: CRIU refuses processes with an open connection.
func checkFailedCheckpoint(t *testing.T, p *pod) {
	t.Helper()
	talker := p.start("talker", "sleep 1000 | nc -l -p 99 & until cat /proc/net/tcp* | grep -q ' 0A '; do sleep 0.1; done; sleep 1000 | nc 127.0.0.1 99")
	eventually(t, "they talk", time.Minute, func() bool {
		r, err := talker.exec(10, "sh", "-c", "grep -c ' 01 ' /proc/net/tcp")
		return err == nil && r.ExitCode == 0
	})
	location := filepath.Join(t.TempDir(), "talker.tar")
	if err := talker.checkpoint(location); status.Code(err) != codes.Internal {
		t.Errorf("error = %v, want CRIU's", err)
	}
	if _, err := os.Stat(location); err == nil {
		t.Error("there is an archive all the same")
	}
	talker.sh("true") // it has not been left paused
}

// counting is a script whose state is in its memory.
const counting = "echo remembered >/root/file; rm /etc/group; trap 'echo $n >/data/last' USR1; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done"

// TestRestore: what a container does goes on in another pod.
func TestRestore(t *testing.T) {
	t.Parallel()
	n := newNode(t, "--experimental")
	n.needCRIU(t)
	dir := t.TempDir()
	c := newCridock(t, n, "cni", "--checkpoint-images="+dir+"/*,localhost/hostile/checkpoint-*")
	data := t.TempDir()
	mounted := func(cfg *runtimeapi.ContainerConfig) {
		cfg.Mounts = []*runtimeapi.Mount{{HostPath: data, ContainerPath: "/data"}}
	}
	p := c.runPod(t)
	old := p.start("old", counting, mounted)
	eventually(t, "it works", time.Minute, func() bool { return strings.Contains(old.logText(), "line 30\n") })
	archive := filepath.Join(dir, "old.tar")
	if err := old.checkpoint(archive); err != nil {
		t.Fatal(err)
	}
	rpc(t, c.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: old.id})

	of := func(ref string) ctrOption {
		return func(cfg *runtimeapi.ContainerConfig) { mounted(cfg); cfg.Image.Image = ref }
	}
	if driver := c.dockerInfo(t).Driver; driver != "overlay2" {
		_, err := p.tryCreate(p.ctrConfig("other-driver", "sh", of(archive)))
		wantCode(t, err, codes.Unimplemented, driver)
		return
	}
	image := c.load(t, "checkpoint-old", nil, checkpointFiles(t, archive)...)
	hidden := c.load(t, "hidden", labelled(map[string]string{"org.criu.checkpoint.container.name": "old"}), checkpointFiles(t, archive)...)
	for name, ref := range map[string]string{"archive": archive, "image": image} {
		t.Run(name, func(t *testing.T) { checkRestored(t, c, ref, data, mounted) })
	}
	_, err := p.tryCreate(p.ctrConfig("hidden", "sh", of(hidden)))
	wantCode(t, err, codes.FailedPrecondition, "checkpoint-images")
	_, err = p.tryCreate(p.ctrConfig("unmounted", "sh", func(cfg *runtimeapi.ContainerConfig) { cfg.Image.Image = archive }))
	wantCode(t, err, codes.FailedPrecondition, `missing: ["/data"]`)

	never := p.create("never", "sh", of(archive))
	rpc(t, c.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: never.id})
	files := checkpointFiles(t, archive)
	for i, f := range files {
		if f.Name == "checkpoint/core-1.img" {
			files[i] = regular(f.Name, 0o600, "broken")
		}
	}
	checkFailedRestore(t, p, of(c.load(t, "checkpoint-broken", nil, files...)))
}

// checkpointFiles are the files of an archive as the files of an image.
func checkpointFiles(t *testing.T, archive string) (files []entry) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	files = append(files, directory("checkpoint"))
	for name, content := range readTar(t, f) {
		if !strings.HasSuffix(name, "/") {
			files = append(files, regular(name, 0o600, content))
		}
	}
	return files
}

func checkRestored(t *testing.T, c *cridock, ref, data string, mounted ctrOption) {
	t.Helper()
	p := c.runPod(t)
	main := p.create("main", "exit 1", mounted, func(cfg *runtimeapi.ContainerConfig) {
		cfg.Image.Image = ref
		cfg.Labels = map[string]string{"of": "the request"}
	})
	if err := c.kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	if again, err := p.tryCreate(main.cfg); err != nil || again != main.id {
		t.Errorf("the repeated call returns %s, %v; want %s", again, err, main.id)
	}
	rpc(t, c.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: main.id})
	lines := strings.Count(main.logText(), "\n")
	eventually(t, "it goes on", time.Minute, func() bool { return strings.Count(main.logText(), "\n") > lines+20 })
	s := main.status()
	if s.State != runtimeapi.ContainerState_CONTAINER_RUNNING || s.Labels["of"] != "the request" {
		t.Errorf("its status is %v", s)
	}
	if got := main.sh("cat /root/file; ls /etc/group || true"); got != "remembered" {
		t.Errorf("its files: %q", got)
	}
	if own, pod := main.sh("cat /sys/class/net/eth0/address"), p.start("other", "sleep 1000").sh("cat /sys/class/net/eth0/address"); own != pod {
		t.Errorf("its network is %s, of the pod %s", own, pod)
	}
	if group := c.cgroupOf(t, main.id); !strings.Contains(group, main.id) {
		t.Errorf("its cgroup is %s", group)
	}
	checkCounted(t, main)
	main.sh("kill -USR1 1")
	eventually(t, "its trap works", time.Minute, func() bool { _, err := os.Stat(filepath.Join(data, "last")); return err == nil })
	if err := os.Remove(filepath.Join(data, "last")); err != nil {
		t.Fatal(err)
	}
	if left, err := globs(filepath.Join(c.dockerInfo(t).DockerRootDir, "containers", "*", "checkpoints", "*")); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	rpc(t, c.runtime.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: main.id})
	if s := main.exited(); s.ExitCode != 137 {
		t.Errorf("it exits with %d", s.ExitCode)
	}
}

// checkCounted: the log counts lines from the old container's first on. It may go back
// once: containerd copies a log when the old container has written more than its processes
// in the checkpoint.
func checkCounted(t *testing.T, main *ctr) {
	t.Helper()
	last, back := 0, false
	for line := range strings.Lines(main.logText()) {
		n, err := strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(line), "line "))
		if goesBack := last > 0 && n > 0 && n <= last; err != nil || n != last+1 && (!goesBack || back) {
			t.Fatalf("%q after line %d", line, last)
		} else if goesBack {
			back = true
		}
		last = n
	}
	if last < 40 {
		t.Errorf("only %d lines are in the log", last)
	}
}

// checkFailedRestore: a checkpoint that CRIU cannot restore.
func checkFailedRestore(t *testing.T, p *pod, broken ctrOption) {
	t.Helper()
	c := p.create("broken", "sh", broken)
	_, err := try(p.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: c.id})
	wantCode(t, err, codes.Unknown, "criu failed")
	s := c.status()
	t.Logf("error %v, status %v", err, s)
	if s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode == 0 || !strings.Contains(s.Message, "criu failed") {
		t.Errorf("its status is %v", s)
	}
	rpc(t, p.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: c.id})
}

// cgroupOf returns the cgroups of a container's first process.
func (n *node) cgroupOf(t *testing.T, id string) string {
	t.Helper()
	var c struct{ State struct{ Pid int } }
	n.docker.must(t, http.MethodGet, "/containers/"+id+"/json", nil, &c)
	return n.run(t, "cat", "/proc/"+strconv.Itoa(c.State.Pid)+"/cgroup")
}

// engineInfo is a part of what the engine says about itself.
type engineInfo struct{ Driver, DockerRootDir string }

func (n *node) dockerInfo(t *testing.T) (info engineInfo) {
	t.Helper()
	n.docker.must(t, http.MethodGet, "/info", nil, &info)
	return info
}

// TestRestoreFromContainerd: what a container of containerd does goes on in a pod of
// cridock's. CRIDOCK_E2E_CONTAINERD is as for TestNRIContainerd.
func TestRestoreFromContainerd(t *testing.T) {
	containerd := containerdPrograms(t)
	t.Parallel()
	flags := runtimeFlags(t)
	n := newNode(t, append(flags, "--experimental")...)
	n.needCRIU(t)
	image, pause := n.imagesOfBoth(t)

	dir, data := t.TempDir(), t.TempDir()
	c := newCridock(t, n, "cni", "--checkpoint-images="+dir+"/*")
	theirs := newContainerd(t, c, containerd, pause, flags)
	theirs.pull(t, image)
	c.pull(t, image)
	of := func(image string) ctrOption {
		return func(cfg *runtimeapi.ContainerConfig) {
			cfg.Image = &runtimeapi.ImageSpec{Image: image}
			cfg.Mounts = []*runtimeapi.Mount{{HostPath: data, ContainerPath: "/data"}}
		}
	}
	p := &pod{cridock: theirs, t: t, cfg: c.podConfig(t)}
	p.id = rpc(t, theirs.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: p.cfg}).PodSandboxId
	t.Cleanup(p.remove)
	old := p.start("old", counting, of(image))
	eventually(t, "it works", time.Minute, func() bool { return strings.Contains(old.logText(), "line 30\n") })
	archive := filepath.Join(dir, "old.tar")
	if err := old.checkpoint(archive); err != nil {
		t.Fatal(err)
	}
	p.remove()
	if driver := c.dockerInfo(t).Driver; driver != "overlay2" {
		p := c.runPod(t)
		_, err := p.tryCreate(p.ctrConfig("other-driver", "sh", of(archive)))
		wantCode(t, err, codes.Unimplemented, driver)
		return
	}
	checkRestored(t, c, archive, data, of(archive))
}
