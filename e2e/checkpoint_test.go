package e2e

import (
	"archive/tar"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
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

// TestCheckpoint needs CRIU on the node, and a kernel that CRIU supports.
func TestCheckpoint(t *testing.T) {
	t.Parallel()
	n := newNode(t, "--experimental")
	if out, err := n.command("criu", "check").CombinedOutput(); err != nil {
		t.Skipf("CRIU cannot work here: %v: %s", err, out)
	}
	c := newCridock(t, n, "cni")
	p := c.runPod(t)
	data := t.TempDir()
	main := p.start("main", "echo remembered >/root/file; rm /etc/group; trap 'echo $n >/data/last' USR1; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done",
		func(cfg *runtimeapi.ContainerConfig) {
			cfg.Mounts = []*runtimeapi.Mount{{HostPath: data, ContainerPath: "/data"}}
			cfg.Envs = []*runtimeapi.KeyValue{{Key: "WHAT", Value: []byte("in-the-specification")}}
		})
	eventually(t, "it works", time.Minute, func() bool { return strings.Contains(main.logText(), "line 3") })
	for range 2 {
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
	var list []any
	if c.docker.must(t, http.MethodGet, "/containers/"+main.id+"/checkpoints", nil, &list); len(list) > 0 {
		t.Errorf("Docker keeps %v", list)
	}
	if left, err := globs(filepath.Join(c.root(), "containers", "*", "checkpoint")); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	checkFailedCheckpoint(t, p)
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
	talker := p.start("talker", "sleep 1000 | nc -l -p 99 & while :; do sleep 1000 | nc 127.0.0.1 99; done")
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
