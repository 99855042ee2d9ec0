package shim_test

import (
	"context"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestNoDockerYet: before Docker is reachable, cridock answers what it can and
// reports what is missing.
func TestNoDockerYet(t *testing.T) {
	n := newNode(t, away)
	version, err := n.runtime.Version(n.ctx, &runtimeapi.VersionRequest{})
	n.must(err)
	if version.RuntimeVersion != "0.0.0" || version.RuntimeApiVersion != "v1" {
		t.Errorf("version = %v", version)
	}
	n.eventually("the first attempt to connect has failed", func() bool { return n.logs.Lines("Not connected to Docker") != "" })
	st, err := n.runtime.Status(n.ctx, &runtimeapi.StatusRequest{Verbose: true})
	n.must(err)
	ready := st.Status.Conditions[0]
	if ready.Type != runtimeapi.RuntimeReady || ready.Status || ready.Reason != "DockerDaemonNotReady" || !strings.Contains(ready.Message, n.docker.Endpoint()) {
		t.Errorf("condition = %v, want not ready, and where Docker was looked for", ready)
	}
	short, cancel := context.WithTimeout(n.ctx, 50*time.Millisecond)
	defer cancel()
	for name, call := range map[string]func(context.Context) error{
		"list": func(ctx context.Context) error {
			_, err := n.svc.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
			return err
		},
		"status": func(ctx context.Context) error {
			_, err := n.svc.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: "x"})
			return err
		},
		"stop of an unknown container": func(ctx context.Context) error {
			_, err := n.svc.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: "x"})
			return err
		},
		"images": func(ctx context.Context) error {
			_, err := n.svc.ListImages(ctx, &runtimeapi.ListImagesRequest{})
			return err
		},
		"run": func(ctx context.Context) error {
			_, err := n.svc.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: n.podConfig("web")})
			return err
		},
		"runtime config": func(ctx context.Context) error {
			_, err := n.svc.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{})
			return err
		},
	} {
		// The error class is checked inside the process: over the socket, the client's
		// own deadline, which is the same, may expire first.
		if err := call(short); !errdefs.IsUnavailable(err) {
			t.Errorf("%s: %v, want unavailable", name, err)
		}
	}
	// A waiting caller gets its answer when Docker becomes reachable.
	patient := &awaitedContext{Context: n.ctx, awaited: make(chan struct{})}
	waiting := make(chan error, 1)
	go func() {
		_, err := n.svc.ListPodSandbox(patient, &runtimeapi.ListPodSandboxRequest{})
		waiting <- err
	}()
	<-patient.awaited
	n.docker.Start()
	n.must(<-waiting)
	n.waitReady()
	n.runPod(n.podConfig("web"))
	version, err = n.runtime.Version(n.ctx, &runtimeapi.VersionRequest{})
	n.must(err)
	if version.RuntimeVersion != "20.10.24" {
		t.Errorf("version = %v", version)
	}
}

// awaitedContext closes awaited when somebody waits for it to be done.
type awaitedContext struct {
	context.Context
	once    sync.Once
	awaited chan struct{}
}

func (c *awaitedContext) Done() <-chan struct{} {
	c.once.Do(func() { close(c.awaited) })
	return c.Context.Done()
}

