package shim_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var errBroken = errors.New("broken on purpose")

// TestRollbackOfRunPodSandbox makes each step fail. Nothing may be left, and a
// second call must succeed.
func TestRollbackOfRunPodSandbox(t *testing.T) {
	busy := func(command string) func(context.Context, string, string) error {
		return func(_ context.Context, c, _ string) error {
			if c == command {
				return errBroken
			}
			return nil
		}
	}
	for _, tc := range []struct {
		name string
		// breaks makes the step fail and returns a function that repairs it.
		breaks func(n *node, cfg *runtimeapi.PodSandboxConfig) (repair func())
		code   codes.Code
		words  string
	}{
		{"the directory cannot be made", func(n *node, _ *runtimeapi.PodSandboxConfig) func() {
			n.must(os.WriteFile(n.cfg.RootDir, nil, 0o600))
			return func() { n.must(os.Remove(n.cfg.RootDir)) }
		}, codes.Unknown, "create the sandbox's directory"},
		{"the log directory cannot be made", func(n *node, cfg *runtimeapi.PodSandboxConfig) func() {
			n.must(os.Remove(cfg.LogDirectory))
			n.must(os.WriteFile(cfg.LogDirectory, nil, 0o600))
			return func() { n.must(os.Remove(cfg.LogDirectory)) }
		}, codes.Unknown, "log_directory"},
		{"create is refused", func(n *node, _ *runtimeapi.PodSandboxConfig) func() {
			n.docker.FailNext("container create", 1, http.StatusInternalServerError, "no space left on device")
			return nil
		}, codes.ResourceExhausted, "no space left"},
		{"create finds no image", func(n *node, _ *runtimeapi.PodSandboxConfig) func() {
			n.docker.FailNext("container create", 1, http.StatusNotFound, "No such image: pause")
			return nil
		}, codes.NotFound, "No such image"},
		{"the engine breaks off before create", func(n *node, _ *runtimeapi.PodSandboxConfig) func() {
			n.docker.DropNext("container create", 1)
			return nil
		}, codes.Unavailable, "docker"},
		{"start fails", func(n *node, _ *runtimeapi.PodSandboxConfig) func() {
			n.docker.FailNext("container start", 1, http.StatusInternalServerError, "cgroup is busy")
			return nil
		}, codes.Unknown, "cgroup is busy"},
		{"containerd restarts", func(n *node, _ *runtimeapi.PodSandboxConfig) func() {
			n.docker.FailNext("container start", 1, http.StatusInternalServerError, "failed to retrieve labels: transport is closing: unavailable")
			return nil
		}, codes.Unavailable, "transport is closing"},
		{"start is refused with a name that ends like that", func(n *node, _ *runtimeapi.PodSandboxConfig) func() {
			n.docker.FailNext("container start", 1, http.StatusBadRequest, "no such device: /dev/x: unavailable")
			return nil
		}, codes.Unknown, "no such device"},
		{"start is refused as of a missing file", func(n *node, _ *runtimeapi.PodSandboxConfig) func() {
			n.docker.FailNext("container start", 1, http.StatusNotFound, "no such file or directory")
			return nil
		}, codes.Unknown, "no such file"},
		{"the engine breaks off after start", func(n *node, _ *runtimeapi.PodSandboxConfig) func() {
			n.docker.LoseAnswer("container start", 1)
			return nil
		}, codes.Unavailable, "start sandbox"},
		{"start is refused by the runtime", func(n *node, _ *runtimeapi.PodSandboxConfig) func() {
			n.docker.FailNext("container start", 1, http.StatusBadRequest, "OCI runtime create failed")
			return nil
		}, codes.Unknown, "OCI runtime create failed"},
		{"the namespace is gone", func(n *node, _ *runtimeapi.PodSandboxConfig) func() {
			n.engine.pid.Store(1 << 23) // larger than any PID of the kernel
			return func() { n.engine.pid.Store(int64(n.netns)) }
		}, codes.Unknown, "network namespace"},
		{"the namespace cannot be pinned", func(n *node, _ *runtimeapi.PodSandboxConfig) func() {
			n.must(os.WriteFile(n.cfg.NetNSDir, nil, 0o600))
			return func() { n.must(os.Remove(n.cfg.NetNSDir)) }
		}, codes.Unknown, "network namespace"},
		{"CNI has no configuration", func(n *node, _ *runtimeapi.PodSandboxConfig) func() {
			conf := filepath.Join(n.cni.ConfDir, "10-pods.conflist")
			n.must(os.Rename(conf, conf+".away"))
			n.eventually("the network is not ready", func() bool { return !n.networkReady() })
			return func() {
				n.must(os.Rename(conf+".away", conf))
				n.eventually("the network is ready", n.networkReady)
			}
		}, codes.FailedPrecondition, "network of sandbox"},
		{"CNI ADD fails", func(n *node, _ *runtimeapi.PodSandboxConfig) func() {
			n.plugins.respond(busy("ADD"))
			return func() { n.plugins.respond(nil) }
		}, codes.Unknown, errBroken.Error()},
		{"a sysctl of the interface cannot be set", func(_ *node, cfg *runtimeapi.PodSandboxConfig) func() {
			cfg.Linux.Sysctls = map[string]string{"net.ipv4.conf.no-such-link.forwarding": "1"}
			return func() { cfg.Linux.Sysctls = nil }
		}, codes.Unknown, "linux.sysctls"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newCNINode(t)
			cfg := n.podConfig("web")
			repair := tc.breaks(n, cfg)
			before := n.remains()
			_, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg})
			wantCode(t, err, tc.code, tc.words)
			n.unchanged(t, before)
			if len(n.sandboxes()) != 0 {
				t.Errorf("listed: %v", n.sandboxes())
			}
			if repair != nil {
				repair()
			}
			if id := n.runPod(cfg); n.podStatus(id).State != runtimeapi.PodSandboxState_SANDBOX_READY {
				t.Error("the second call's sandbox is not ready")
			}
		})
	}
}

