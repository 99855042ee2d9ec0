package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// disk is a small file system on a node.
type disk struct {
	n   *node
	dir string
}

// newDisk mounts a disk on the node; it is removed with the node.
func (n *node) newDisk(t *testing.T, size string) *disk {
	t.Helper()
	dir := filepath.Join(n.dir, "small")
	n.run(t, "mkdir", dir)
	n.run(t, "mount", "-t", "tmpfs", "-o", "mode=755,nr_inodes=10000,size="+size, "tmpfs", dir)
	return &disk{n, dir}
}

// seen returns how the test can reach a path on the node: the disk is not
// mounted in the test's own namespace.
func (n *node) seen(path string) string { return fmt.Sprintf("/proc/%d/root%s", n.pid, path) }

// fill uses up all bytes and all inodes, so that nothing can be written or
// created.
func (d *disk) fill(t *testing.T) {
	t.Helper()
	d.n.run(t, "sh", "-c", `cd "$1" && mkdir filling && cat /dev/zero 2>/dev/null >filling/bytes
		i=0; while true 2>/dev/null >filling/$i; do i=$((i+1)); done; true`, "sh", d.dir)
}

func (d *disk) free(t *testing.T) {
	t.Helper()
	d.n.run(t, "rm", "-rf", d.dir+"/filling")
}

const noSpace = "no space left on device"

// wantNoSpace wants an error that names the path that has no space left.
func wantNoSpace(t *testing.T, err error, path string) {
	t.Helper()
	wantCode(t, err, codes.ResourceExhausted, noSpace)
	if !strings.Contains(fmt.Sprint(err), path) {
		t.Errorf("error is %v; want the path %s in it", err, path)
	}
}

// linesAt reads CRI log files on the node, in order.
func (n *node) linesAt(t *testing.T, paths ...string) (lines []logLine) {
	t.Helper()
	for _, p := range paths {
		lines = append(lines, parseLog(t, []byte(read(t, n.seen(p))))...)
	}
	return lines
}

// awaitLast waits until a log ends with a line.
func (n *node) awaitLast(t *testing.T, path string, last any) {
	t.Helper()
	eventually(t, "the last line is in "+path, time.Minute, func() bool {
		b, err := os.ReadFile(n.seen(path))
		return err == nil && strings.HasSuffix(string(b), fmt.Sprintf(" %v\n", last))
	})
}

// counts prints numbers until /stop exists, then writes the last one to /count.
const counts = "i=0; until [ -e /stop ]; do i=$((i+1)); echo $i; usleep 500; done; echo $i >/count; exec sleep 1000"

// stopCounting returns the last number.
func (c *ctr) stopCounting() int {
	c.t.Helper()
	last, err := strconv.Atoi(c.sh("touch /stop; until [ -s /count ]; do sleep 0.1; done; cat /count"))
	if err != nil {
		c.t.Fatal(err)
	}
	return last
}

// TestLogDiskFull fills the disk with the logs: what cannot be written now is
// written later, and nothing else is affected.
func TestLogDiskFull(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni", metricsFlags...)
	d := c.newDisk(t, "24m")
	before := c.warmUp(t)
	t.Run("pods", func(t *testing.T) {
		logsTo := func(name string) podOption {
			return func(cfg *runtimeapi.PodSandboxConfig) { cfg.LogDirectory = d.dir + "/" + name }
		}
		p := c.runPod(t, logsTo("pod"))
		counting := p.start("counting", counts)
		eventually(t, "it counts", time.Minute, func() bool {
			s, err := os.Stat(c.seen(counting.logPath()))
			return err == nil && s.Size() > 0
		})
		created := p.create("created", "echo started")
		short := p.start("short", "until [ -e /stop ]; do sleep 0.1; done; seq 20000")
		d.fill(t)
		eventually(t, "the log cannot be written", time.Minute, func() bool {
			return strings.Contains(c.logOf(counting.id), noSpace)
		})

		_, err := try(c.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: created.id})
		wantNoSpace(t, err, created.logPath())
		if s := created.status(); s.State != runtimeapi.ContainerState_CONTAINER_CREATED {
			t.Errorf("it did not start and is %v", s.State)
		}
		other := c.podConfig(t, logsTo("other"))
		_, err = try(c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: other})
		wantNoSpace(t, err, other.LogDirectory)
		c.checkGone(t, other.Metadata.Uid, "")
		rotated := counting.logPath() + ".20060102-150405"
		if err := os.Rename(c.seen(counting.logPath()), c.seen(rotated)); err != nil {
			t.Fatal(err)
		}
		_, err = try(c.runtime.ReopenContainerLog, &runtimeapi.ReopenContainerLogRequest{ContainerId: counting.id})
		wantNoSpace(t, err, counting.logPath())
		// It exits while its output is still unwritten.
		short.sh("touch /stop")
		if s := short.exited(); s.ExitCode != 0 {
			t.Errorf("exit code %d", s.ExitCode)
		}

		d.free(t)
		rpc(t, c.runtime.ReopenContainerLog, &runtimeapi.ReopenContainerLogRequest{ContainerId: counting.id})
		last := counting.stopCounting()
		c.awaitLast(t, counting.logPath(), last)
		checkSequence(t, c.linesAt(t, rotated, counting.logPath()), last)
		c.awaitLast(t, short.logPath(), 20000)
		checkSequence(t, c.linesAt(t, short.logPath()), 20000)
		rpc(t, c.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: created.id})
		c.awaitLast(t, created.logPath(), "started")
		c.runPod(t, func(retry *runtimeapi.PodSandboxConfig) {
			retry.Metadata, retry.LogDirectory = other.Metadata, other.LogDirectory
		})
	})
	c.checkNothingLeft(t, before)
}

