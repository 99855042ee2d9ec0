package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/internal/trust"
	"github.com/cridock/cridock/shim/checkpoint"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/images"
	"github.com/cridock/cridock/shim/podlogs"
	"github.com/cridock/cridock/shim/state"
	"github.com/cridock/cridock/translate"
)

// restorer restores checkpoints: a container whose image is one is created from the
// image that the checkpoint is based on, gets the checkpoint's files, and is started
// by CRIU. All but its processes comes from the request to create it.
//
// What is left to do is with Docker: the container's record says that it is restored,
// and its directory restoreName exists once all files are in place.
type restorer struct {
	engine    restoreEngine
	patterns  images.Pins
	image     func(ctx context.Context, ref string) (translate.Image, error)
	logs      *podlogs.Logs
	state     *state.Store
	container func(ctx context.Context, id string) (*translate.Container, error)
	// scratch is a directory on which a thread of its own may mount.
	scratch string
}

// restoreEngine is the part of Docker that restores need.
type restoreEngine interface {
	Capabilities() *engine.Capabilities
	ImageInspect(ctx context.Context, ref string) (image.InspectResponse, error)
	ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error)
	ContainerStart(ctx context.Context, id string) error
	ContainerRestore(ctx context.Context, id, checkpoint string) error
}

const (
	restoreName = "cridock"
	// restoreDraft is where CRIU's files are until all are there.
	restoreDraft = ".cridock.part"
	// overlayDriver is the storage driver whose layers are directories.
	overlayDriver = "overlay2"
)

// checkpointLabels are names of annotations: a checkpoint image has them in
// its manifest, which Docker does not keep, and may have them as labels too.
var checkpointLabels = []string{"org.criu.checkpoint.container.name", "io.kubernetes.cri-o.annotations.checkpoint.name"}

// restoring is a checkpoint that a container is to be restored from; nil: it is a new
// container.
type restoring struct {
	name   string // of the checkpoint, as requested
	source checkpoint.Source
	base   translate.Image
	binds  []string
	files  []*os.File
}

// find returns the image to create a container from, and the checkpoint that the requested
// one is, nil if it is an ordinary one. It is ErrFailedPrecondition, or ErrNotImplemented,
// if a checkpoint must or can not be restored.
func (r *restorer) find(ctx context.Context, ref string) (*restoring, translate.Image, error) {
	var img translate.Image
	archive := filepath.IsAbs(ref)
	if !archive {
		var err error
		if img, err = r.image(ctx, ref); err != nil {
			return nil, img, err
		}
	}
	if archive && !r.patterns.MatchName(ref) || !archive && !r.patterns.Match(img) {
		isLabel := func(key string) bool { _, ok := img.Labels[key]; return ok }
		if archive || slices.ContainsFunc(checkpointLabels, isLabel) {
			return nil, img, fmt.Errorf("image %q: %w: a checkpoint, and none of the patterns in checkpoint-images matches it", ref, errdefs.ErrFailedPrecondition)
		}
		return nil, img, nil
	}
	found := &restoring{name: ref}
	if err := r.open(ctx, found, img); err != nil {
		found.close()
		return nil, img, fmt.Errorf("restore checkpoint %q: %w", ref, err)
	}
	return found, found.base, nil
}

// open opens a checkpoint, the image img or else an archive, and reads what it is of.
func (r *restorer) open(ctx context.Context, found *restoring, img translate.Image) (err error) {
	if err := r.able(); err != nil {
		return err
	}
	if img.ID == "" {
		found.source, err = found.archive()
	} else {
		found.source, err = r.content(ctx, found, img.ID)
	}
	if err != nil {
		return err
	}
	d, err := found.source.Describe()
	if err != nil {
		return err
	}
	found.binds = d.Binds
	found.base, err = r.base(ctx, d.Config)
	return err
}