func (n *node) networkReady() bool {
	r, err := n.runtime.Status(n.ctx, &runtimeapi.StatusRequest{})
	n.must(err)
	return r.Status.Conditions[1].Status
}

// TestRollbackWithoutDEL: a sandbox whose address could not be released stays,
// not ready, until the kubelet stops it. A network that was never set up does
// not keep it from being removed.
func TestRollbackWithoutDEL(t *testing.T) {
	n := newCNINode(t)
	cfg := n.podConfig("web")
	before := n.remains()
	n.plugins.respond(func(_ context.Context, _, _ string) error { return errBroken })
	_, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg})
	wantCode(t, err, codes.Unknown, "ADD", "DEL")
	n.plugins.respond(nil)
	if got := n.plugins.attached(); len(got) != 1 {
		t.Fatalf("attached: %v, want the one that could not be given back", got)
	}
	id := n.onlyNotReady(t)
	n.must(n.removePod(id))
	n.unchanged(t, before)

	n.plugins.respond(func(_ context.Context, _, _ string) error { return errBroken })
	_, err = n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg})
	wantCode(t, err, codes.Unknown, "ADD", "DEL")
	id = n.onlyNotReady(t)
	n.must(n.stopPod(id))
	n.must(n.removePod(id))
	if r := n.remains(); len(r.Containers)+len(r.Mounts) != len(before.Containers)+len(before.Mounts) {
		t.Errorf("left behind: %+v", r)
	}
}

// onlyNotReady returns the ID of the only sandbox, which is not ready.
func (n *node) onlyNotReady(t *testing.T) string {
	t.Helper()
	list, err := n.runtime.ListPodSandbox(n.ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(list.Items) != 1 || list.Items[0].State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Fatalf("sandboxes: %v, %v, want one that is not ready", list, err)
	}
	return list.Items[0].Id
}

