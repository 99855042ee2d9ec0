package shim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/backoff"
	"github.com/cridock/cridock/internal/undo"
	"github.com/cridock/cridock/shim/checkpoint"
	"github.com/cridock/cridock/shim/state"
	"github.com/cridock/cridock/shim/stats"
	"github.com/cridock/cridock/translate"
)

// CheckpointContainer writes the state of a running container to an archive at
// location, a path on the node; the container then continues. Package checkpoint
// describes the archive. On failure nothing new is at location.
//
// It is Unimplemented if the daemon is not experimental or has no CRIU. A
// checkpoint that exceeds the timeout (zero: that of any operation) is
// DeadlineExceeded. Docker cannot cancel it, so the container stays frozen until
// it is done; its files are removed then.
func (s *Service) CheckpointContainer(ctx context.Context, r *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	if caps := s.engine.Capabilities(); caps == nil || !caps.Experimental {
		return nil, fmt.Errorf("checkpoint of a container: %w: Docker needs \"experimental\": true in daemon.json, and CRIU on the node", errdefs.ErrNotImplemented)
	}
	c, err := s.index.Container(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	switch {
	case !filepath.IsAbs(r.GetLocation()):
		return nil, fmt.Errorf("location %q: %w: not an absolute path", r.GetLocation(), errdefs.ErrInvalidArgument)
	case r.GetTimeout() < 0:
		return nil, fmt.Errorf("timeout %d: %w: negative", r.GetTimeout(), errdefs.ErrInvalidArgument)
	case r.GetTimeout() > 0:
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(min(r.GetTimeout(), int64(maxGrace/time.Second)))*time.Second)
		defer cancel()
	}
	_, err = withLock(ctx, s, "checkpoint/"+c.ID, func(op context.Context) (struct{}, error) {
		return struct{}{}, s.checkpoints.take(op, ctx, c.ID, r.GetLocation())
	})
	return &runtimeapi.CheckpointContainerResponse{}, err
}

// checkpointer takes checkpoints of containers.
type checkpointer struct {
	engine    checkpointEngine
	state     *state.Store
	container func(ctx context.Context, id string) (*translate.Container, error)
	// effective returns a container with the resources in force.
	effective func(*translate.Container) *translate.Container
	openLog   func(*translate.Container) (*os.File, error)
	layers    func() stats.Layers
	host      func() translate.Host
}

// checkpointEngine is the part of Docker that checkpoints need.
type checkpointEngine interface {
	ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error)
	ContainerPause(ctx context.Context, id string) error
	ContainerUnpause(ctx context.Context, id string) error
	ContainerCheckpoint(ctx context.Context, id, dir, name string) error
}

// take creates no archive once the context caller is done.
func (p *checkpointer) take(ctx, caller context.Context, id, location string) error {
	c, err := p.container(ctx, id)
	if err != nil {
		return err
	}
	if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return fmt.Errorf("container %s is %s: %w; only a running container can be checkpointed", c.ID, c.State, errdefs.ErrFailedPrecondition)
	}
	// Ask Docker itself: a container that is paused now would be unpaused at the end.
	if in, err := p.engine.ContainerInspect(ctx, c.ID); err != nil {
		return err
	} else if in.State.Paused {
		return fmt.Errorf("container %s is already paused: %w; unpause it first", c.ID, errdefs.ErrFailedPrecondition)
	}
	// Fail now rather than after all the work.
	if info, err := os.Stat(filepath.Dir(location)); err != nil || !info.IsDir() {
		return fmt.Errorf("location %q: %w: its parent is not an existing directory", location, errdefs.ErrFailedPrecondition)
	}
	files := p.state.Container(c.ID)
	if err := files.Mkdir(state.Checkpoint); err != nil {
		return err
	}
	if err := p.pauseAndTake(ctx, c); err != nil {
		return fmt.Errorf("checkpoint container %s: %w", c.ID, err)
	}
	defer func() {
		if err := p.discard(ctx, c.ID); err != nil {
			klog.FromContext(ctx).Error(err, "Failed to remove a checkpoint's files; they stay until the next start", "containerID", c.ID)
		}
	}()
	if err := checkpoint.Archive(caller, files.Path(state.Checkpoint), location); err != nil {
		return fmt.Errorf("archive of the checkpoint of container %s: %w", c.ID, err)
	}
	return nil
}

