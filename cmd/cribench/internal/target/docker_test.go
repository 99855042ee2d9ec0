package target_test

import (
	"context"
	"errors"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/cridock/cridock/cmd/cribench/internal/target"
	"github.com/cridock/cridock/internal/needs"
)

var errEnded = errors.New("ended")

func contextThatEnds(t *testing.T) (context.Context, func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errEnded)
	return ctx, func() { cancel(nil) }
}

// TestPodOnDocker runs on a real engine: it checks that these calls are what a
// pod needs.
func TestPodOnDocker(t *testing.T) {
	endpoint, image := os.Getenv("CRIDOCK_E2E_DOCKER"), os.Getenv("CRIDOCK_E2E_IMAGE")
	needs.That(t, endpoint != "" && image != "", "CRIDOCK_E2E_DOCKER and CRIDOCK_E2E_IMAGE are not set: no Docker Engine to test on")
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	idle := []string{"sh", "-c", "trap 'exit 0' TERM; echo one; echo two; while :; do sleep 3600 & wait $!; done"}
	d, err := target.NewDocker("docker", endpoint, target.DockerSandbox{Image: image, Command: idle}, target.Options{Run: run, Image: image})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	t.Cleanup(func() {
		if n, err := d.Clean(context.Background(), run); n != 2 || err != nil {
			t.Errorf("cleaned %d containers, %v, want 2", n, err)
		}
	})
	pod := target.Pod{Name: "t" + run}
	sandbox, err := d.RunSandbox(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	id, err := d.CreateContainer(ctx, pod, sandbox, 0, idle)
	if err != nil {
		t.Fatal(err)
	}
	log, err := d.OpenLog(pod, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := d.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := log.Wait(ctx, 2); err != nil {
		t.Error(err)
	}
	if out, err := d.Exec(ctx, id, []string{"echo", "ok"}); err != nil || string(out) != "ok\n" {
		t.Errorf("exec: %q, %v", out, err)
	}
	if has, err := d.HasImage(ctx, image); !has || err != nil {
		t.Errorf("HasImage(%s) = %v, %v", image, has, err)
	}
	if has, err := d.HasImage(ctx, "cribench.invalid/none:none"); has || err != nil {
		t.Errorf("HasImage of none = %v, %v", has, err)
	}
}
