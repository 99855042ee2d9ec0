package shim_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/system"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// subscribe opens a stream of events; it is active on return.
func (n *node) subscribe(ctx context.Context) grpc.ServerStreamingClient[runtimeapi.ContainerEventResponse] {
	n.t.Helper()
	stream, err := n.runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	n.must(err)
	_, err = stream.Header()
	n.must(err)
	return stream
}

// TestEvents follows a pod from creation to removal.
func TestEvents(t *testing.T) {
	n := newCNINode(t)
	ctx, cancel := context.WithCancel(n.ctx)
	defer cancel()
	streams := []grpc.ServerStreamingClient[runtimeapi.ContainerEventResponse]{n.subscribe(ctx), n.subscribe(ctx)}
	cfg := n.podConfig("web")
	pod := n.runPod(cfg)
	main := n.runContainer(pod, containerConfig("main", "sleep", "1"))
	bad := n.create(pod, containerConfig("bad", "/no/such/program"))
	if n.tryStart(bad) == nil {
		t.Fatal("a program that is not there was started")
	}
	names := map[string]string{pod: "pod", main: "main", bad: "bad"}
	receive := func(want ...string) {
		t.Helper()
		for i, stream := range streams {
			var got []string
			for range want {
				e, err := stream.Recv()
				n.must(err)
				kind := strings.TrimSuffix(strings.TrimPrefix(e.ContainerEventType.String(), "CONTAINER_"), "_EVENT")
				step := names[e.ContainerId] + " " + kind
				got = append(got, step)
				if diff := cmp.Diff(cfg.Metadata, e.PodSandboxStatus.GetMetadata(), protocmp.Transform()); diff != "" || e.CreatedAt == 0 {
					t.Errorf("%s: time %d, metadata (-want +got):\n%s", step, e.CreatedAt, diff)
				}
				checkEvent(t, step, e)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("events of subscriber %d (-want +got):\n%s", i, diff)
			}
		}
	}
	// An event has the network's state when it is sent, which may be late.
	receive("pod CREATED", "pod STARTED", "main CREATED", "main STARTED", "bad CREATED", "bad STOPPED")
	n.must(n.stopContainer(main, 0))
	n.must(n.removeContainer(main))
	n.must(n.removeContainer(bad))
	n.must(n.stopPod(pod))
	n.must(n.removePod(pod))
	receive("main STOPPED", "main DELETED", "bad DELETED", "pod STOPPED", "pod DELETED")
	cancel()
	_, err := streams[0].Recv()
	wantCode(t, err, codes.Canceled)
}

// checkEvent checks the pod's status in an event.
func checkEvent(t *testing.T, step string, e *runtimeapi.ContainerEventResponse) {
	t.Helper()
	members := map[string]*runtimeapi.ContainerStatus{}
	for _, c := range e.ContainersStatuses {
		members[c.Metadata.Name] = c
	}
	state := members["main"].GetState()
	switch step {
	case "pod CREATED", "pod STARTED":
		if e.PodSandboxStatus.State != runtimeapi.PodSandboxState_SANDBOX_READY || e.PodSandboxStatus.Network.GetIp() == "" {
			t.Errorf("%s: pod is %v", step, e.PodSandboxStatus)
		}
	case "main STARTED":
		if state != runtimeapi.ContainerState_CONTAINER_RUNNING || e.PodSandboxStatus.State != runtimeapi.PodSandboxState_SANDBOX_READY || e.PodSandboxStatus.Network.GetIp() == "" {
			t.Errorf("%s: container is %v, pod %v", step, state, e.PodSandboxStatus)
		}
	case "bad STOPPED":
		if bad := members["bad"]; bad.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || bad.GetExitCode() != 127 {
			t.Errorf("%s: container is %v", step, bad)
		}
	case "main STOPPED":
		if state != runtimeapi.ContainerState_CONTAINER_EXITED || members["main"].ExitCode != 137 {
			t.Errorf("%s: container is %v", step, members["main"])
		}
	case "main DELETED":
		if members["main"] != nil {
			t.Errorf("%s: it is still a member", step)
		}
	case "pod STOPPED", "pod DELETED":
		if e.PodSandboxStatus.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY || len(members) != 0 {
			t.Errorf("%s: pod is %v with %d members", step, e.PodSandboxStatus.State, len(members))
		}
	}
}

// TestStopWithSubscriber: an endless stream does not delay the shutdown.
func TestStopWithSubscriber(t *testing.T) {
	n := newNode(t, func(n *node) { n.cfg.StopGrace = time.Hour })
	stream := n.subscribe(n.ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := stream.Recv()
		ended <- err
	}()
	began := time.Now()
	n.shutDown()
	wantCode(t, <-ended, codes.Unavailable)
	if took := time.Since(began); took > time.Minute { // far less than the grace
		t.Errorf("the stop took %v", took)
	}
}

