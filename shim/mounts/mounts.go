package mounts

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/mounts/imagevolume"
	"github.com/cridock/cridock/translate"
)

// Engine are the calls to Docker that mounts need, as in [engine.Containers],
// [engine.Images] and [engine.System].
type Engine interface {
	Capabilities() *engine.Capabilities
	ContainerFile(ctx context.Context, id, path string, limit int64) ([]byte, error)
	ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error)
	ImageInspect(ctx context.Context, ref string) (image.InspectResponse, error)
}

// Unstarted are the containers that are created only to hold an image and are never
// started.
type Unstarted interface {
	// Create returns the ID of a new container of an image. errdefs.ErrConflict: the
	// name is taken.
	Create(ctx context.Context, name string, image translate.Image) (id string, err error)
	// Named maps the IDs of the containers whose names begin with prefix to the rest of
	// the name.
	Named(ctx context.Context, prefix string) (map[string]string, error)
	// Remove removes a container; a missing one is success.
	Remove(ctx context.Context, id string) error
}

// Index has the containers of Kubernetes.
type Index interface {
	Container(ctx context.Context, id string) (*translate.Container, error)
	Containers(ctx context.Context) ([]*translate.Container, error)
}

// Options are what a Preparer works with. All functions and interfaces are required.
type Options struct {
	// ImageVolumeDir is where images are mounted, for engines that cannot mount
	// images. The engine must see these mounts.
	ImageVolumeDir string
	// CDISpecDirs are searched for CDI devices if the engine does not inject them;
	// later ones take precedence.
	CDISpecDirs []string
	// AbsentSourcesToReject are host paths at and below which no directory is created
	// for a mount whose source is missing.
	AbsentSourcesToReject []string
	// Instance distinguishes this cridock's CDI specifications from those of others on
	// the node. It must be the same after a restart.
	Instance string

	Engine    Engine
	Unstarted Unstarted
	Index     Index
	// Host returns what the translation depends on.
	Host func() translate.Host
	// Image finds an image on the node. A missing one is errdefs.ErrNotFound.
	Image func(ctx context.Context, ref string) (translate.Image, error)
	// Artifact returns the directory with the files of an OCI artifact; ok is false for
	// an image of the engine.
	Artifact func(ctx context.Context, imageID string) (dir string, ok bool, err error)
	// LookInto calls look with the ID of a container of an image that exists only for
	// this call and is never started.
	LookInto func(ctx context.Context, image translate.Image, look func(containerID string) error) error
}

// Preparer prepares and releases the mounts of containers. Calls for different
// containers may run in parallel, those for one container must not.
type Preparer struct {
	o       Options
	volumes *volumes
	specs   *specFiles
}

// New returns a Preparer. It neither calls the engine nor touches the disk.
func New(o Options) *Preparer {
	return &Preparer{
		o:       o,
		volumes: &volumes{Options: o, store: imagevolume.New(o.ImageVolumeDir)},
		specs: &specFiles{
			prefix: "cridock-" + translate.ShortHash(o.Instance) + "-",
			dir:    func() beneath.Root { return beneath.Root(SpecDir(o.Engine.Capabilities())) },
		},
	}
}

// Resolved is what the translation of a container needs to know of the node.
type Resolved struct {
	// Mounts has the length and order of the request's mounts.
	Mounts []translate.ResolvedMount
	// CDI are the edits of the requested CDI devices; nil without any.
	CDI     *translate.CDIEdits
	Devices []container.DeviceMapping
}

// Resolve finds the sources of a container's mounts and devices and creates what
// they need. name is the container's Docker name, handler its pod's runtime handler.
// Release removes what it has created, also after an error. A missing image is
// errdefs.ErrNotFound; what else is missing on the node or cannot be done with this
// engine is errdefs.ErrFailedPrecondition. Errors of image volumes are a
// [translate.ReasonError].
func (m *Preparer) Resolve(ctx context.Context, cfg *runtimeapi.ContainerConfig, handler, name string) (r Resolved, err error) {
	if r.Mounts, err = m.sources(ctx, cfg.GetMounts(), name); err != nil {
		return Resolved{}, err
	}
	if err := m.addOptionMounts(cfg.GetMounts(), r.Mounts, handler, name); err != nil {
		return Resolved{}, err
	}
	if r.CDI, err = m.cdiEdits(ctx, cfg); err != nil {
		return Resolved{}, err
	}
	if r.Devices, err = expandDevices(cfg.GetDevices()); err != nil {
		return Resolved{}, err
	}
	return r, nil
}

// sources finds the real source of each mount.
func (m *Preparer) sources(ctx context.Context, mounts []*runtimeapi.Mount, name string) ([]translate.ResolvedMount, error) {
	resolved := make([]translate.ResolvedMount, len(mounts))
	for i, mount := range mounts {
		if mount.GetImage().GetImage() != "" {
			r, err := m.volumes.resolve(ctx, mount, translate.ShortHash(name))
			if err != nil {
				return nil, &translate.ReasonError{Reason: translate.ReasonImageVolumeMountFailed, Err: fmt.Errorf("mounts[%d].image: %w", i, err)}
			}
			resolved[i] = r
			continue
		}
		source, err := hostPath(ctx, mount.GetHostPath(), m.o.AbsentSourcesToReject)
		if err != nil {
			return nil, fmt.Errorf("mounts[%d].host_path %q: %w: %w", i, mount.GetHostPath(), errdefs.ErrFailedPrecondition, err)
		}
		resolved[i].Source = source
	}
	return resolved, nil
}

// Release removes what Resolve has created for a removed container, by its Docker
// name. It does nothing while a container has that name, and is idempotent.
func (m *Preparer) Release(ctx context.Context, name string) error {
	owners, err := m.owners(ctx)
	owner := translate.ShortHash(name)
	if err != nil || owners[owner] {
		return err
	}
	err = m.specs.remove(owner)
	if m.volumes.store.Has(owner) {
		err = errors.Join(err, m.volumes.release(ctx, owner))
	}
	return err
}

// Sweep releases the mounts of containers that were removed while cridock was not
// running, and what a reboot has left of image volumes. Call it once, after the
// index's first sync with Docker.
func (m *Preparer) Sweep(ctx context.Context) error {
	return errors.Join(m.volumes.sweep(ctx, m.owners), m.specs.sweep(ctx, m.owners))
}

// owners returns the owners, hashes of names, of all existing containers.
func (m *Preparer) owners(ctx context.Context) (map[string]bool, error) {
	containers, err := m.o.Index.Containers(ctx)
	owners := make(map[string]bool, len(containers))
	for _, c := range containers {
		owners[translate.ShortHash(c.Name)] = true
	}
	return owners, err
}
