package shim_test

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/system"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine/enginetest"
)

// checkpointing is a node whose engine is experimental, with a running
// container to checkpoint and a location for the archive.
type checkpointing struct {
	*node
	id, location string
	spec         string // the file with the container's OCI specification
}

func newCheckpointing(t *testing.T) *checkpointing {
	n := newNode(t, func(n *node) {
		n.docker.SetInfo(func(i *system.Info) { i.ExperimentalBuild = true })
		n.docker.Program("serve", func(p *enginetest.Process) int {
			_, _ = io.WriteString(p.Stdout, "serving\n")
			select {
			case <-p.Signals:
			case <-p.Killed:
			}
			return 0
		})
	})
	id := n.create(n.runPod(n.podConfig("web")), containerConfig("main", "serve"))
	n.docker.SetUpperDir(id, t.TempDir())
	spec := n.actAsShim(id)
	n.startContainer(id)
	n.eventually("its output is in the log", func() bool {
		b, err := os.ReadFile(n.status(id).LogPath)
		return err == nil && strings.Contains(string(b), "serving")
	})
	return &checkpointing{n, id, filepath.Join(t.TempDir(), "main.tar"), spec}
}

const ociSpec = `{"ociVersion":"1.0.2"}`

// actAsShim starts a process as a child of another process, whose working
// directory is next to a container's bundle, and makes it the container's
// process. It returns the file with the container's OCI specification.
func (n *node) actAsShim(id string) (spec string) {
	n.t.Helper()
	state := n.t.TempDir()
	for _, dir := range []string{"sandbox", id} {
		n.must(os.Mkdir(filepath.Join(state, dir), 0o700))
	}
	spec = filepath.Join(state, id, "config.json")
	n.must(os.WriteFile(spec, []byte(ociSpec), 0o600))
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
	cmd.Dir = filepath.Join(state, "sandbox")
	out, err := cmd.StdoutPipe()
	n.must(err)
	n.must(cmd.Start())
	var pid int64
	n.must(json.NewDecoder(out).Decode(&pid))
	n.engine.app.Store(pid)
	n.t.Cleanup(func() {
		_ = unix.Kill(int(pid), unix.SIGKILL)
		_ = cmd.Wait()
	})
	return spec
}

func (c *checkpointing) checkpoint() error { return c.checkpointFor(0) }

func (c *checkpointing) checkpointFor(seconds int64) error {
	_, err := c.runtime.CheckpointContainer(c.ctx, &runtimeapi.CheckpointContainerRequest{ContainerId: c.id, Location: c.location, Timeout: seconds})
	return err
}

// checkpointFiles lists the directories of checkpoints in progress.
func (c *checkpointing) checkpointFiles() []string {
	left, err := filepath.Glob(filepath.Join(c.cfg.RootDir, "containers", "*", "checkpoint"))
	c.must(err)
	return left
}

// undone checks that the container continues, and that nothing is left except
// what was at the location before.
func (c *checkpointing) undone(t *testing.T, before string) {
	t.Helper()
	c.eventually("the container goes on", func() bool {
		r, err := c.call().ContainerInspect(c.ctx, c.id)
		return err == nil && !r.State.Paused && r.State.Running
	})
	c.eventually("nothing is left", func() bool {
		return len(c.checkpointFiles()) == 0
	})
	b, err := os.ReadFile(c.location)
	if before == "" && !errors.Is(err, os.ErrNotExist) || before != "" && string(b) != before {
		t.Errorf("at the location there is %q (%v), want %q", b, err, before)
	}
	c.noDrafts(t)
}

func (c *checkpointing) noDrafts(t *testing.T) {
	t.Helper()
	files, err := os.ReadDir(filepath.Dir(c.location))
	c.must(err)
	for _, f := range files {
		if f.Name() != filepath.Base(c.location) {
			t.Errorf("%s was left beside the archive", f.Name())
		}
	}
}

func untar(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	found := map[string]string{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = string(b)
	}
}

