package target

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Event is an event about a container or a sandbox.
type Event struct {
	ID, Name string
	At       time.Time
}

// Events calls f with the runtime's container events until ctx ends, with the times at
// which they arrive. It returns [ErrUnsupported] if the runtime has none, and the
// context's cause when it ends.
func (c *CRI) Events(ctx context.Context, f func(Event)) error {
	stream, err := c.runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return wrap("GetContainerEvents", err)
	}
	for {
		e, err := stream.Recv()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return wrap("GetContainerEvents", err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(e.GetContainerEventType().String(), "CONTAINER_"), "_EVENT")
		f(Event{ID: e.GetContainerId(), Name: strings.ToLower(name), At: time.Now()})
	}
}

// Events calls f with the engine's container events until ctx ends, with the times
// that the engine gives them. It returns the context's cause when it ends.
func (d *Docker) Events(ctx context.Context, f func(Event)) error {
	messages, failed := d.client.Events(ctx, events.ListOptions{Filters: filters.NewArgs(filters.Arg("type", string(events.ContainerEventType)))})
	for {
		select {
		case m := <-messages:
			f(Event{ID: m.Actor.ID, Name: string(m.Action), At: time.Unix(0, m.TimeNano)})
		case err := <-failed:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("events: %w", err)
		}
	}
}