// able returns an error if the engine cannot restore.
func (r *restorer) able() error {
	caps := r.engine.Capabilities()
	switch {
	case caps == nil || !caps.Experimental:
		return fmt.Errorf("%w: Docker needs \"experimental\": true in daemon.json, and CRIU on the node", errdefs.ErrNotImplemented)
	case caps.StorageDriver != overlayDriver:
		return fmt.Errorf("%w: it needs Docker's storage driver %s, not %s", errdefs.ErrNotImplemented, overlayDriver, caps.StorageDriver)
	case caps.UsernsRemap || caps.Rootless:
		return fmt.Errorf("%w: Docker runs containers in a user namespace, in which CRIU cannot restore", errdefs.ErrNotImplemented)
	}
	return nil
}

// archive opens an archive that only root can change.
func (f *restoring) archive() (checkpoint.Source, error) {
	if filepath.Clean(f.name) != f.name {
		return nil, fmt.Errorf("%w: not a clean path", errdefs.ErrInvalidArgument) // it may match a pattern and lead elsewhere
	}
	if err := trust.Check(f.name, 0); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
	}
	dir, base := filepath.Split(filepath.Clean(f.name))
	file, err := beneath.Root(dir).Open(base)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
	}
	f.files = append(f.files, file)
	return checkpoint.Tar(file), nil
}

// content opens the files of an image.
func (r *restorer) content(ctx context.Context, f *restoring, imageID string) (checkpoint.Source, error) {
	in, err := r.engine.ImageInspect(ctx, imageID)
	if err != nil {
		return nil, err
	}
	// Docker describes an image like a container, with its top layer as the upper
	// directory.
	layers := append([]string{in.GraphDriver.Data["UpperDir"]}, filepath.SplitList(in.GraphDriver.Data["LowerDir"])...)
	if layers[0] == "" {
		return nil, fmt.Errorf("%w: Docker reports no layers of the image", errdefs.ErrFailedPrecondition)
	}
	if len(layers) == 1 {
		return checkpoint.Dir(beneath.Root(layers[0])), nil
	}
	root, err := r.mount(checkpoint.Layers{Lower: layers})
	if err != nil {
		return nil, err
	}
	f.files = append(f.files, root)
	return checkpoint.Dir(checkpoint.Path(root)), nil
}

// base returns the image that a checkpoint is based on. Its name alone is not enough if
// its digest is known: CRIU needs the same files.
func (r *restorer) base(ctx context.Context, cfg checkpoint.Config) (translate.Image, error) {
	names := []string{cfg.ImageRef}
	if cfg.ImageRef == "" {
		names = []string{cfg.ImageName, cfg.Image}
	}
	var err error
	for _, name := range names {
		if name == "" {
			continue
		}
		var img translate.Image
		if img, err = r.image(ctx, name); err == nil {
			return img, nil
		}
		if !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) {
			return img, err
		}
	}
	return translate.Image{}, fmt.Errorf("%w: the image it is based on, %q (%q), is not on the node; pull it first", errdefs.ErrFailedPrecondition, cfg.ImageName, cfg.ImageRef)
}

// close closes the checkpoint's files; nil has none.
func (f *restoring) close() {
	if f == nil {
		return
	}
	for _, file := range f.files {
		_ = file.Close()
	}
}

// check returns an error if a container with this configuration cannot be restored from
// the checkpoint; nil accepts all. CRIU fails without a mount of the old container, and
// ignores one that it did not have.
func (f *restoring) check(cfg *runtimeapi.ContainerConfig, create *translate.Create) error {
	if f == nil {
		return nil
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("restore checkpoint %q: %w: "+format, append([]any{f.name, errdefs.ErrFailedPrecondition}, args...)...)
	}
	if create.Seam != nil {
		return fail("the container needs cridock-runtime, which cannot restore; it is needed for user namespaces of pods, and for what Docker's API has no field for")
	}
	var missing, added []string
	has := slices.Clone(f.base.Volumes)
	for _, m := range cfg.GetMounts() {
		path := filepath.Clean(m.GetContainerPath())
		has = append(has, path)
		if !slices.Contains(f.binds, path) && !checkpoint.IsOrdinaryMount(path) {
			added = append(added, path)
		}
	}
	for _, bind := range f.binds {
		if !slices.Contains(has, bind) {
			missing = append(missing, bind)
		}
	}
	if len(missing)+len(added) > 0 {
		return fail("the container must have the mounts that the old one had; missing: %q, added: %q", missing, added)
	}
	return nil
}

