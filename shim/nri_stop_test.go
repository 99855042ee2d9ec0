package shim_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// patiently has plugins answer when they do.
func patiently(n *node) {
	withNRI(n)
	n.cfg.NRI.RequestTimeout = time.Minute
}

// TestNRIStopWithoutCaller: all plugins are told of a stop, even if its caller leaves.
func TestNRIStopWithoutCaller(t *testing.T) {
	n := newNode(t, patiently)
	ctx, leave := context.WithCancel(n.ctx)
	left := make(chan struct{})
	first := &plugin{refuses: func(event, _ string) error {
		if event == "StopContainer" {
			leave()
			<-left
			time.Sleep(100 * time.Millisecond) // the server learns of it, whether it minds or not
		}
		return nil
	}}
	n.connect(first, "10", "first")
	second := n.connect(&plugin{}, "20", "second")
	n.docker.LoseEvents(true) // the index inspects for each
	id := n.runContainer(n.runPod(n.podConfig("web")), containerConfig("main", "pause"))
	// The index inspects, and then the one who would tell plugins of the exit by itself.
	held, release := n.docker.HoldNext("container inspect", 2)
	defer release()
	n.docker.LoseEvents(false)
	n.docker.Exit(id, 3)
	<-held
	n.eventually("it has exited", func() bool { return n.status(id).State == runtimeapi.ContainerState_CONTAINER_EXITED })
	_, err := n.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
	close(left)
	wantCode(t, err, codes.Canceled)
	n.eventually("the second plugin is told", func() bool { return slices.Contains(second.of(id), "StopContainer") })
}

// TestNRIStopUpdates: a stop returns when the updates of other containers are done that
// plugins want because of it, also if it finds the container stopped.
func TestNRIStopUpdates(t *testing.T) {
	n := newNode(t, patiently)
	pod := n.runPod(n.podConfig("web"))
	other := n.runContainer(pod, containerConfig("other", "pause"))
	n.connect(&plugin{stopped: func(*api.Container) []*api.ContainerUpdate {
		u := &api.ContainerUpdate{ContainerId: other}
		u.SetLinuxCPUShares(444)
		return []*api.ContainerUpdate{u}
	}}, "10", "updates")
	id := n.runContainer(pod, containerConfig("main", "pause"))
	held, release := n.docker.HoldNext("container update", 1)
	defer release()
	ctx, leave := context.WithCancel(n.ctx)
	defer leave()
	first := make(chan error, 1)
	go func() {
		_, err := n.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
		first <- err
	}()
	select {
	case <-held:
	case err := <-first:
		t.Fatalf("the stop does not wait: %v", err)
	}
	leave()
	wantCode(t, <-first, codes.Canceled)
	ctx, cancel := context.WithTimeout(n.ctx, time.Second)
	defer cancel()
	_, err := n.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
	wantCode(t, err, codes.DeadlineExceeded)
	release()
	n.must(n.stopContainer(id, 0))
	if got := n.status(other).Resources.Linux.CpuShares; got != 444 {
		t.Errorf("the other container has %d shares", got)
	}
}

// TestNRICreatedIsNotStopped: a container that has not been started is not told as
// stopped by StopContainer, and new plugins learn of it, also if its start was refused.
func TestNRICreatedIsNotStopped(t *testing.T) {
	n := newNode(t, patiently)
	p := &plugin{refuses: func(event, _ string) error {
		if event == "StartContainer" {
			return errors.New("not now")
		}
		return nil
	}}
	n.connect(p, "10", "refuses")
	pod := n.runPod(n.podConfig("web"))
	created, refused := n.create(pod, containerConfig("created", "pause")), n.create(pod, containerConfig("refused", "pause"))
	n.must(n.stopContainer(created, 0))
	wantEvents(t, p, created, "CreateContainer", "PostCreateContainer")
	wantCode(t, n.tryStart(refused), codes.Aborted, "not now")
	later := n.connect(&plugin{}, "20", "later")
	wantEvents(t, later, created, "Synchronize")
	wantEvents(t, later, refused, "Synchronize")
	n.must(n.removePod(pod))
	wantEvents(t, p, created, "CreateContainer", "PostCreateContainer", "StopContainer", "RemoveContainer")
	wantEvents(t, later, created, "Synchronize", "StopContainer", "RemoveContainer")
}

// TestNRIExitDuringSynchronize: a plugin that is getting the list learns of an exit, and
// of a removal, that are not in it.
func TestNRIExitDuringSynchronize(t *testing.T) {
	n := newNode(t, patiently)
	pod := n.runPod(n.podConfig("web"))
	exits, removed := n.runContainer(pod, containerConfig("exits", "pause")), n.runContainer(pod, containerConfig("removed", "pause"))
	p := &plugin{refuses: func(event, id string) error {
		if event == "Synchronize" && id == removed { // the list's last
			n.docker.Exit(exits, 3)
			if err := n.call().ContainerRemove(n.ctx, removed); err != nil {
				t.Error(err)
			}
			n.eventually("both are visible", func() bool {
				return n.status(exits).State == runtimeapi.ContainerState_CONTAINER_EXITED && n.listed(removed) == nil
			})
		}
		return nil
	}}
	n.connect(p, "10", "notes")
	n.eventually("the exit is told", func() bool { return slices.Contains(p.of(exits), "StopContainer") })
	n.eventually("the removal is told", func() bool { return slices.Contains(p.of(removed), "RemoveContainer") })
}