// TestStopWithSilentClient: neither does a client that connects and sends nothing.
func TestStopWithSilentClient(t *testing.T) {
	n := newNode(t)
	conn, err := net.Dial("unix", filepath.Join(n.dir, "cri.sock"))
	n.must(err)
	defer func() { _ = conn.Close() }()
	// With its first frame, the server has begun to wait for the client's.
	_, err = conn.Read(make([]byte, 1))
	n.must(err)
	began := time.Now()
	n.shutDown()
	if took := time.Since(began); took > time.Minute {
		t.Errorf("the stop took %v", took)
	}
}

// TestStreamsEqualLists compares each streamed list with its unary twin, over
// several chunks.
func TestStreamsEqualLists(t *testing.T) {
	n := newNode(t)
	for i := range 3 {
		pod := n.runPod(n.podConfig(fmt.Sprint("web", i)))
		for j := range 40 {
			n.create(pod, containerConfig(fmt.Sprint("c", j), "sleep", "1"))
		}
	}
	some := map[string]string{"name": "c7"}
	sandboxes, err := n.runtime.ListPodSandbox(n.ctx, &runtimeapi.ListPodSandboxRequest{})
	n.must(err)
	containers, err := n.runtime.ListContainers(n.ctx, &runtimeapi.ListContainersRequest{})
	n.must(err)
	selected, err := n.runtime.ListContainers(n.ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: some}})
	n.must(err)
	images, err := n.images.ListImages(n.ctx, &runtimeapi.ListImagesRequest{})
	n.must(err)
	if len(sandboxes.Items) != 3 || len(containers.Containers) != 120 || len(selected.Containers) != 3 || len(images.Images) != 2 {
		t.Errorf("%d sandboxes, %d and %d containers, %d images", len(sandboxes.Items), len(containers.Containers), len(selected.Containers), len(images.Images))
	}
	stream1, err := n.runtime.StreamPodSandboxes(n.ctx, &runtimeapi.StreamPodSandboxesRequest{})
	n.must(err)
	same(t, sandboxes.Items, stream1, (*runtimeapi.StreamPodSandboxesResponse).GetPodSandboxes)
	stream2, err := n.runtime.StreamContainers(n.ctx, &runtimeapi.StreamContainersRequest{})
	n.must(err)
	same(t, containers.Containers, stream2, (*runtimeapi.StreamContainersResponse).GetContainers)
	stream3, err := n.runtime.StreamContainers(n.ctx, &runtimeapi.StreamContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: some}})
	n.must(err)
	same(t, selected.Containers, stream3, (*runtimeapi.StreamContainersResponse).GetContainers)
	stream4, err := n.images.StreamImages(n.ctx, &runtimeapi.StreamImagesRequest{})
	n.must(err)
	same(t, images.Images, stream4, (*runtimeapi.StreamImagesResponse).GetImages)
}

func same[T proto.Message, R any](t *testing.T, want []T, stream grpc.ServerStreamingClient[R], items func(*R) []T) {
	t.Helper()
	var got []T
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, items(chunk)...)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("stream of %T (-list +stream):\n%s", *new(T), diff)
	}
}

// TestFilters selects by state, labels and ID prefixes.
func TestFilters(t *testing.T) {
	n := newNode(t)
	pod, other := n.runPod(n.podConfig("web")), n.runPod(n.podConfig("other"))
	running := n.runContainer(pod, containerConfig("running", "sleep", "1"))
	created := n.create(pod, containerConfig("created", "sleep", "1"))
	neighbour := n.create(other, containerConfig("created", "sleep", "1"))
	n.must(n.stopPod(other))
	for name, tc := range map[string]struct {
		filter *runtimeapi.ContainerFilter
		want   []string
	}{
		"nothing":            {&runtimeapi.ContainerFilter{}, []string{running, created, neighbour}},
		"state":              {&runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_CREATED}}, []string{created, neighbour}},
		"state and pod":      {&runtimeapi.ContainerFilter{PodSandboxId: pod, State: &runtimeapi.ContainerStateValue{}}, []string{created}},
		"beginning of an ID": {&runtimeapi.ContainerFilter{Id: running[:13]}, []string{running}},
		"label":              {&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"name": "created"}}, []string{created, neighbour}},
		"Docker's label":     {&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"io.kubernetes.docker.type": "container"}}, nil},
		"unknown":            {&runtimeapi.ContainerFilter{Id: "zzz"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := n.runtime.ListContainers(n.ctx, &runtimeapi.ListContainersRequest{Filter: tc.filter})
			n.must(err)
			var got []string
			for _, c := range r.Containers {
				got = append(got, c.Id)
			}
			if diff := cmp.Diff(tc.want, got, sortStrings); diff != "" {
				t.Errorf("containers (-want +got):\n%s", diff)
			}
		})
	}
	ready, err := n.runtime.ListPodSandbox(n.ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	}})
	n.must(err)
	if len(ready.Items) != 1 || ready.Items[0].Id != pod {
		t.Errorf("ready sandboxes = %v", ready.Items)
	}
}