// TestRootDirectoryFull fills the disk with cridock's own state: what needs new
// state is refused, everything else works, even after a kill, and no log line
// is lost or repeated.
func TestRootDirectoryFull(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	d := n.newDisk(t, "1m")
	root := d.dir + "/root"
	c := newCridock(t, n, "cni", append(metricsFlags[:2:2], "--root-directory="+root)...)
	before := c.warmUp(t)
	t.Run("pods", func(t *testing.T) {
		p, gone := c.runPod(t), c.runPod(t)
		counting, created := p.start("counting", counts), p.create("created", "echo started")
		gone.start("main", "sleep 1000")
		eventually(t, "it counts", time.Minute, func() bool {
			b, err := os.ReadFile(counting.logPath())
			return err == nil && len(b) > 0
		})
		d.fill(t)

		refused := c.podConfig(t)
		_, err := try(c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: refused})
		wantNoSpace(t, err, root)
		c.checkGone(t, refused.Metadata.Uid, "")
		_, err = try(c.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: created.id})
		wantNoSpace(t, err, root)
		update := &runtimeapi.UpdateContainerResourcesRequest{ContainerId: counting.id, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 512}}
		if _, err = try(c.runtime.UpdateContainerResources, update); err != nil {
			wantNoSpace(t, err, root)
		}
		works := func() {
			t.Helper()
			if counting.sh("echo works") != "works" || counting.status().State != runtimeapi.ContainerState_CONTAINER_RUNNING || p.status().State != runtimeapi.PodSandboxState_SANDBOX_READY {
				t.Error("a pod that runs does not work")
			}
		}
		works()
		c.restart(t, nil)
		works()
		gone.remove()
		c.checkGone(t, gone.cfg.Metadata.Uid, gone.id)
		// Fill up what was freed.
		d.free(t)
		d.fill(t)
		eventually(t, "the log goes on without a place for its position", time.Minute, func() bool {
			before := len(counting.logLines())
			time.Sleep(100 * time.Millisecond)
			return len(counting.logLines()) > before
		})

		d.free(t)
		last := counting.stopCounting()
		n.awaitLast(t, counting.logPath(), last)
		checkSequence(t, counting.logLines(), last)
		rpc(t, c.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: created.id})
		n.awaitLast(t, created.logPath(), "started")
		rpc(t, c.runtime.UpdateContainerResources, update)
		c.runPod(t, func(retry *runtimeapi.PodSandboxConfig) { retry.Metadata = refused.Metadata })
	})
	c.checkNothingLeft(t, before)
	for _, kind := range []string{"sandboxes", "containers"} {
		if left, err := entries(n.seen(root + "/" + kind)); err != nil || len(left) > 0 {
			t.Errorf("left in the root directory: %v, %v", left, err)
		}
	}
}

// TestDockerDataFull fills the disk with Docker's data. Docker drops what is
// printed meanwhile; everything that it does keep is in the log once.
func TestDockerDataFull(t *testing.T) {
	t.Parallel()
	var d *disk
	e := newOwnEngineOn(t, func(e *ownEngine) {
		d = e.newDisk(t, "64m")
		e.args = append(e.args, "--data-root", d.dir+"/data")
	})
	c := installCridock(t, e.node, "cni", append(metricsFlags[:2:2], "--docker-endpoint=unix://"+e.socket())...)
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	before := c.warmUp(t)
	t.Run("pods", func(t *testing.T) {
		p, gone := c.runPod(t), c.runPod(t)
		counting := p.start("counting", "i=0; until [ -e /dev/shm/stop ]; do i=$((i+1)); echo $i; usleep 10000; done; echo $i >/dev/shm/count; exec sleep 1000")
		gone.start("main", "sleep 1000")
		eventually(t, "it counts", time.Minute, func() bool {
			b, err := os.ReadFile(counting.logPath())
			return err == nil && len(b) > 0
		})
		d.fill(t)
		// An already allocated page still has room for a while.
		eventually(t, "Docker keeps nothing more", time.Minute, func() bool {
			before := len(counting.logLines())
			time.Sleep(200 * time.Millisecond)
			return len(counting.logLines()) == before
		})

		refused := c.podConfig(t)
		_, err := try(c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: refused})
		wantNoSpace(t, err, d.dir)
		c.checkGone(t, refused.Metadata.Uid, "")
		_, err = p.tryCreate(p.ctrConfig("refused", "true"))
		wantNoSpace(t, err, d.dir)
		if p.status().State != runtimeapi.PodSandboxState_SANDBOX_READY || counting.status().State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Error("a pod that runs is not seen running")
		}
		gone.remove()
		c.checkGone(t, gone.cfg.Metadata.Uid, gone.id)

		d.free(t)
		grows := len(counting.logLines())
		eventually(t, "the log goes on", time.Minute, func() bool { return len(counting.logLines()) > grows+10 })
		last, err := strconv.Atoi(counting.sh("touch /dev/shm/stop; until [ -s /dev/shm/count ]; do sleep 0.1; done; cat /dev/shm/count"))
		if err != nil {
			t.Fatal(err)
		}
		e.awaitLast(t, counting.logPath(), last)
		number := 0
		for _, l := range counting.logLines() {
			if now, err := strconv.Atoi(l.text); err != nil || now <= number {
				t.Fatalf("after %d comes %q", number, l.text)
			} else {
				number = now
			}
		}
		p.start("refused", "true").exited()
		c.runPod(t, func(retry *runtimeapi.PodSandboxConfig) { retry.Metadata = refused.Metadata })
	})
	c.checkNothingLeft(t, before)
}
