package shim_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine/enginetest"
)

// stubborn makes the program record signals and continue.
func stubborn(n *node) (signals <-chan unix.Signal) {
	got := make(chan unix.Signal, 100)
	n.docker.Program("stubborn", func(p *enginetest.Process) int {
		for {
			select {
			case s := <-p.Signals:
				got <- s
			case <-p.Killed:
				return 0
			}
		}
	})
	return got
}

// polite makes the program exit with code 5 on a signal.
func polite(n *node) {
	n.docker.Program("polite", func(p *enginetest.Process) int {
		select {
		case <-p.Signals:
			return 5
		case <-p.Killed:
			return 0
		}
	})
}

func TestStopContainer(t *testing.T) {
	n := newNode(t)
	signals := stubborn(n)
	polite(n)
	pod := n.runPod(n.podConfig("web"))
	ended := func(id string, code int32) {
		t.Helper()
		if st := n.status(id); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != code {
			t.Errorf("container is %v with code %d, want exited with %d", st.State, st.ExitCode, code)
		}
	}
	wantSignals := func(want ...unix.Signal) {
		t.Helper()
		var got []unix.Signal
		for len(signals) > 0 {
			got = append(got, <-signals)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("signals (-want +got):\n%s", diff)
		}
	}
	t.Run("one that listens", func(t *testing.T) {
		id := n.runContainer(pod, containerConfig("polite", "polite"))
		n.must(n.stopContainer(id, 60))
		ended(id, 5)
	})
	t.Run("one that does not is killed at the deadline", func(t *testing.T) {
		id := n.runContainer(pod, containerConfig("a", "stubborn"))
		began := time.Now()
		n.must(n.stopContainer(id, 1))
		if took := time.Since(began); took < time.Second || took > 30*time.Second {
			t.Errorf("the stop took %v, want about the grace period of 1s", took)
		}
		ended(id, 137)
		wantSignals(unix.SIGTERM)
	})
	t.Run("no grace", func(t *testing.T) {
		for name, grace := range map[string]int64{"zero": 0, "negative": -1 << 60} {
			id := n.runContainer(pod, containerConfig(name, "stubborn"))
			n.must(n.stopContainer(id, grace))
			ended(id, 137)
		}
		wantSignals()
	})
	t.Run("a second call shortens the first, and sends no second signal", func(t *testing.T) {
		id := n.runContainer(pod, containerConfig("b", "stubborn"))
		first := make(chan error, 1)
		go func() { first <- n.stopContainer(id, 1<<60) }()
		wait(n, signals, unix.SIGTERM)
		longer := make(chan error, 1)
		go func() { longer <- n.stopContainer(id, 1<<61) }()
		n.waiting("stop", 2)
		n.must(n.stopContainer(id, 0))
		n.must(<-first)
		n.must(<-longer)
		ended(id, 137)
		wantSignals()
	})
	t.Run("the end of its pod, or its removal, does not wait for its grace", func(t *testing.T) {
		for name, end := range map[string]func(pod, id string) error{
			"StopPodSandbox":   func(pod, _ string) error { return n.stopPod(pod) },
			"RemovePodSandbox": func(pod, _ string) error { return n.removePod(pod) },
			"RemoveContainer":  func(_, id string) error { return n.removeContainer(id) },
		} {
			pod := n.runPod(n.podConfig(strings.ToLower(name)))
			id := n.runContainer(pod, containerConfig("main", "stubborn"))
			first := make(chan error, 1)
			go func() { first <- n.stopContainer(id, 1<<60) }()
			wait(n, signals, unix.SIGTERM)
			n.must(end(pod, id))
			n.must(<-first)
		}
		wantSignals()
	})
	t.Run("it goes on without its caller", func(t *testing.T) {
		id := n.runContainer(pod, containerConfig("c", "stubborn"))
		ctx, cancel := context.WithCancel(n.ctx)
		first := make(chan error, 1)
		go func() {
			_, err := n.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 1 << 60})
			first <- err
		}()
		wait(n, signals, unix.SIGTERM)
		cancel()
		wantCode(t, <-first, codes.Canceled)
		n.must(n.stopContainer(id, 0))
		ended(id, 137)
		wantSignals()
	})
	t.Run("the container's own signal", func(t *testing.T) {
		cfg := containerConfig("d", "stubborn")
		cfg.StopSignal = runtimeapi.Signal_SIGNAL_SIGUSR1
		id := n.runContainer(pod, cfg)
		first := make(chan error, 1)
		go func() { first <- n.stopContainer(id, 60) }()
		wait(n, signals, unix.SIGUSR1)
		n.must(n.stopContainer(id, 0))
		n.must(<-first)
	})
	t.Run("what does not run is not signalled", func(t *testing.T) {
		created := n.create(pod, containerConfig("created", "stubborn"))
		exited := n.runContainer(pod, containerConfig("exited", "true"))
		n.eventually("it has exited", func() bool { return n.status(exited).State == runtimeapi.ContainerState_CONTAINER_EXITED })
		n.docker.ResetCalls()
		n.must(n.stopContainer(created, 10))
		n.must(n.stopContainer(exited, 10))
		if got := n.docker.Calls()["container kill"]; got != 0 {
			t.Errorf("%d signals were sent", got)
		}
		if st := n.status(created).State; st != runtimeapi.ContainerState_CONTAINER_CREATED {
			t.Errorf("a container that never ran is %v after its stop", st)
		}
	})
	t.Run("an exit that nobody told", func(t *testing.T) {
		id := n.runContainer(pod, containerConfig("e", "stubborn"))
		n.docker.LoseEvents(true)
		n.docker.Exit(id, 9)
		n.must(n.stopContainer(id, 60))
		n.docker.LoseEvents(false)
		ended(id, 9)
	})
}