// TestRollbackOfCreateContainer does the same for CreateContainer.
func TestRollbackOfCreateContainer(t *testing.T) {
	for _, tc := range []struct {
		name   string
		breaks func(n *node)
		code   codes.Code
		words  string
	}{
		{"create is refused", func(n *node) {
			n.docker.FailNext("container create", 2, http.StatusBadRequest, "invalid mount config")
		}, codes.InvalidArgument, "invalid mount config"},
		{"create finds no image", func(n *node) {
			n.docker.FailNext("container create", 2, http.StatusNotFound, "No such image")
		}, codes.NotFound, "No such image"},
		{"the engine breaks off before create", func(n *node) { n.docker.DropNext("container create", 2) }, codes.Unavailable, "docker"},
		{"the look at the container fails", func(n *node) {
			n.docker.FailNext("container inspect", 1, http.StatusInternalServerError, "database is locked")
		}, codes.Internal, "database is locked"},
		{"the image's accounts cannot be looked into", func(n *node) {
			n.docker.FailNext("container create", 1, http.StatusInternalServerError, "no space left")
		}, codes.Internal, "accounts of image"},
		{"the image's accounts cannot be read", func(n *node) {
			n.docker.FailNext("container archive", 1, http.StatusInternalServerError, "input/output error")
		}, codes.Internal, "accounts of image"},
		{"the image's groups cannot be read", func(n *node) {
			n.docker.FailNext("container archive", 2, http.StatusInternalServerError, "input/output error")
		}, codes.Internal, "accounts of image"},
		{"the probe cannot be removed", func(n *node) {
			n.docker.LoseAnswer("container remove", 1)
		}, codes.Unavailable, "accounts of image"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t)
			n.docker.LoseEvents(true) // only the request inspects containers
			pod := n.runPod(n.podConfig("web"))
			before := n.remains()
			tc.breaks(n)
			_, err := n.tryCreate(pod, containerConfig("main", "sleep", "1"))
			wantCode(t, err, tc.code, tc.words)
			n.unchanged(t, before)
			n.docker.LoseEvents(false)
			n.startContainer(n.create(pod, containerConfig("main", "sleep", "1")))
		})
	}
}

// TestProbesAreRemoved: containers created to read an image are removed,
// including those left by a killed process.
func TestProbesAreRemoved(t *testing.T) {
	n := newNode(t)
	pod := n.runPod(n.podConfig("web"))
	before := n.remains()
	n.docker.FailNext("container archive", 1, http.StatusInternalServerError, "input/output error")
	n.docker.FailNext("container remove", 1, http.StatusInternalServerError, "device or resource busy")
	_, err := n.tryCreate(pod, containerConfig("main", "sleep", "1"))
	wantCode(t, err, codes.Internal, "accounts of image", "busy")
	if len(n.docker.Containers()) != len(before.Containers)+1 {
		t.Fatal("no probe was left; this test tests nothing")
	}
	n.stop()
	n.start()
	n.unchanged(t, before)
	// They are read once, and supply the memberships of the image's user.
	cfg := containerConfig("main", "sleep", "1")
	cfg.Linux.SecurityContext.RunAsUsername = "web"
	n.docker.ResetCalls()
	for _, name := range []string{"a", "b"} {
		cfg.Metadata.Name = name
		want := &runtimeapi.LinuxContainerUser{Uid: 1000, Gid: 1000, SupplementalGroups: []int64{1000, 7000}}
		if diff := cmp.Diff(want.String(), n.status(n.create(pod, cfg)).User.Linux.String()); diff != "" {
			t.Errorf("user (-want +got):\n%s", diff)
		}
	}
	if got := n.docker.Calls()["container archive"]; got != 4 {
		t.Errorf("%d calls for files of the image, want 4: each of 2 is looked at and read once", got)
	}
}

