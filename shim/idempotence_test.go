package shim_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// inParallel calls f count times in parallel.
func inParallel(count int, f func()) {
	var g sync.WaitGroup
	for range count {
		g.Go(f)
	}
	g.Wait()
}

func TestRunPodSandboxAgain(t *testing.T) {
	n := newCNINode(t)
	cfg := n.podConfig("web")
	var ids sync.Map
	inParallel(8, func() {
		r, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg})
		if err != nil {
			t.Error(err)
		}
		ids.Store(r.GetPodSandboxId(), true)
	})
	first := n.runPod(cfg)
	ids.Range(func(id, _ any) bool {
		if id != first {
			t.Errorf("sandbox %s beside %s", id, first)
		}
		return true
	})
	if got := n.plugins.count("ADD"); got != 1 {
		t.Errorf("CNI ADD was called %d times, want once", got)
	}
	// Another attempt is another sandbox.
	cfg.Metadata.Attempt = 1
	if n.runPod(cfg) == first {
		t.Error("another attempt got the same sandbox")
	}
	// The same holds after a restart.
	n.stop()
	n.start()
	cfg.Metadata.Attempt = 0
	if got := n.runPod(cfg); got != first {
		t.Errorf("after a restart the sandbox is %s, want %s", got, first)
	}
	if st := n.podStatus(first); st.Network.Ip != "10.1.0.2" || len(st.Network.AdditionalIps) != 1 {
		t.Errorf("after a restart the addresses are %v", st.Network)
	}
}

// TestLeftovers: what an interrupted RunPodSandbox, or a docker command, has
// left is replaced.
func TestLeftovers(t *testing.T) {
	for name, leave := range map[string]func(n *node, cfg *runtimeapi.PodSandboxConfig){
		"created": func(n *node, cfg *runtimeapi.PodSandboxConfig) {
			n.docker.LoseAnswer("container create", 1)
			_, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg})
			wantCode(n.t, err, codes.Unavailable)
		},
		"exited": func(n *node, cfg *runtimeapi.PodSandboxConfig) {
			n.docker.Exit(n.runPod(cfg), 1)
		},
		"exited unseen": func(n *node, cfg *runtimeapi.PodSandboxConfig) {
			n.runPod(cfg)
			n.docker.KillQuietly()
		},
		"running without a network": func(n *node, cfg *runtimeapi.PodSandboxConfig) {
			n.plugins.respond(func(_ context.Context, command, _ string) error {
				if command == "ADD" {
					return errBroken
				}
				return nil
			})
			n.docker.FailNext("container remove", 1, http.StatusInternalServerError, "device or resource busy")
			_, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg})
			wantCode(n.t, err, codes.Unknown, errBroken.Error(), "busy")
			n.plugins.respond(nil)
		},
		"running, its network forgotten": func(n *node, cfg *runtimeapi.PodSandboxConfig) {
			n.runPod(cfg)
			n.stop()
			n.must(os.RemoveAll(n.cni.CacheDir))
			n.start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newCNINode(t)
			cfg := n.podConfig("web")
			leave(n, cfg)
			left := n.docker.Containers()
			if len(left) != 1 {
				t.Fatalf("%d containers are left; this test tests nothing", len(left))
			}
			id := n.runPod(cfg)
			if now := n.docker.Containers(); len(now) != 1 || now[0] != id || id == left[0] {
				t.Errorf("containers = %v, want the new one in place of %v", now, left)
			}
			if got := n.plugins.attached(); len(got) != 1 || got[0] != id {
				t.Errorf("attached: %v, want only %s", got, id)
			}
			if n.podStatus(id).State != runtimeapi.PodSandboxState_SANDBOX_READY {
				t.Error("the new sandbox is not ready")
			}
			if all := n.sandboxes(); len(all) != 1 {
				t.Errorf("listed: %v", all)
			}
			// In the end, nothing is left of either.
			n.must(n.removePod(id))
			if r := n.remains(); len(r.Containers)+len(r.Mounts)+len(r.Attached) != 0 || strings.Contains(strings.Join(r.Files, " "), "sandboxes") {
				t.Errorf("left behind: %+v", r)
			}
		})
	}
}

// TestForeignNames: if a foreign container has the name, it is neither adopted
// nor removed.
func TestForeignNames(t *testing.T) {
	n := newCNINode(t)
	cfg := n.podConfig("web")
	foreign := n.foreign("k8s_POD_web_default_uid-web_0", nil)
	before := n.remains()
	_, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg})
	wantCode(t, err, codes.AlreadyExists, foreign, "k8s_POD_web_default_uid-web_0")
	n.unchanged(t, before)
	n.must(n.call().ContainerRemove(n.ctx, foreign))
	pod := n.runPod(cfg)

	foreign = n.foreign("k8s_main_web_default_uid-web_0", nil)
	n.create(pod, containerConfig("other", "sleep", "1"))
	before = n.remains()
	_, err = n.tryCreate(pod, containerConfig("main", "sleep", "1"))
	wantCode(t, err, codes.AlreadyExists, foreign, "k8s_main_web_default_uid-web_0")
	n.unchanged(t, before)
	n.must(n.stopPod(pod))
	n.must(n.removePod(pod))
	in, err := n.call().ContainerInspect(n.ctx, foreign)
	n.must(err)
	if !in.State.Running {
		t.Error("somebody else's container was stopped with the pod")
	}
}