func wait(n *node, signals <-chan unix.Signal, want unix.Signal) {
	n.t.Helper()
	select {
	case got := <-signals:
		if got != want {
			n.t.Fatalf("signal %v, want %v", got, want)
		}
	case <-n.ctx.Done():
		n.t.Fatalf("no signal %v came", want)
	}
}

// TestStopPodSandboxOrder: processes are stopped first, so that none sends from
// an address that has been released; the pause process last, as plugins need
// its namespace.
func TestStopPodSandboxOrder(t *testing.T) {
	n := newCNINode(t)
	stubborn(n)
	pod := n.runPod(n.podConfig("web"))
	members := []string{n.runContainer(pod, containerConfig("a", "stubborn")), n.runContainer(pod, containerConfig("b", "stubborn"))}
	created := n.create(pod, containerConfig("c", "stubborn"))
	other := n.runContainer(n.runPod(n.podConfig("other")), containerConfig("a", "stubborn"))

	var mu sync.Mutex
	var steps []string
	step := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		steps = append(steps, s)
	}
	n.engine.on(func(call string) {
		switch {
		case strings.HasSuffix(call, pod):
			step("kill pause")
		case strings.HasPrefix(call, "container kill SIGKILL"):
			step("kill member")
		case strings.HasPrefix(call, "container kill"):
			step(call)
		}
	})
	docker := n.call()
	n.plugins.respond(func(ctx context.Context, command, _ string) error {
		step(command)
		for id, want := range map[string]bool{members[0]: false, members[1]: false, pod: true} {
			if in, err := docker.ContainerInspect(ctx, id); err != nil || in.State.Running != want {
				t.Errorf("at %s container %s: running is %v (%v), want %v", command, in.Name, !want, err, want)
			}
		}
		return nil
	})
	n.must(n.stopPod(pod))
	if diff := cmp.Diff([]string{"kill member", "kill member", "DEL", "kill pause"}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if st := n.podStatus(pod).State; st != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("sandbox is %v", st)
	}
	if st := n.status(created).State; st != runtimeapi.ContainerState_CONTAINER_CREATED {
		t.Errorf("a container that never ran is %v", st)
	}
	if st := n.status(other).State; st != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("another pod's container is %v", st)
	}
	n.engine.on(nil)
	n.plugins.respond(nil)
}

// TestStopWithoutNetwork: a pod can be stopped after CNI's configuration has
// been removed, and a failed DEL is retried by the next call.
func TestStopWithoutNetwork(t *testing.T) {
	n := newCNINode(t)
	pod := n.runPod(n.podConfig("web"))
	n.plugins.respond(func(context.Context, string, string) error { return errBroken })
	wantCode(t, n.stopPod(pod), codes.Unknown, errBroken.Error(), pod)
	wantCode(t, n.removePod(pod), codes.Unknown, errBroken.Error(), pod)
	if got := n.plugins.attached(); len(got) != 1 {
		t.Errorf("attached: %v", got)
	}
	n.plugins.respond(nil)
	n.stop()
	n.cni.ConfDir += "-that-is-not-there"
	n.start()
	n.must(n.stopPod(pod))
	n.must(n.removePod(pod))
	if r := n.remains(); len(r.Containers)+len(r.Attached)+len(r.Mounts) != 0 {
		t.Errorf("left behind: %+v", r)
	}
}