// TestRollbackOfStartContainer: if the log cannot be followed or the limits
// cannot be set, the start fails and leaves nothing running.
func TestRollbackOfStartContainer(t *testing.T) {
	t.Run("the log cannot be made", func(t *testing.T) {
		n := newNode(t)
		cfg := n.podConfig("web")
		pod := n.runPod(cfg)
		ctr := containerConfig("main", "sleep", "1")
		ctr.LogPath = "sub/main.log"
		id := n.create(pod, ctr)
		blocker := filepath.Join(cfg.LogDirectory, "sub")
		n.must(os.WriteFile(blocker, nil, 0o600))
		wantCode(t, n.tryStart(id), codes.Unknown, "log of container "+id)
		if st := n.status(id); st.State != runtimeapi.ContainerState_CONTAINER_CREATED {
			t.Errorf("state = %v, want created", st.State)
		}
		n.must(os.Remove(blocker))
		n.startContainer(id)
		if _, err := os.Stat(filepath.Join(blocker, "main.log")); err != nil {
			t.Errorf("no log after the start: %v", err)
		}
	})
	t.Run("the engine vanishes", func(t *testing.T) {
		n := newNode(t)
		id := n.create(n.runPod(n.podConfig("web")), containerConfig("main", "sleep", "1"))
		n.docker.DropNext("container start", 1)
		wantCode(t, n.tryStart(id), codes.Unavailable, id)
		n.startContainer(id)
	})
	t.Run("the sandbox has gone", func(t *testing.T) {
		n := newNode(t)
		pod := n.runPod(n.podConfig("web"))
		id := n.create(pod, containerConfig("main", "sleep", "1"))
		n.docker.Exit(pod, 1)
		n.eventually("the sandbox is not ready", func() bool {
			return n.podStatus(pod).State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		})
		wantCode(t, n.tryStart(id), codes.FailedPrecondition, pod)
		if c := n.listed(id); c.State != runtimeapi.ContainerState_CONTAINER_CREATED {
			t.Errorf("state = %v, want created", c.State)
		}
	})
}

// TestFailedStarts leaves containers exited, with Docker's exit code and
// reason.
func TestFailedStarts(t *testing.T) {
	n := newNode(t)
	pod := n.runPod(n.podConfig("web"))
	id := n.create(pod, containerConfig("main", "/no/such/program"))
	// What dockerd reports about the container's inside is not the request's fault.
	wantCode(t, n.tryStart(id), codes.Unknown, "executable file not found", id)
	st := n.status(id)
	if st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.ExitCode != 127 || st.Reason != "ContainerCannotRun" ||
		!strings.Contains(st.Message, "executable file not found") || st.FinishedAt == 0 {
		t.Errorf("status = %v, want exited with 127 and Docker's message", st)
	}
	if c := n.listed(id); c.State != st.State || c.CreatedAt != st.CreatedAt {
		t.Errorf("the list says %v, the status %v", c.State, st.State)
	}
	wantCode(t, n.tryStart(id), codes.FailedPrecondition, id)
	n.must(n.stopContainer(id, 10))
	// The same after a restart: Docker itself remembers.
	n.stop()
	n.start()
	if after := n.status(id); after.State != st.State || after.ExitCode != st.ExitCode || after.Message != st.Message {
		t.Errorf("after a restart: %v, want %v", after, st)
	}
	n.must(n.removeContainer(id))
	if left, err := os.ReadDir(filepath.Join(n.cfg.RootDir, "containers")); err != nil || len(left) > 0 {
		t.Errorf("log positions are left: %v, %v", left, err)
	}

	running := n.runContainer(pod, containerConfig("running", "sleep", "1"))
	wantCode(t, n.tryStart(running), codes.FailedPrecondition, "RUNNING")
	ended := n.runContainer(pod, containerConfig("ended", "sh", "-c", "exit 3"))
	n.eventually("the container has exited", func() bool { return n.status(ended).State == runtimeapi.ContainerState_CONTAINER_EXITED })
	if st := n.status(ended); st.ExitCode != 3 || st.Reason != "Error" {
		t.Errorf("status = %v, want exit code 3 and Error", st)
	}
	wantCode(t, n.tryStart(ended), codes.FailedPrecondition, "EXITED")
	if got := n.docker.Calls()["container start"]; got != 4 {
		t.Errorf("Docker was asked for %d starts, want 4: it would have started them again", got)
	}
}