func TestCheckpointContainer(t *testing.T) {
	c := newCheckpointing(t)
	c.must(os.WriteFile(c.location, []byte("of an earlier one"), 0o644))
	c.must(c.checkpoint())
	files := untar(t, c.location)
	for name, word := range map[string]string{
		"checkpoint/inventory.img": c.id, "config.dump": `"name":"k8s_main_web_default_uid-web_0"`,
		"spec.dump": ociSpec, "status.dump": `"id":"` + c.id + `"`, "container.log": "serving", "rootfs-diff.tar": "",
	} {
		if content, ok := files[name]; !ok || !strings.Contains(content, word) {
			t.Errorf("%s = %q (%v), want %q in it", name, content, ok, word)
		}
		delete(files, name)
	}
	delete(files, "checkpoint/")
	if len(files) > 0 {
		t.Errorf("there is also %v", files)
	}
	if info, err := os.Stat(c.location); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the archive is %v, %v; want it to be its owner's alone", info.Mode(), err)
	}
	b, err := os.ReadFile(c.location)
	c.must(err)
	c.undone(t, string(b))
	if s := c.status(c.id); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("afterwards it is %v", s.State)
	}
	c.must(c.checkpoint())
}

// TestCheckpointRefused: a refused checkpoint changes nothing.
func TestCheckpointRefused(t *testing.T) {
	c := newCheckpointing(t)
	sandbox := c.sandboxes()[0].Id
	created := c.create(sandbox, containerConfig("created", "serve"))
	c.docker.ResetCalls()
	for _, tc := range []struct {
		name, id, location string
		timeout            int64
		code               codes.Code
		words              string
	}{
		{"an unknown container", strings.Repeat("ab", 32), c.location, 0, codes.NotFound, "abab"},
		{"a sandbox", sandbox, c.location, 0, codes.NotFound, sandbox},
		{"a container that does not run", created, c.location, 0, codes.FailedPrecondition, "CONTAINER_CREATED"},
		{"no location", c.id, "", 0, codes.InvalidArgument, "location"},
		{"a relative location", c.id, "main.tar", 0, codes.InvalidArgument, "location"},
		{"no directory", c.id, "/nowhere/main.tar", 0, codes.FailedPrecondition, "/nowhere"},
		{"a negative timeout", c.id, c.location, -1, codes.InvalidArgument, "timeout"},
	} {
		_, err := c.runtime.CheckpointContainer(c.ctx, &runtimeapi.CheckpointContainerRequest{ContainerId: tc.id, Location: tc.location, Timeout: tc.timeout})
		t.Log(tc.name)
		wantCode(t, err, tc.code, tc.words)
	}
	c.must(c.call().ContainerPause(c.ctx, c.id))
	wantCode(t, c.checkpoint(), codes.FailedPrecondition, "unpause it first")
	if calls := c.docker.Calls(); calls["container checkpoint"] != 0 || calls["container unpause"] != 0 {
		t.Errorf("Docker was called: %v", calls)
	}
	c.must(c.call().ContainerUnpause(c.ctx, c.id))
	c.undone(t, "")
}

// TestCheckpointUnimplemented: the kubelet must be able to distinguish "never"
// from "not now".
func TestCheckpointUnimplemented(t *testing.T) {
	c := newCheckpointing(t)
	c.docker.FailNext("container checkpoint", 1, http.StatusInternalServerError,
		`Cannot checkpoint container x: runc did not terminate successfully: exit status 1: CRIU version check failed: exec: "criu": executable file not found in $PATH path= /x/criu-dump.log: unknown`)
	wantCode(t, c.checkpoint(), codes.Unimplemented, "CRIU", "not installed")
	c.undone(t, "")
	c.docker.SetInfo(func(i *system.Info) { i.ExperimentalBuild = false })
	c.stop()
	c.start()
	wantCode(t, c.checkpoint(), codes.Unimplemented, "experimental", "CRIU")
}

