package shim

import (
	"fmt"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/shim/wire"
	"github.com/cridock/cridock/translate"
)

// eventBacklog is how many events may be queued for one subscriber: enough for a
// node that starts or loses all its containers at once.
const eventBacklog = 10_000

// GetContainerEvents streams the events of containers and sandboxes from now on,
// each with the status of the pod after it. A sandbox's CREATED and STARTED events
// are sent when its network is up, so the first one says READY and has its
// addresses; a sandbox that fails before sends no event, or all of them when it
// exits. A subscriber that is too slow is cut off with ResourceExhausted.
func (s *Service) GetContainerEvents(_ *runtimeapi.GetEventsRequest, out grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	events, err := s.index.Subscribe(out.Context(), eventBacklog)
	if err != nil {
		return err
	}
	// The header tells the client that it misses nothing from here on.
	if err := out.SendHeader(nil); err != nil {
		return err
	}
	for t := range events.C {
		if err := out.SendMsg(s.criEvent(t)); err != nil {
			return fmt.Errorf("send a container event: %w", err)
		}
	}
	return events.Err()
}

// eventContainersField is the number of ContainerEventResponse.containers_statuses.
const eventContainersField = 5

func (s *Service) criEvent(t index.Transition) *wire.Response {
	e := &runtimeapi.ContainerEventResponse{
		ContainerId: t.ID, ContainerEventType: t.Type, CreatedAt: t.Time.UnixNano(),
	}
	if t.Pod != nil {
		// The index has a deleted sandbox's last state, but it is no longer ready.
		gone := t.Type == runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT && t.ID == t.SandboxID
		ready := !gone && s.networks.Ready(t.Pod)
		var ips []string
		if ready {
			ips = s.networks.IPs(t.Pod)
		}
		e.PodSandboxStatus = translate.CRISandboxStatus(t.Pod, ready, ips)
	}
	resp := wire.New(e)
	for _, c := range t.Members {
		resp.Add(eventContainersField, translate.EncodedContainerStatus(s.limits.Effective(c)))
	}
	return resp
}