// TestDockerGoesAway: while Docker is away, reads continue and changes fail as
// Unavailable; everything works again when it is back.
func TestDockerGoesAway(t *testing.T) {
	n := newCNINode(t)
	pod := n.runPod(n.podConfig("web"))
	running := n.runContainer(pod, containerConfig("running", "sleep", "1"))
	created := n.create(pod, containerConfig("created", "sleep", "1"))
	n.docker.Stop()
	n.eventually("the loss is noticed", func() bool {
		r, err := n.runtime.Status(n.ctx, &runtimeapi.StatusRequest{})
		n.must(err)
		c := r.Status.Conditions[0]
		return !c.Status && c.Message != ""
	})
	if st := n.podStatus(pod); st.State != runtimeapi.PodSandboxState_SANDBOX_READY || st.Network.Ip == "" {
		t.Errorf("pod = %v, want it as it was", st)
	}
	if c := n.listed(running); c == nil || c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("container = %v, want it as it was", c)
	}
	if n.imageStatus(testImage) == nil {
		t.Error("the image is gone")
	}
	drop := func(_ any, err error) error { return err }
	for name, call := range map[string]func() error{
		"RunPodSandbox": func() error {
			return drop(n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: n.podConfig("second")}))
		},
		"CreateContainer":  func() error { return drop(n.tryCreate(pod, containerConfig("second", "sleep"))) },
		"StartContainer":   func() error { return n.tryStart(created) },
		"StopContainer":    func() error { return n.stopContainer(running, 1) },
		"RemoveContainer":  func() error { return n.removeContainer(created) },
		"StopPodSandbox":   func() error { return n.stopPod(pod) },
		"RemovePodSandbox": func() error { return n.removePod(pod) },
		"UpdateContainerResources": func() error {
			return drop(n.runtime.UpdateContainerResources(n.ctx, &runtimeapi.UpdateContainerResourcesRequest{
				ContainerId: running, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 512},
			}))
		},
		"PullImage":   func() error { return drop(n.pull(n.ctx, appImage, nil)) },
		"RemoveImage": func() error { return n.removeImage(n.imageID) },
		"ExecSync": func() error {
			return drop(n.runtime.ExecSync(n.ctx, &runtimeapi.ExecSyncRequest{ContainerId: running, Cmd: []string{"true"}}))
		},
	} {
		want := codes.Unavailable
		if name == "RemoveImage" {
			want = codes.FailedPrecondition // a running container uses it, which is known without Docker
		}
		if err := call(); status.Code(err) != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	n.docker.Start()
	n.eventually("Docker is back", func() bool {
		r, err := n.runtime.Status(n.ctx, &runtimeapi.StatusRequest{})
		n.must(err)
		return r.Status.Conditions[0].Status
	})
	n.runPod(n.podConfig("second"))
	n.must(n.removePod(pod))
	if got := n.plugins.attached(); len(got) != 1 {
		t.Errorf("attached: %v, want the second pod alone", got)
	}
}

// TestExitsWhileAway: exits are seen even if they happen while nobody listens.
func TestExitsWhileAway(t *testing.T) {
	n := newNode(t)
	pod := n.runPod(n.podConfig("web"))
	id := n.runContainer(pod, containerConfig("main", "sleep", "1"))
	n.docker.Stop()
	n.docker.KillQuietly()
	n.docker.Start()
	n.eventually("the exit is seen", func() bool { return n.status(id).State == runtimeapi.ContainerState_CONTAINER_EXITED })
	if st := n.status(id); st.ExitCode != 137 {
		t.Errorf("exit code = %d, want 137", st.ExitCode)
	}
	n.eventually("the sandbox's exit is seen", func() bool {
		return n.podStatus(pod).State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	})
}

// TestReadsCostNothing: lists and statuses are answered without Docker.
func TestReadsCostNothing(t *testing.T) {
	n := newCNINode(t)
	pod := n.runPod(n.podConfig("web"))
	id := n.runContainer(pod, containerConfig("main", "sleep", "1"))
	var before, after map[string]int
	for range 3 { // of which one is without what the index does now and then
		before = n.quiet()
		for range 150 { // seven reads each: more than a thousand
			n.sandboxes()
			n.listed(id)
			n.status(id)
			n.podStatus(pod)
			n.imageStatus(testImage)
			_, err := n.images.ListImages(n.ctx, &runtimeapi.ListImagesRequest{})
			n.must(err)
			_, err = n.runtime.Status(n.ctx, &runtimeapi.StatusRequest{})
			n.must(err)
		}
		after = n.docker.Calls()
		delete(after, "ping") // the heartbeat
		if maps.Equal(before, after) {
			return
		}
	}
	t.Errorf("calls to Docker: %v, before: %v", after, before)
}

// quiet waits until Docker is left alone, and returns the calls by then: the event of
// loading the pause image causes one more list of images.
func (n *node) quiet() map[string]int {
	n.t.Helper()
	var calls map[string]int
	n.eventually("Docker is left alone", func() bool {
		before := calls
		calls = n.docker.Calls()
		delete(calls, "ping") // the heartbeat
		time.Sleep(200 * time.Millisecond)
		return maps.Equal(before, calls)
	})
	return calls
}
