package images

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// RemoveEngine is what a [Remover] needs of the engine; see engine.Images.
type RemoveEngine interface {
	ImageRemove(ctx context.Context, ref string, force bool) error
}

// ContainerIndex lists the containers of pods; see index.Index.
type ContainerIndex interface {
	Containers(ctx context.Context) ([]*translate.Container, error)
}

// Remover removes images.
type Remover struct {
	engine  RemoveEngine
	index   ContainerIndex
	removed func(ctx context.Context, imageID string) error
}

// NewRemover returns a Remover. removed makes a removal visible; its error is
// Remove's.
func NewRemover(e RemoveEngine, ix ContainerIndex, removed func(ctx context.Context, imageID string) error) *Remover {
	return &Remover{engine: e, index: ix, removed: removed}
}

// Remove removes an image by its ID, with all its references. A missing image is
// success; one that a running container uses stays, with all its references, and is
// errdefs.ErrFailedPrecondition.
func (r *Remover) Remove(ctx context.Context, id string) error {
	if err := r.unused(ctx, id); err != nil {
		return err
	}
	// By ID and with force, Docker drops every reference in one step and ignores
	// stopped containers.
	if err := r.engine.ImageRemove(ctx, id, true); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	return r.removed(ctx, id)
}

// Unmounted returns errdefs.ErrFailedPrecondition if a container mounts an artifact and
// has not exited. It need not be running: it may be starting, and the mount is of the
// artifact's only files.
func (r *Remover) Unmounted(ctx context.Context, id string) error {
	containers, err := r.index.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range containers {
		if c.State != runtimeapi.ContainerState_CONTAINER_EXITED && mounts(c, id) {
			return fmt.Errorf("artifact %s: %w: container %s mounts it as a volume", id, errdefs.ErrFailedPrecondition, c.ID)
		}
	}
	return nil
}

// mounts reports whether a container has an image or artifact as a volume.
func mounts(c *translate.Container, id string) bool {
	return slices.ContainsFunc(c.Mounts, func(m *runtimeapi.Mount) bool { return m.GetImage().GetImageRef() == id })
}

// unused returns errdefs.ErrFailedPrecondition if a running container uses an image.
func (r *Remover) unused(ctx context.Context, id string) error {
	containers, err := r.index.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range containers {
		if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			continue
		}
		if c.ImageID == id {
			return fmt.Errorf("image %s: %w: container %s is running from it", id, errdefs.ErrFailedPrecondition, c.ID)
		}
		if mounts(c, id) {
			return fmt.Errorf("image %s: %w: running container %s mounts it as a volume", id, errdefs.ErrFailedPrecondition, c.ID)
		}
	}
	return nil
}