func TestUpdateContainerResources(t *testing.T) {
	n := newNode(t)
	pod := n.runPod(n.podConfig("web"))
	cfg := containerConfig("main", "sleep", "1")
	cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 100, MemoryLimitInBytes: 100 << 20}
	id := n.runContainer(pod, cfg)
	update := func(id string, r *runtimeapi.LinuxContainerResources) error {
		_, err := n.runtime.UpdateContainerResources(n.ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: r})
		return err
	}
	// More memory than the current swap limit: both must be sent.
	n.must(update(id, &runtimeapi.LinuxContainerResources{CpuShares: 512, CpuQuota: 50_000, CpuPeriod: 100_000, MemoryLimitInBytes: 200 << 20}))
	got := n.status(id).Resources.Linux
	if got.CpuShares != 512 || got.CpuQuota != 50_000 || got.MemoryLimitInBytes != 200<<20 {
		t.Errorf("resources = %v", got)
	}
	n.must(update(id, nil))
	n.must(update(id, &runtimeapi.LinuxContainerResources{}))
	if diff := cmp.Diff(got, n.status(id).Resources.Linux, protocmp.Transform()); diff != "" {
		t.Errorf("an empty update changed (-before +after):\n%s", diff)
	}
	wantCode(t, update(id, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1}), codes.InvalidArgument, "memory_limit_in_bytes")
	wantCode(t, update(id, &runtimeapi.LinuxContainerResources{Unified: map[string]string{"../x": "1"}}), codes.InvalidArgument, "unified")
	n.docker.FailNext("container update", 1, 409, "Cannot update container: busy")
	wantCode(t, update(id, &runtimeapi.LinuxContainerResources{CpuShares: 3}), codes.FailedPrecondition, id)
	if diff := cmp.Diff(got, n.status(id).Resources.Linux, protocmp.Transform()); diff != "" {
		t.Errorf("a refused update changed (-before +after):\n%s", diff)
	}
	created := n.create(pod, containerConfig("later", "sleep", "1"))
	n.must(update(created, &runtimeapi.LinuxContainerResources{CpuShares: 3}))
	if got := n.status(created).Resources.Linux.CpuShares; got != 3 {
		t.Errorf("shares of a created container = %d, want 3", got)
	}
	n.must(n.stopContainer(id, 0))
	wantCode(t, update(id, &runtimeapi.LinuxContainerResources{CpuShares: 3}), codes.FailedPrecondition, "EXITED")
}

