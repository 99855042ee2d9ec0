package shim_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// within fails the test if f takes longer than a shutdown may take.
func within(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	began := time.Now()
	f()
	if took := time.Since(began); took > limit {
		t.Errorf("%s took %v", what, took)
	}
}

// TestShutdownDuringStop: a grace period does not delay the shutdown. The
// container continues, and a later process resumes the stop.
func TestShutdownDuringStop(t *testing.T) {
	n := newNode(t)
	signals := stubborn(n)
	id := n.runContainer(n.runPod(n.podConfig("web")), containerConfig("main", "stubborn"))
	stopped := make(chan error, 1)
	go func() { stopped <- n.stopContainer(id, 1<<60) }()
	wait(n, signals, unix.SIGTERM)
	within(t, time.Minute, "the shutdown", n.shutDown)
	if err := <-stopped; status.Code(err) != codes.Unavailable {
		t.Errorf("the stop that was under way: %v, want unavailable", err)
	}
	n.stop()
	n.start()
	n.must(n.stopContainer(id, 0))
}

// TestShutdownDuringOperation: an operation in progress is completed.
func TestShutdownDuringOperation(t *testing.T) {
	n := newCNINode(t)
	pod := n.runPod(n.podConfig("web"))
	n.runContainer(pod, containerConfig("main", "sleep", "1"))
	for _, kind := range []string{"container kill", "container start"} {
		held, release := n.docker.HoldNext(kind, 1)
		done := make(chan error, 1)
		go func() {
			if kind == "container kill" {
				done <- n.removePod(pod)
				return
			}
			_, err := n.tryRunPod(n.podConfig("second"))
			done <- err
		}()
		<-held
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			within(t, time.Minute, "the shutdown", n.shutDown)
		}()
		n.eventually("the shutdown has begun: the socket is gone", func() bool {
			_, err := os.Stat(filepath.Join(n.dir, "cri.sock"))
			return errors.Is(err, fs.ErrNotExist)
		})
		release()
		<-ended
		n.must(<-done)
		n.stop()
		n.start()
	}
	if all := n.sandboxes(); len(all) != 1 || all[0].Metadata.Name != "second" {
		t.Errorf("sandboxes = %v, want the second alone", all)
	}
	if got := n.plugins.attached(); len(got) != 1 {
		t.Errorf("attached: %v", got)
	}
}
