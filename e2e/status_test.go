package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// report is the output of cridock status.
type report struct {
	State  string
	Docker struct {
		Connected     bool
		EngineVersion string
		LastError     string
	}
	Pods       struct{ Ready, NotReady int }
	Containers struct{ Running, Exited int }
	Logs       struct{ Followed int }
	Operations []struct {
		Kind, Object string
		AgeSeconds   float64
	}
}

// ask runs cridock status with cridock's settings, and returns its exit status too.
func (c *cridock) ask(t *testing.T) (r report, exit int) {
	t.Helper()
	cmd := c.command(append([]string{binary, "status", "-o", "json"}, c.serve()[1:]...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	exit = cmd.ProcessState.ExitCode()
	if exit == 2 {
		if stdout.Len() > 0 || !strings.Contains(stderr.String(), "cridock: ") {
			t.Errorf("without an answer it prints %q, and %q on standard error", &stdout, &stderr)
		}
		return r, exit
	}
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("%v, exit status %d: %s%s", err, exit, &stdout, &stderr)
	}
	return r, exit
}

// TestStatus asks a cridock with pods, one that waits for a container's exit, one
// whose dockerd does not answer, and one that does not run.
func TestStatus(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni")
	p := c.runPod(t)
	main := p.start("main", "trap '' TERM; while :; do sleep 1; done")
	r, exit := c.ask(t)
	if exit != 0 || r.State != "healthy" || !r.Docker.Connected || r.Docker.EngineVersion != c.docker.engineVersion(t) {
		t.Errorf("exit status %d, %+v", exit, r)
	}
	if r.Pods.Ready != 1 || r.Containers.Running != 1 || r.Logs.Followed != 1 || len(r.Operations) > 0 {
		t.Errorf("a pod with a container: %+v", r)
	}

	stopped := make(chan error, 1)
	ctx := t.Context()
	go func() {
		_, err := c.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: main.id, Timeout: 600})
		stopped <- err
	}()
	eventually(t, "the stop is shown with its age", 2*time.Minute, func() bool {
		r, _ = c.ask(t)
		return len(r.Operations) == 1 && r.Operations[0].Kind == "StopContainer" && r.Operations[0].Object == main.id && r.Operations[0].AgeSeconds >= 1
	})
	c.docker.must(t, http.MethodPost, "/containers/"+main.id+"/kill", nil, nil)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if r, _ = c.ask(t); r.Containers.Exited != 1 || len(r.Operations) > 0 {
		t.Errorf("after the stop: %+v", r)
	}

	c.statusWithoutDocker(t)
	if err := c.kill(); err != nil {
		t.Fatal(err)
	}
	if _, exit = c.ask(t); exit != 2 {
		t.Errorf("exit status %d without a cridock, want 2", exit)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
}

// statusWithoutDocker: dockerd accepts connections and never responds.
func (c *cridock) statusWithoutDocker(t *testing.T) {
	pid := c.dockerd(t)
	resume := sync.OnceFunc(func() { c.run(t, "kill", "-CONT", pid) })
	defer resume()
	c.run(t, "kill", "-STOP", pid)
	var r report
	eventually(t, "it is unhealthy without Docker", time.Minute, func() (unhealthy bool) {
		var exit int
		r, exit = c.ask(t)
		return exit == 1
	})
	if r.State != "unhealthy" || r.Docker.Connected || r.Docker.LastError == "" || r.Pods.Ready != 1 {
		t.Errorf("without Docker: %+v", r)
	}
	resume()
	eventually(t, "it is healthy again", time.Minute, func() bool { _, exit := c.ask(t); return exit == 0 })
}