// TestLogs: the log exists when the start returns, is complete when the exit is
// visible, and continues in a new file after a rotation.
func TestLogs(t *testing.T) {
	n := newNode(t)
	cfg := n.podConfig("web")
	pod := n.runPod(cfg)
	text := func(name string) string {
		b, err := os.ReadFile(filepath.Join(cfg.LogDirectory, name))
		n.must(err)
		var lines []string
		for line := range strings.Lines(string(b)) {
			lines = append(lines, strings.SplitN(strings.TrimSpace(line), " ", 2)[1])
		}
		return strings.Join(lines, "|")
	}
	reopen := func(id string) error {
		_, err := n.runtime.ReopenContainerLog(n.ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
		return err
	}
	for i := range 5 {
		name := fmt.Sprint("short", i)
		id := n.runContainer(pod, containerConfig(name, "sh", "-c", "echo one; echo two >&2; exit 3"))
		if _, err := os.Stat(filepath.Join(cfg.LogDirectory, name+"_0.log")); err != nil {
			t.Errorf("no log when the start returned: %v", err)
		}
		n.eventually("it has exited", func() bool { return n.status(id).State == runtimeapi.ContainerState_CONTAINER_EXITED })
		if got := text(name + "_0.log"); got != "stdout F one|stderr F two" {
			t.Errorf("log at the exit = %q", got)
		}
		wantCode(t, reopen(id), codes.FailedPrecondition, id)
		if path := n.status(id).LogPath; path != filepath.Join(cfg.LogDirectory, name+"_0.log") {
			t.Errorf("log path = %q", path)
		}
		n.must(n.removeContainer(id))
		if got := text(name + "_0.log"); got == "" {
			t.Error("the log went with the container")
		}
	}
	created := n.create(pod, containerConfig("created", "sleep", "1"))
	wantCode(t, reopen(created), codes.FailedPrecondition, created)

	id := n.runContainer(pod, containerConfig("long", "sh", "-c", "echo before; sleep 1"))
	log := filepath.Join(cfg.LogDirectory, "long_0.log")
	n.eventually("the first line is there", func() bool { return text("long_0.log") == "stdout F before" })
	n.must(os.Rename(log, log+".old"))
	n.must(reopen(id))
	if got := text("long_0.log"); got != "" {
		t.Errorf("the new log begins with %q", got)
	}
	n.must(n.stopContainer(id, 0))
	if got := text("long_0.log.old"); got != "stdout F before" {
		t.Errorf("the old log is %q", got)
	}

	silent := containerConfig("silent", "sh", "-c", "echo unheard; sleep 1")
	silent.LogPath = ""
	id = n.runContainer(pod, silent)
	wantCode(t, reopen(id), codes.FailedPrecondition, id)
	if got := n.status(id).LogPath; got != "" {
		t.Errorf("log path = %q, want none", got)
	}
	n.must(n.stopContainer(id, 0))
}

// TestRuntimeInformation makes the calls of a starting kubelet.
func TestRuntimeInformation(t *testing.T) {
	n := newCNINode(t)
	st, err := n.runtime.Status(n.ctx, &runtimeapi.StatusRequest{Verbose: true})
	n.must(err)
	for _, c := range st.Status.Conditions {
		if c.Status != (c.Type != "HostPortsReady") {
			t.Errorf("condition %v; want all true, but that of host ports, as no plugin takes them", c)
		}
	}
	if c := st.Status.Conditions[2]; c.Reason != "NoPortMappingsCapability" || !strings.Contains(c.Message, "10-pods.conflist") {
		t.Errorf("condition %v, want the configuration named", c)
	}
	if len(st.RuntimeHandlers) == 0 || !slices.ContainsFunc(st.RuntimeHandlers, func(h *runtimeapi.RuntimeHandler) bool { return h.Name == "" }) {
		t.Errorf("handlers = %v, want the default among them", st.RuntimeHandlers)
	}
	for _, key := range []string{"config", "engine", "cniconfig"} {
		if st.Info[key] == "" {
			t.Errorf("no verbose information %q", key)
		}
	}
	n.must(os.Remove(filepath.Join(n.cni.ConfDir, "10-pods.conflist")))
	n.eventually("the loss of the network's configuration is seen", func() bool { return !n.networkReady() })
	st, err = n.runtime.Status(n.ctx, &runtimeapi.StatusRequest{})
	n.must(err)
	if c := st.Status.Conditions[1]; c.Reason != "NetworkPluginNotReady" || !strings.Contains(c.Message, n.cni.ConfDir) {
		t.Errorf("condition = %v, want the directory in it", c)
	}
	config, err := n.runtime.RuntimeConfig(n.ctx, &runtimeapi.RuntimeConfigRequest{})
	n.must(err)
	if config.Linux.CgroupDriver != runtimeapi.CgroupDriver_CGROUPFS {
		t.Errorf("cgroup driver = %v", config.Linux.CgroupDriver)
	}
	cidr := func(v string) error {
		_, err := n.runtime.UpdateRuntimeConfig(n.ctx, &runtimeapi.UpdateRuntimeConfigRequest{RuntimeConfig: &runtimeapi.RuntimeConfig{
			NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: v},
		}})
		return err
	}
	n.must(cidr("10.1.0.0/24,fd00::/64"))
	n.must(cidr(""))
	wantCode(t, cidr("10.1.0.0"), codes.InvalidArgument)
	_, err = n.runtime.UpdateRuntimeConfig(n.ctx, &runtimeapi.UpdateRuntimeConfigRequest{})
	n.must(err)
	_, err = n.runtime.CheckpointContainer(n.ctx, &runtimeapi.CheckpointContainerRequest{})
	wantCode(t, err, codes.Unimplemented, "checkpoint")

	n.docker.SetInfo(func(i *system.Info) { i.CgroupDriver = "none" })
	n.stop()
	n.start()
	_, err = n.runtime.RuntimeConfig(n.ctx, &runtimeapi.RuntimeConfigRequest{})
	wantCode(t, err, codes.FailedPrecondition, "cgroup driver")
}