func TestCreateContainerAgain(t *testing.T) {
	n := newNode(t)
	pod := n.runPod(n.podConfig("web"))
	cfg := containerConfig("main", "sleep", "1")
	n.create(pod, containerConfig("warm", "sleep", "1")) // reads the image's accounts
	n.docker.LoseAnswer("container create", 1)
	_, err := n.tryCreate(pod, cfg)
	wantCode(t, err, codes.Unavailable)
	count := len(n.docker.Containers())
	id := n.create(pod, cfg)
	inParallel(8, func() {
		if r, err := n.tryCreate(pod, cfg); err != nil || r.ContainerId != id {
			t.Errorf("a repeated call: %v, %v, want %s", r, err, id)
		}
	})
	if got := len(n.docker.Containers()); got != count {
		t.Errorf("%d containers, want %d", got, count)
	}
	// Another request replaces a container with the same name that never ran.
	cfg.Command = []string{"sleep", "2"}
	other := n.create(pod, cfg)
	if other == id || n.listed(id) != nil {
		t.Errorf("the container %s of the first request is kept as %s", id, other)
	}
	n.startContainer(other)
	_, err = n.tryCreate(pod, cfg)
	wantCode(t, err, codes.AlreadyExists, other)
	n.must(n.stopContainer(other, 0))
	if again := n.create(pod, cfg); again == other || len(n.docker.Containers()) != count {
		t.Error("a container that has exited is not replaced")
	}
}

// TestClientGivesUp cancels calls before they finish: they continue, and a
// retry gets their result.
func TestClientGivesUp(t *testing.T) {
	n := newCNINode(t)
	cfg := n.podConfig("web")
	giveUp := func(kind string, nth int, call func(context.Context) (string, error)) {
		t.Helper()
		held, release := n.docker.HoldNext(kind, nth)
		ctx, cancel := context.WithCancel(n.ctx)
		failed := make(chan error, 1)
		go func() {
			_, err := call(ctx)
			failed <- err
		}()
		<-held
		cancel()
		wantCode(t, <-failed, codes.Canceled)
		before := n.docker.Calls()["container create"]
		retried := make(chan string, 1)
		go func() {
			id, err := call(n.ctx)
			if err != nil {
				t.Errorf("retry: %v", err)
			}
			retried <- id
		}()
		n.waiting("lock", 1)
		release()
		if id := <-retried; kind == "container create" && n.docker.Calls()["container create"] > before+1 {
			t.Errorf("the retry made a container of its own beside %s", id)
		}
	}
	count := func(want int) {
		t.Helper()
		if got := len(n.docker.Containers()); got != want {
			t.Errorf("%d containers, want %d", got, want)
		}
	}
	run := func(ctx context.Context) (string, error) {
		r, err := n.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg})
		return r.GetPodSandboxId(), err
	}
	giveUp("container create", 1, run)
	count(1)
	cfg = n.podConfig("second")
	giveUp("container start", 1, run)
	count(2)
	pod, err := run(n.ctx)
	n.must(err)
	n.create(pod, containerConfig("warm", "sleep", "1"))
	create := func(ctx context.Context) (string, error) {
		r, err := n.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: containerConfig("main", "sleep", "1")})
		return r.GetContainerId(), err
	}
	giveUp("container create", 1, create)
	count(4)
	giveUp("container remove", 1, func(ctx context.Context) (string, error) {
		_, err := n.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod})
		return "", err
	})
	count(1)
	if got := n.plugins.attached(); len(got) != 1 {
		t.Errorf("attached: %v, want the first pod alone", got)
	}
}

// TestStopAndRemoveAgain repeats both calls, one after the other and in
// parallel.
func TestStopAndRemoveAgain(t *testing.T) {
	n := newCNINode(t)
	before := n.remains()
	pod := n.runPod(n.podConfig("web"))
	id := n.runContainer(pod, containerConfig("main", "sleep", "1"))
	n.runContainer(pod, containerConfig("side", "sleep", "1"))
	for name, call := range map[string]func() error{
		"StopContainer":   func() error { return n.stopContainer(id, 0) },
		"RemoveContainer": func() error { return n.removeContainer(id) },
	} {
		inParallel(8, func() {
			if err := call(); err != nil {
				t.Errorf("%s at once: %v", name, err)
			}
		})
	}
	inParallel(8, func() {
		if err := n.stopPod(pod); err != nil {
			t.Errorf("StopPodSandbox at once: %v", err)
		}
	})
	if got := n.plugins.attached(); len(got) != 0 {
		t.Errorf("attached after the stop: %v", got)
	}
	inParallel(8, func() {
		if err := n.removePod(pod); err != nil {
			t.Errorf("RemovePodSandbox at once: %v", err)
		}
	})
	n.must(n.stopPod(pod))
	n.must(n.removePod(pod))
	n.must(n.stopContainer(id, 0))
	n.must(n.removeContainer(id))
	after := n.remains()
	after.Files, before.Files = nil, nil // logs stay
	if len(after.Containers)+len(after.Mounts)+len(after.Attached) != 0 {
		t.Errorf("left behind: %+v", after)
	}
	if entries, err := filepath.Glob(filepath.Join(n.cfg.RootDir, "*", "*")); err != nil || len(entries) != 0 {
		t.Errorf("files left behind: %v, %v", entries, err)
	}
}

// TestRemovalUnderWay: another client is removing the same container.
func TestRemovalUnderWay(t *testing.T) {
	n := newNode(t)
	pod := n.runPod(n.podConfig("web"))
	id := n.create(pod, containerConfig("main", "sleep", "1"))
	n.docker.FailNext("container remove", 1, http.StatusConflict, "removal of container "+id+" is already in progress")
	wantCode(t, n.removeContainer(id), codes.FailedPrecondition, "in progress") // its removal was only simulated
	n.must(n.call().ContainerRemove(n.ctx, id))
	n.must(n.removeContainer(id))
	if n.listed(id) != nil {
		t.Error("a container that is gone is listed")
	}
}
