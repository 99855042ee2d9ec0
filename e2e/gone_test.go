package e2e

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// goneClient makes calls whose client disconnects before they finish, and
// repeats them.
type goneClient struct {
	*cridock
	t       *testing.T
	after   time.Duration   // how long the client stays
	covered map[string]bool // calls by method
	early   int             // calls that ended when their client disconnected
}

// goes makes a call for a client that disconnects.
func goes[Req, Resp any](g *goneClient, m method[Req, Resp], req Req) {
	g.t.Helper()
	name := methodOf(req)
	g.covered[name] = true
	ctx, cancel := context.WithCancel(g.t.Context())
	defer cancel()
	defer time.AfterFunc(g.after, cancel).Stop()
	_, err := m(ctx, req)
	switch status.Code(err) {
	case codes.OK:
	case codes.Canceled:
		g.early++
	default:
		g.t.Errorf("%s, whose client goes after %v: %v", name, g.after, err)
	}
}

// repeated makes a call for a client that disconnects, and again for one that
// stays.
func repeated[Req, Resp any](g *goneClient, m method[Req, Resp], req Req) Resp {
	g.t.Helper()
	goes(g, m, req)
	return rpc(g.t, m, req)
}

// left makes a streaming call for a client that disconnects.
func left[Req, Resp any](g *goneClient, m func(context.Context, Req, ...grpc.CallOption) (grpc.ServerStreamingClient[Resp], error), req Req) {
	g.t.Helper()
	g.covered[methodOf(req)] = true
	ctx, cancel := context.WithCancel(g.t.Context())
	timer := time.AfterFunc(g.after, cancel)
	if s, err := m(ctx, req); err == nil {
		for err == nil {
			_, err = s.Recv()
		}
	}
	timer.Stop()
	cancel()
}

// methodOf returns the method that a request belongs to.
func methodOf(req any) string {
	return strings.TrimSuffix(reflect.TypeOf(req).Elem().Name(), "Request")
}

// TestClientsGoAway makes every call of both services for clients that
// disconnect at several moments. Repeating the call succeeds with the same
// object, nothing is created twice, and the calls leave nothing behind.
func TestClientsGoAway(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni", metricsFlags...)
	repo := c.needRegistry(t) + "/e2e/gone"
	c.pushed(t, repo, "", "1")
	before := c.warmUp(t)
	g := &goneClient{cridock: c, t: t, covered: map[string]bool{}}
	for _, g.after = range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 60 * time.Millisecond, 250 * time.Millisecond} {
		g.lifeOfPod(repo + ":1")
		c.checkNothingLeft(t, before)
		if t.Failed() {
			t.Fatalf("clients went after %v", g.after)
		}
	}
	if g.early < 20 {
		t.Errorf("only %d calls lost their client", g.early)
	}
	for _, service := range []reflect.Type{reflect.TypeFor[runtimeapi.RuntimeServiceClient](), reflect.TypeFor[runtimeapi.ImageServiceClient]()} {
		for i := range service.NumMethod() {
			name := service.Method(i).Name
			// Its request is not named after the method.
			if name == "GetContainerEvents" {
				name = "GetEvents"
			}
			if !g.covered[name] {
				t.Errorf("%s is not tested", name)
			}
		}
	}
}

func (g *goneClient) lifeOfPod(image string) {
	t, r, i := g.t, g.runtime, g.images
	t.Helper()
	spec := &runtimeapi.ImageSpec{Image: image}
	pulled := repeated(g, i.PullImage, &runtimeapi.PullImageRequest{Image: spec}).ImageRef
	if again := repeated(g, i.PullImage, &runtimeapi.PullImageRequest{Image: spec}).ImageRef; again != pulled {
		t.Errorf("pulled are %s and %s", pulled, again)
	}
	repeated(g, i.ImageStatus, &runtimeapi.ImageStatusRequest{Image: spec})
	repeated(g, i.ListImages, &runtimeapi.ListImagesRequest{})
	repeated(g, i.ImageFsInfo, &runtimeapi.ImageFsInfoRequest{})
	left(g, i.StreamImages, &runtimeapi.StreamImagesRequest{})
	repeated(g, i.RemoveImage, &runtimeapi.RemoveImageRequest{Image: spec})
	if g.imageStatus(t, image) != nil {
		t.Error("the image is still there")
	}

	p := &pod{cridock: g.cridock, t: t, cfg: g.podConfig(t)}
	p.id = repeated(g, r.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: p.cfg}).PodSandboxId
	if s := p.status(); s.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("the sandbox is %v", s.State)
	}
	ctrCfg := p.ctrConfig("main", "echo started; exec sleep 100000")
	main := &ctr{pod: p, cfg: ctrCfg}
	main.id = repeated(g, r.CreateContainer, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: ctrCfg, SandboxConfig: p.cfg}).ContainerId
	goes(g, r.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: main.id})
	// FailedPrecondition means that the first call has started it.
	if _, err := try(r.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: main.id}); err != nil && status.Code(err) != codes.FailedPrecondition {
		t.Errorf("started again: %v", err)
	}
	if s := main.status(); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %v", s.State)
	}
	if names, err := g.docker.withLabel("io.kubernetes.pod.uid=" + p.cfg.Metadata.Uid); err != nil || len(names) != 2 {
		t.Errorf("of the pod there are %v, %v; want the sandbox and a container", names, err)
	}
	if ips, err := g.addresses(p.id); err != nil || len(ips) != 2 {
		t.Errorf("addresses of the pod: %v, %v; want one of each version", ips, err)
	}
	g.use(p, main)

	repeated(g, r.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: main.id, Timeout: 1})
	if s := main.status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("the stopped container is %v", s.State)
	}
	repeated(g, r.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: main.id})
	repeated(g, r.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id})
	repeated(g, r.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id})
	g.checkGone(t, p.cfg.Metadata.Uid, p.id)
}