// settle is like its argument, but has a container replaced that has not got all of the
// checkpoint's files: an earlier process was killed before.
func (r *restorer) settle(from *restoring, otherwise settle) settle {
	if from == nil {
		return otherwise
	}
	return func(ctx context.Context, holder container.InspectResponse) (bool, error) {
		keep, err := otherwise(ctx, holder)
		return keep && r.filled(holder.ID), err
	}
}

// dir returns the directory of a container's checkpoints among Docker's files.
func (r *restorer) dir(id string) string {
	return filepath.Join(r.engine.Capabilities().RootDir, "containers", id, "checkpoints")
}

func (r *restorer) filled(id string) bool {
	info, err := os.Lstat(filepath.Join(r.dir(id), restoreName))
	return err == nil && info.IsDir()
}

// fill gives a new container the files of its checkpoint, if it is to be restored.
func (r *restorer) fill(ctx context.Context, id string, job *containerJob) error {
	if job.restore == nil {
		return nil
	}
	c, err := r.container(ctx, id)
	if err != nil {
		return err
	}
	job.undo.Push(func(context.Context) error {
		return errors.Join(r.logs.Discard(c), r.state.Container(c.ID).Release())
	})
	if err := r.unpack(ctx, c, job.restore.source); err != nil {
		return fmt.Errorf("restore checkpoint %q: %w", job.restore.name, err)
	}
	return nil
}

func (r *restorer) unpack(ctx context.Context, c *translate.Container, source checkpoint.Source) error {
	in, err := r.engine.ContainerInspect(ctx, c.ID)
	if err != nil {
		return err
	}
	data := in.GraphDriver.Data
	root, err := r.mount(checkpoint.Layers{Lower: filepath.SplitList(data["LowerDir"]), Upper: data["UpperDir"], Work: data["WorkDir"]})
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	draft := filepath.Join(r.dir(c.ID), restoreDraft)
	if err := os.MkdirAll(draft, 0o700); err != nil {
		return err
	}
	err = source.Restore(ctx, checkpoint.Target{
		Images: draft, Files: checkpoint.Path(root), Log: func(content io.Reader) error { return r.logs.Begin(c, content) },
	})
	if err != nil {
		return err
	}
	return os.Rename(draft, filepath.Join(r.dir(c.ID), restoreName))
}

func (r *restorer) mount(l checkpoint.Layers) (*os.File, error) {
	if err := os.MkdirAll(r.scratch, 0o755); err != nil { //nolint:gosec // cridock's root directory, as package state makes it
		return nil, err
	}
	return l.Mount(r.scratch)
}

// start starts a container, from its checkpoint if it has one, whose files are then
// removed: a container is started only once.
func (r *restorer) start(ctx context.Context, c *translate.Container) error {
	if !c.Restored {
		return r.engine.ContainerStart(ctx, c.ID)
	}
	if !r.filled(c.ID) {
		return fmt.Errorf("%w: the files of its checkpoint are not complete; remove it and create another one", errdefs.ErrFailedPrecondition)
	}
	err := r.engine.ContainerRestore(ctx, c.ID, restoreName)
	if errdefs.IsUnavailable(err) || ctx.Err() != nil {
		return err // Docker may still be reading them
	}
	if rerr := os.RemoveAll(filepath.Join(r.dir(c.ID), restoreName)); rerr != nil {
		klog.FromContext(ctx).Error(rerr, "Failed to remove the files of a restored checkpoint; they stay until the container is removed", "containerID", c.ID)
	}
	if err != nil {
		return fmt.Errorf("restore: %w", checkpointError(err))
	}
	return nil
}