// TestCheckpointRollback makes each step fail.
func TestCheckpointRollback(t *testing.T) {
	for _, tc := range []struct {
		name   string
		breaks func(c *checkpointing)
		code   codes.Code
		words  string
	}{
		{"it cannot be paused", func(c *checkpointing) {
			c.docker.FailNext("container pause", 1, http.StatusInternalServerError, "the freezer is stuck")
		}, codes.Internal, "freezer"},
		{"the answer to the pause is lost", func(c *checkpointing) { c.docker.LoseAnswer("container pause", 1) }, codes.Unavailable, "pause"},
		{"CRIU fails", func(c *checkpointing) {
			c.docker.FailNext("container checkpoint", 1, http.StatusInternalServerError, "criu failed: type DUMP errno 0")
		}, codes.Internal, "criu failed"},
		{"the answer to the checkpoint is lost", func(c *checkpointing) { c.docker.LoseAnswer("container checkpoint", 1) }, codes.Unavailable, "checkpoint"},
		{"Docker is away for a moment when it is to go on", func(c *checkpointing) {
			c.docker.FailNext("container checkpoint", 1, http.StatusInternalServerError, "criu failed: type DUMP errno 0")
			c.docker.DropNext("container unpause", 1)
			c.docker.DropNext("container unpause", 2)
		}, codes.Internal, "criu failed"},
		{"there is no specification", func(c *checkpointing) { c.must(os.Remove(c.spec)) }, codes.Unknown, "specification"},
		{"the location is a directory", func(c *checkpointing) { c.must(os.Mkdir(c.location, 0o700)) }, codes.Unknown, "archive"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCheckpointing(t)
			tc.breaks(c)
			wantCode(t, c.checkpoint(), tc.code, tc.words)
			if info, err := os.Stat(c.location); err == nil && info.IsDir() {
				c.must(os.Remove(c.location))
			}
			c.undone(t, "")
			c.must(os.WriteFile(c.spec, []byte(ociSpec), 0o600))
			c.must(c.checkpoint())
		})
	}
}

// TestCheckpointTimeout: Docker cannot cancel a checkpoint, so it continues in
// the background, but its result is discarded.
func TestCheckpointTimeout(t *testing.T) {
	c := newCheckpointing(t)
	held, release := c.docker.HoldNext("container checkpoint", 1)
	for began := false; !began; {
		c.must(c.ctx.Err())
		wantCode(t, c.checkpointFor(1), codes.DeadlineExceeded)
		select {
		case <-held:
			began = true
		default: // the time was over before Docker was asked
		}
	}
	second := make(chan error, 1)
	go func() { second <- c.checkpointFor(1) }()
	wantCode(t, <-second, codes.DeadlineExceeded)
	if n := c.docker.Calls()["container checkpoint"]; n != 1 {
		t.Errorf("%d checkpoints of one container at a time", n)
	}
	release()
	c.undone(t, "")
	c.must(c.checkpoint())
}

// TestCheckpointAndTheProcessEnds: the next process resumes the container.
func TestCheckpointAndTheProcessEnds(t *testing.T) {
	c := newCheckpointing(t)
	for _, id := range []string{c.id, strings.Repeat("ab", 32)} { // the other one is gone
		c.must(os.MkdirAll(filepath.Join(c.cfg.RootDir, "containers", id, "checkpoint", "image"), 0o700))
	}
	c.must(c.call().ContainerPause(c.ctx, c.id))
	c.stop()
	c.start()
	c.undone(t, "")
}

// TestStopDuringCheckpoint: a stop does not wait for the checkpoint.
func TestStopDuringCheckpoint(t *testing.T) {
	c := newCheckpointing(t)
	held, release := c.docker.HoldNext("container checkpoint", 1)
	done := make(chan error, 1)
	go func() { done <- c.checkpoint() }()
	<-held
	c.must(c.stopContainer(c.id, 1000))
	release()
	c.must(<-done) // Docker had done its part before
	if left := c.checkpointFiles(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	c.noDrafts(t)
}

// TestRemovalDuringCheckpoint: a container that is removed while its checkpoint is
// taken leaves nothing, and takes nothing from the checkpoint.
func TestRemovalDuringCheckpoint(t *testing.T) {
	c := newCheckpointing(t)
	held, release := c.docker.HoldNext("container unpause", 1)
	done := make(chan error, 1)
	go func() { done <- c.checkpoint() }()
	<-held // all parts are written; the archive is not
	c.must(c.removeContainer(c.id))
	if files := c.checkpointFiles(); len(files) != 1 {
		t.Errorf("after the removal there is %v, want the checkpoint in progress", files)
	}
	release()
	c.must(<-done)
	if info, err := os.Stat(c.location); err != nil || info.Size() == 0 {
		t.Errorf("the archive: %v, %v", info, err)
	}
	if left, err := filepath.Glob(filepath.Join(c.cfg.RootDir, "containers", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	c.noDrafts(t)
}
