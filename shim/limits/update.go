package limits

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/undo"
	"github.com/cridock/cridock/translate"
)

// Update changes the resources of a created or running container, zero values of
// want excepted, and stores them; [Keeper.Effective] has them on return. A container
// in another state, or a limit that cannot be set, is errdefs.ErrFailedPrecondition.
// If some of them cannot be set, the others are reverted.
func (k *Keeper) Update(ctx context.Context, id string, want *runtimeapi.LinuxContainerResources) (err error) {
	c, err := k.opts.Index.Container(ctx, id)
	if err != nil {
		return err
	}
	if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING && c.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		return fmt.Errorf("container %s is %s: %w; only a created or running container can be updated", c.ID, c.State, errdefs.ErrFailedPrecondition)
	}
	// The cgroup files that it names are read before anything else is checked.
	if err := translate.ValidateCgroupFiles("linux", want); err != nil {
		return err
	}
	c = k.Effective(c)
	merged := translate.MergeResources(c.Resources, want)
	steps := undo.Stack{}
	defer steps.Run(ctx, &err)
	running := c.State == runtimeapi.ContainerState_CONTAINER_RUNNING
	if running {
		// Restored last, see updateRunning.
		restore, err := k.save(c, append(translate.CgroupFilesForUpdate(merged, k.opts.Host()), translate.CgroupFilesToSave(c.Resources, k.opts.Host())...))
		if err != nil {
			return err
		}
		steps.Push(func(context.Context) error { return restore() })
	}
	if err := k.updateInDocker(ctx, c, want, &steps); err != nil {
		return err
	}
	if running {
		if err := k.updateRunning(c, want, merged, &steps); err != nil {
			return err
		}
	}
	if k.opts.Updated != nil {
		if err := k.opts.Updated(c, want); err != nil {
			return err
		}
		steps.Push(func(context.Context) error { return k.opts.Updated(c, c.Resources) })
	}
	if err := k.records.keep(c.ID, merged); err != nil {
		return fmt.Errorf("store the updated resources of container %s: %w", c.ID, err)
	}
	return k.opts.Index.Sync(ctx, c.ID)
}

func (k *Keeper) updateInDocker(ctx context.Context, c *translate.Container, want *runtimeapi.LinuxContainerResources, steps *undo.Stack) error {
	update, err := translate.DockerUpdate(want, c, k.opts.Host())
	if err != nil || translate.EmptyUpdate(update) {
		return err
	}
	if err := k.opts.Engine.ContainerUpdate(ctx, c.ID, update); err != nil {
		return fmt.Errorf("update container %s: %w", c.ID, err)
	}
	steps.Push(func(ctx context.Context) error {
		if err := k.opts.Engine.ContainerUpdate(ctx, c.ID, translate.DockerRevert(update, c.Resources)); err != nil {
			return fmt.Errorf("revert the update of container %s: %w", c.ID, err)
		}
		return k.opts.Index.Sync(ctx, c.ID)
	})
	return nil
}

// updateRunning sets the resources that Docker has no field for. It sets all of
// them, as an update by Docker makes runc and systemd reset those that the
// container was created with.
func (k *Keeper) updateRunning(c *translate.Container, want, merged *runtimeapi.LinuxContainerResources, steps *undo.Stack) error {
	if err := k.write(c, translate.CgroupFilesForUpdate(merged, k.opts.Host())); err != nil {
		return err
	}
	had := c.Resources.GetOomScoreAdj()
	if adj := want.GetOomScoreAdj(); adj != 0 && adj != had { // zero is "unchanged"
		steps.Push(func(context.Context) error { return k.setOOMScoreAdj(c, had) })
		return k.setOOMScoreAdj(c, adj)
	}
	return nil
}
