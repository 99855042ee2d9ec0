package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/backoff"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/shim/podnet"
	"github.com/cridock/cridock/translate"
)

const (
	// createAttempts bounds the attempts to create a container despite name conflicts.
	createAttempts = 3
	// creationWait bounds the wait for somebody else's creation in progress.
	creationWait = time.Minute
	// removalWait bounds the wait for a removal in progress.
	removalWait = time.Minute
)

// settle decides whether to keep the container that holds a wanted name, or to
// have it removed and its name reused. It returns an error if cridock may do
// neither.
type settle func(ctx context.Context, holder container.InspectResponse) (keep bool, err error)

// names creates and removes containers under the names that CRI metadata give them.
type names struct {
	engine   engine.Containers
	index    *index.Index
	networks *podnet.Networks
	host     func() translate.Host
	removed  func(ctx context.Context, id string) // called after a removal
}

// create creates a container. Names make creation idempotent: if the name is
// taken, settle decides whether its holder is the wanted container (existing) or
// what an interrupted call has left.
func (n *names) create(ctx context.Context, c *translate.Create, settle settle) (id string, existing bool, err error) {
	for range createAttempts {
		var holder *container.InspectResponse
		id, holder, err = n.createOrHolder(ctx, c)
		if holder == nil {
			return id, false, err
		}
		keep, serr := settle(ctx, *holder)
		if serr != nil {
			return "", false, fmt.Errorf("container name %s is in use: %w", c.Name, serr)
		}
		if keep {
			return holder.ID, true, n.index.Sync(ctx, holder.ID)
		}
		if rerr := n.remove(ctx, holder.ID); rerr != nil {
			return "", false, fmt.Errorf("replace container %s, which has the name %s: %w", holder.ID, c.Name, rerr)
		}
	}
	return "", false, err
}

// createOrHolder creates a container. If its name is taken it returns the holder, with
// Docker's error.
//
// A taken name may have no holder. Docker reserves the name when a creation begins and
// shows the container when it ends, which may be long after the client has gone, such
// as a cridock that was killed. A removal may also have ended in the meantime. So it
// tries again until the container is there, or the name is free.
func (n *names) createOrHolder(ctx context.Context, c *translate.Create) (string, *container.InspectResponse, error) {
	waiting, cancel := context.WithTimeout(ctx, creationWait)
	defer cancel()
	pause := backoff.Backoff{Min: 50 * time.Millisecond, Max: time.Second}
	for {
		id, err := n.engine.ContainerCreate(ctx, c.Name, c.Config, c.HostConfig, c.Networking)
		if !errdefs.IsConflict(err) {
			return id, nil, err
		}
		holder, herr := n.holder(ctx, c.Name)
		if herr != nil {
			return "", nil, errors.Join(err, herr)
		}
		if holder != nil {
			return "", holder, err
		}
		if pause.Wait(waiting, nil) != nil {
			return "", nil, err
		}
	}
}

// holder returns the container with exactly this name; nil if there is none.
func (n *names) holder(ctx context.Context, name string) (*container.InspectResponse, error) {
	c, err := n.engine.ContainerInspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err == nil && c.Name != "/"+name {
		// Docker also accepts the prefix of an ID.
		return nil, fmt.Errorf("container name %s: %w: Docker returned container %s", name, errdefs.ErrInternal, c.Name)
	}
	return &c, err
}

// remove removes a container from Docker and from the index. A missing one is
// success; if a removal is in progress it waits for that.
func (n *names) remove(ctx context.Context, id string) error {
	err := n.engine.ContainerRemove(ctx, id)
	if errdefs.IsConflict(err) {
		err = n.awaitRemoval(ctx, id, err)
	}
	if err := ignoreNotFound(err); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	n.index.Removed(id)
	n.removed(ctx, id)
	return nil
}

// awaitRemoval waits until a container that somebody else is removing is gone.
// cause is dockerd's error to our own attempt.
func (n *names) awaitRemoval(ctx context.Context, id string, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, removalWait)
	defer cancel()
	pause := backoff.Backoff{Min: 10 * time.Millisecond, Max: time.Second}
	for {
		c, err := n.engine.ContainerInspect(ctx, id)
		switch {
		case errdefs.IsNotFound(err):
			return nil
		case err != nil:
			return errors.Join(cause, err)
		case c.State == nil || c.State.Status != container.StateRemoving:
			return cause
		}
		if err := pause.Wait(ctx, nil); err != nil {
			return errors.Join(cause, err)
		}
	}
}

// settleSandbox keeps a ready sandbox: an earlier call created it and its response
// was lost. Anything less is what such a call has left, and is torn down.
func (n *names) settleSandbox(ctx context.Context, holder container.InspectResponse) (bool, error) {
	if err := ours(holder, translate.KindSandbox); err != nil {
		return false, err
	}
	image, err := n.index.CreatedFrom(ctx, holder)
	if err != nil {
		return false, err
	}
	sb, err := translate.ReadSandbox(holder, image, n.host())
	if err != nil {
		return false, err
	}
	if n.networks.Ready(sb) {
		// The call that created it may have been interrupted before this last step.
		return true, n.networks.Finish(ctx, sb, sb.KnownConfig())
	}
	return false, n.networks.Release(ctx, sb)
}

// settleContainer keeps a container that has not been started and was created by
// the same request, whose response was lost. It replaces any other that is not
// running: that is left from an earlier attempt.
func (n *names) settleContainer(want *translate.Create) settle {
	return func(ctx context.Context, holder container.InspectResponse) (bool, error) {
		if err := ours(holder, translate.KindContainer); err != nil {
			return false, err
		}
		image, err := n.index.CreatedFrom(ctx, holder)
		if err != nil {
			return false, err
		}
		c, err := translate.ReadContainer(holder, image, n.host())
		if err != nil {
			return false, err
		}
		switch c.State {
		case runtimeapi.ContainerState_CONTAINER_RUNNING:
			return false, fmt.Errorf("container %s already runs under this name: %w; use a higher attempt", c.ID, errdefs.ErrAlreadyExists)
		case runtimeapi.ContainerState_CONTAINER_CREATED:
			// An adopted container was not created by our request, whatever its labels say.
			return c.Config != nil && holder.Config.Labels[translate.LabelRequest] == want.Config.Labels[translate.LabelRequest], nil
		default:
			return false, nil
		}
	}
}

// ours returns an error for a container that is not Kubernetes', or not of the
// wanted kind.
func ours(c container.InspectResponse, want translate.Kind) error {
	if kind, ok := translate.IsKubernetes(c.Config.Labels, c.Name); !ok || kind != want {
		return fmt.Errorf("container %s does not belong to this pod: %w; remove or rename it", c.ID, errdefs.ErrAlreadyExists)
	}
	return nil
}