// use makes all calls that do not change a pod's state.
func (g *goneClient) use(p *pod, main *ctr) {
	t, r := g.t, g.runtime
	t.Helper()
	repeated(g, r.Version, &runtimeapi.VersionRequest{})
	repeated(g, r.Status, &runtimeapi.StatusRequest{Verbose: true})
	repeated(g, r.RuntimeConfig, &runtimeapi.RuntimeConfigRequest{})
	repeated(g, r.UpdateRuntimeConfig, &runtimeapi.UpdateRuntimeConfigRequest{RuntimeConfig: &runtimeapi.RuntimeConfig{}})
	repeated(g, r.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	repeated(g, r.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: main.id, Verbose: true})
	repeated(g, r.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{})
	repeated(g, r.ListContainers, &runtimeapi.ListContainersRequest{})
	repeated(g, r.ContainerStats, &runtimeapi.ContainerStatsRequest{ContainerId: main.id})
	repeated(g, r.PodSandboxStats, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.id})
	repeated(g, r.ListContainerStats, &runtimeapi.ListContainerStatsRequest{})
	repeated(g, r.ListPodSandboxStats, &runtimeapi.ListPodSandboxStatsRequest{})
	repeated(g, r.ListMetricDescriptors, &runtimeapi.ListMetricDescriptorsRequest{})
	repeated(g, r.ListPodSandboxMetrics, &runtimeapi.ListPodSandboxMetricsRequest{})
	left(g, r.StreamPodSandboxes, &runtimeapi.StreamPodSandboxesRequest{})
	left(g, r.StreamContainers, &runtimeapi.StreamContainersRequest{})
	left(g, r.StreamContainerStats, &runtimeapi.StreamContainerStatsRequest{})
	left(g, r.StreamPodSandboxStats, &runtimeapi.StreamPodSandboxStatsRequest{})
	left(g, r.StreamPodSandboxMetrics, &runtimeapi.StreamPodSandboxMetricsRequest{})
	left(g, r.GetContainerEvents, &runtimeapi.GetEventsRequest{})
	repeated(g, r.Exec, &runtimeapi.ExecRequest{ContainerId: main.id, Cmd: []string{"true"}, Stdout: true})
	repeated(g, r.Attach, &runtimeapi.AttachRequest{ContainerId: main.id, Stdout: true})
	repeated(g, r.PortForward, &runtimeapi.PortForwardRequest{PodSandboxId: p.id})
	repeated(g, r.ReopenContainerLog, &runtimeapi.ReopenContainerLogRequest{ContainerId: main.id})
	update := &runtimeapi.LinuxContainerResources{CpuShares: 512}
	repeated(g, r.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: main.id, Linux: update})
	if got := main.status().GetResources().GetLinux().GetCpuShares(); got != update.CpuShares {
		t.Errorf("CPU shares are %d", got)
	}
	repeated(g, r.UpdatePodSandboxResources, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: p.id, Resources: update})

	// A command is killed with its client.
	goes(g, r.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: main.id, Cmd: []string{"sh", "-c", "sleep 4321 & wait"}})
	eventually(t, "the command is killed with its children", time.Minute, func() bool {
		return !strings.Contains(main.sh("ps"), "4321")
	})
	if out := repeated(g, r.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: main.id, Cmd: []string{"echo", "works"}}); string(out.Stdout) != "works\n" {
		t.Errorf("exec prints %q", out.Stdout)
	}
	for _, refused := range []func() error{
		func() error {
			return unimplemented(g, r.CheckpointContainer, &runtimeapi.CheckpointContainerRequest{ContainerId: main.id})
		},
		func() error {
			return unimplemented(g, r.CheckpointPod, &runtimeapi.CheckpointPodRequest{PodSandboxId: p.id})
		},
		func() error { return unimplemented(g, r.RestorePod, &runtimeapi.RestorePodRequest{}) },
	} {
		if err := refused(); err != nil {
			t.Error(err)
		}
	}
}

// unimplemented makes a call that must be Unimplemented.
func unimplemented[Req, Resp any](g *goneClient, m method[Req, Resp], req Req) error {
	g.covered[methodOf(req)] = true
	if _, err := try(m, req); status.Code(err) != codes.Unimplemented {
		return fmt.Errorf("%s: %w; want Unimplemented", methodOf(req), err)
	}
	return nil
}