// pauseAndTake writes all parts of a checkpoint while the container is paused,
// so that its memory, files and log match. On failure it removes the checkpoint's
// directory, unless the container could not be unpaused: see resume.
func (p *checkpointer) pauseAndTake(ctx context.Context, c *translate.Container) (err error) {
	dir := p.state.Container(c.ID).Path(state.Checkpoint)
	defer func() {
		if uerr := p.unpause(ctx, c.ID); uerr != nil {
			err = errors.Join(err, uerr)
		} else if err != nil {
			err = errors.Join(err, p.discard(ctx, c.ID))
		}
	}()
	if err := p.engine.ContainerPause(ctx, c.ID); err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	if err := p.engine.ContainerCheckpoint(ctx, c.ID, dir, checkpoint.Images); err != nil {
		return checkpointError(err)
	}
	parts, err := p.parts(c)
	if err != nil {
		return err
	}
	if parts.Log, err = p.openLog(c); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	if parts.Log != nil {
		defer func() { _ = parts.Log.Close() }()
	}
	return checkpoint.Describe(ctx, dir, parts)
}

// discard removes a checkpoint's files, and the rest of a container's that was removed
// meanwhile: its removal has left the directory.
func (p *checkpointer) discard(ctx context.Context, id string) error {
	files := p.state.Container(id)
	err := files.Remove(state.Checkpoint)
	if _, gone := p.container(ctx, id); errdefs.IsNotFound(gone) {
		err = errors.Join(err, files.Release())
	}
	return err
}

func (p *checkpointer) parts(c *translate.Container) (checkpoint.Container, error) {
	spec, err := checkpoint.SpecFile(c.ID, c.Pid)
	if err != nil {
		return checkpoint.Container{}, err
	}
	upper := c.UpperDir
	if upper == "" {
		var sure bool
		if upper, sure, err = p.layers().UpperDir(c.ID, c.Pid); err != nil {
			return checkpoint.Container{}, err
		}
		if !sure { // it could be another container's
			return checkpoint.Container{}, fmt.Errorf("%w: Docker's mounts in %s cannot be seen from here, so which files are the container's own is unknown", errdefs.ErrFailedPrecondition, p.layers().Mounts)
		}
	}
	if upper == "" {
		return checkpoint.Container{}, fmt.Errorf("storage driver %q: %w: the container has no overlay below Docker's directory of layers, which a checkpoint needs to tell its files from its image's", c.Driver, errdefs.ErrFailedPrecondition)
	}
	status := translate.CRIContainerStatus(p.effective(c))
	image := status.GetImage().GetImage()
	return checkpoint.Container{
		Config: checkpoint.Config{
			ID: c.ID, Name: c.Name, Image: image, ImageName: image, ImageRef: c.ImageRef,
			Runtime: cmp.Or(c.RuntimeHandler, p.host().DefaultRuntime), CreatedAt: time.Unix(0, c.CreatedAt).UTC(), CheckpointedAt: time.Now().UTC(),
		},
		Status: status, Spec: spec, UpperDir: upper,
	}, nil
}

// noCRIU is in runc's error without CRIU, which Docker returns as an internal
// error: seen with runc 1.1, API 1.45.
const noCRIU = `exec: "criu": executable file not found`

func checkpointError(err error) error {
	if strings.Contains(err.Error(), noCRIU) {
		return fmt.Errorf("%w: Docker needs CRIU, which is not installed on the node: %w", errdefs.ErrNotImplemented, err)
	}
	return err
}

// unpause resumes a container that a checkpoint has paused. A container that is
// gone or not paused is success. It retries while the daemon is unavailable, since
// nobody else would unpause the container.
func (p *checkpointer) unpause(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undo.Timeout)
	defer cancel()
	pause := backoff.Backoff{Min: 10 * time.Millisecond, Max: time.Second}
	for {
		err := p.tryUnpause(ctx, id)
		if err == nil || !errdefs.IsUnavailable(err) {
			return err
		}
		if pause.Wait(ctx, nil) != nil {
			return err
		}
	}
}

func (p *checkpointer) tryUnpause(ctx context.Context, id string) error {
	c, err := p.engine.ContainerInspect(ctx, id)
	if err == nil && c.State.Paused {
		err = p.engine.ContainerUnpause(ctx, id)
	}
	if err := ignoreNotFound(err); err != nil {
		return fmt.Errorf("container %s stays paused: %w", id, err)
	}
	return nil
}

// resume unpauses the containers of checkpoints that an earlier
// cridock process left unfinished, and removes their files.
func (p *checkpointer) resume(ctx context.Context) error {
	ids, err := p.state.ContainersWith(state.Checkpoint)
	for _, id := range ids {
		if uerr := p.tryUnpause(ctx, id); uerr != nil {
			err = errors.Join(err, uerr)
			continue
		}
		err = errors.Join(err, p.state.Container(id).Remove(state.Checkpoint))
	}
	return err
}
