package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestStats(t *testing.T) {
	onBothNetworks(t, func(t *testing.T, c *cridock) { c.measures(t) })
}

// measures asks for the statistics of a pod that uses the processor, the disk and the
// network.
func (c *cridock) measures(t *testing.T, options ...podOption) {
	p := c.runPod(t, options...)
	main := p.start("main", "head -c 3000000 /dev/zero >/file; while :; do :; done", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuQuota: 10000, CpuPeriod: 100000}
	})
	p.start("ping", "ping "+c.gateway()+" >/dev/null")
	eventually(t, "the container's usage is seen", time.Minute, func() bool {
		s := rpc(t, c.runtime.ContainerStats, &runtimeapi.ContainerStatsRequest{ContainerId: main.id}).Stats
		return s.GetAttributes().GetId() == main.id && s.GetCpu().GetUsageCoreNanoSeconds().GetValue() > 0 &&
			s.GetMemory().GetWorkingSetBytes().GetValue() > 0 && s.GetMemory().GetUsageBytes().GetValue() > 0 &&
			s.GetWritableLayer().GetUsedBytes().GetValue() >= 3000000
	})
	list := rpc(t, c.runtime.ListContainerStats, &runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{PodSandboxId: p.id}}).Stats
	if len(list) != 2 {
		t.Errorf("%d containers have statistics, want 2", len(list))
	}
	for _, tc := range []struct {
		filter *runtimeapi.PodSandboxStatsFilter
		want   int
	}{
		{&runtimeapi.PodSandboxStatsFilter{Id: p.id}, 1},
		{&runtimeapi.PodSandboxStatsFilter{LabelSelector: p.cfg.Labels}, 1},
		{&runtimeapi.PodSandboxStatsFilter{Id: p.id, LabelSelector: map[string]string{"app": "another"}}, 0},
	} {
		pods := rpc(t, c.runtime.ListPodSandboxStats, &runtimeapi.ListPodSandboxStatsRequest{Filter: tc.filter}).Stats
		if len(pods) != tc.want || tc.want > 0 && pods[0].GetAttributes().GetId() != p.id {
			t.Errorf("%v: %d pods have statistics, want %d", tc.filter, len(pods), tc.want)
		}
	}
	var first *runtimeapi.PodSandboxStats
	eventually(t, "the pod's network counters grow", time.Minute, func() bool {
		s := rpc(t, c.runtime.PodSandboxStats, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: p.id}).Stats
		if first == nil {
			first = s
		}
		n := s.GetLinux().GetNetwork().GetDefaultInterface()
		return n.GetName() == "eth0" && n.GetRxBytes().GetValue() > 0 && n.GetTxBytes().GetValue() > first.GetLinux().GetNetwork().GetDefaultInterface().GetTxBytes().GetValue() &&
			s.GetLinux().GetCpu().GetUsageCoreNanoSeconds().GetValue() > first.GetLinux().GetCpu().GetUsageCoreNanoSeconds().GetValue() &&
			len(s.GetLinux().GetContainers()) == 2 && s.GetLinux().GetProcess().GetProcessCount().GetValue() >= 2
	})
}

// gateway is the node's address on the pods' network.
func (c *cridock) gateway() string {
	if c.plugin == "docker" {
		return "172.17.0.1"
	}
	return "10.77.0.1"
}

// TestEvents follows one pod from creation to removal.
func TestEvents(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	events, actions := subscribe(t, c), c.docker.actions(t)
	p := c.runPod(t)
	ip := p.status().GetNetwork().GetIp()
	main := p.start("main", "exit 3")
	main.exited()

	const created, started, stopped, deleted = runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT,
		runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
	got := map[string][]runtimeapi.ContainerEventType{}
	var seen []*runtimeapi.ContainerEventResponse
	for last := int64(0); !slices.Contains(got[p.id], deleted); {
		var e *runtimeapi.ContainerEventResponse
		select {
		case e = <-events:
		case <-time.After(time.Minute):
			t.Fatalf("no more events after %v", got)
		}
		if e.ContainerId != p.id && e.ContainerId != main.id {
			continue
		}
		got[e.ContainerId] = append(got[e.ContainerId], e.ContainerEventType)
		seen = append(seen, e)
		if e.CreatedAt < last || e.GetPodSandboxStatus().GetMetadata().GetUid() != p.cfg.Metadata.Uid {
			t.Errorf("event %v is older than the one before, or of another pod", e)
		}
		last = e.CreatedAt
		if e.ContainerEventType == created || e.ContainerEventType == started {
			s := e.GetPodSandboxStatus()
			if s.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || s.GetNetwork().GetIp() != ip {
				t.Errorf("the pod of event %v is %v; its address is %s", e.ContainerEventType, s, ip)
			}
		}
		if e.ContainerId == main.id && e.ContainerEventType == stopped {
			if s := e.GetContainersStatuses(); len(s) != 1 || s[0].ExitCode != 3 || s[0].State != runtimeapi.ContainerState_CONTAINER_EXITED {
				t.Errorf("the stop event has the statuses %v", s)
			}
			p.remove() // only now: earlier events have the status that the pod has when they are sent
		}
	}
	// If containerd delivers an event late, Docker may start an exited container
	// once more; then there are more than these four events.
	kinds := map[string]runtimeapi.ContainerEventType{"create": created, "start": started, "die": stopped, "destroy": deleted}
	want := map[string][]runtimeapi.ContainerEventType{}
	for _, id := range []string{p.id, main.id} {
		eventually(t, "Docker's event of the removal", time.Minute, func() bool { return slices.Contains(actions(id), "destroy") })
		for _, action := range actions(id) {
			want[id] = append(want[id], kinds[action])
		}
		for _, kind := range []runtimeapi.ContainerEventType{created, started, stopped, deleted} {
			if !slices.Contains(want[id], kind) {
				t.Fatalf("Docker's own events of %s are %v", id, actions(id))
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
		for _, e := range seen {
			t.Log(e)
		}
	}
}

// subscribe returns cridock's events. Only the first event shows that the
// subscription is active, so it runs pods until one arrives.
func subscribe(t *testing.T, c *cridock) <-chan *runtimeapi.ContainerEventResponse {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := c.runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan *runtimeapi.ContainerEventResponse, 10000)
	go func() {
		for e, err := stream.Recv(); err == nil; e, err = stream.Recv() {
			events <- e
		}
	}()
	for range 10 {
		c.runPod(t).remove()
		select {
		case <-events:
			return events
		case <-time.After(time.Second):
		}
	}
	t.Fatal("no event of ten pods")
	return nil
}

// TestLists compares the streamed lists with the plain ones.
func TestLists(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "docker")
	p := c.runPod(t)
	for i := range 3 {
		p.create(fmt.Sprint("c", i), "true")
	}
	ctx, cancel := context.WithTimeout(context.Background(), rpcTimeout)
	defer cancel()
	filter := &runtimeapi.ContainerFilter{PodSandboxId: p.id}
	stream, err := c.runtime.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	var streamed []string
	for m, err := stream.Recv(); err == nil; m, err = stream.Recv() {
		for _, l := range m.GetContainers() {
			streamed = append(streamed, l.Id)
		}
	}
	var listed []string
	for _, l := range rpc(t, c.runtime.ListContainers, &runtimeapi.ListContainersRequest{Filter: filter}).Containers {
		listed = append(listed, l.Id)
	}
	slices.Sort(streamed)
	slices.Sort(listed)
	if len(listed) != 3 || !slices.Equal(streamed, listed) {
		t.Errorf("streamed are %v, listed %v", streamed, listed)
	}
}
