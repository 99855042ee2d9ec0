package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/imagevolume"
	"github.com/cridock/cridock/translate"
)

const (
	// volumePrefix begins the names of containers that are never started and keep
	// an image's layers while a container has the image for a volume. The store's
	// owner follows, and a hash of the image's ID. The name is what such a container
	// is known by: labels can be the image's.
	volumePrefix = "cridock_image-volume_"
	// layerDriver is the only storage driver whose layers are plain directories
	// for the kernel's overlay file system, and that tells where they are.
	layerDriver = "overlay2"
)

// resolveImageMount finds the image of an image volume. For an engine that
// cannot mount images it makes the mount, until releaseMounts; name is
// Docker's of the container. A sub-path that is no directory of the image is
// found here: Docker would only fail the start, or mount a file.
func (s *Service) resolveImageMount(ctx context.Context, m *runtimeapi.Mount, name string) (translate.ResolvedMount, error) {
	image, err := s.image(ctx, m.GetImage().GetImage())
	if err != nil {
		return translate.ResolvedMount{}, err
	}
	resolved := translate.ResolvedMount{ImageID: image.ID}
	if !s.Host().ImageMounts {
		resolved.Source, err = s.mountImage(ctx, image.ID, m.GetImageSubPath(), name)
	} else if m.GetImageSubPath() != "" {
		err = s.checkSubPath(ctx, image.ID, m.GetImageSubPath())
	}
	return resolved, err
}

// errNoDirectory: a sub-path names a file. Kubernetes mounts directories of
// images only, and so does containerd.
var errNoDirectory = errors.New("not a directory")

// subPathError tells a path that cannot be mounted from an image that is gone.
func subPathError(imageID, subPath string, err error) error {
	switch {
	case errors.Is(err, errNoDirectory):
		return fmt.Errorf("image_sub_path %q: %w: %w in image %s; only directories can be mounted", subPath, errdefs.ErrFailedPrecondition, err, imageID)
	case errdefs.IsNotFound(err):
		return fmt.Errorf("image_sub_path %q: %w: not in image %s", subPath, errdefs.ErrFailedPrecondition, imageID)
	}
	return err
}

// mountImage mounts an image on the node and returns the path of what the
// sub-path names in it.
func (s *Service) mountImage(ctx context.Context, imageID, subPath, name string) (string, error) {
	layers, err := s.imageLayers(ctx, imageID)
	if err != nil {
		return "", err
	}
	owner := shortHash(name)
	// Before the mount: from here on nobody can remove the layers.
	if err := s.holdImage(ctx, imageID, owner); err != nil {
		return "", fmt.Errorf("hold image %s: %w", imageID, err)
	}
	root, _, err := s.volumes.Mount(owner, shortHash(imageID), layers)
	if err != nil {
		return "", fmt.Errorf("mount image %s: %w", imageID, err)
	}
	path, err := imagevolume.Resolve(root, subPath)
	if err != nil {
		return "", subPathError(imageID, subPath, err)
	}
	if info, err := os.Lstat(path); err != nil {
		return "", fmt.Errorf("image_sub_path %q: %w", subPath, err)
	} else if !info.IsDir() {
		return "", subPathError(imageID, subPath, errNoDirectory)
	}
	return path, nil
}

// imageLayers lists the directories of an image's layers, the uppermost first.
func (s *Service) imageLayers(ctx context.Context, imageID string) ([]string, error) {
	inspect, err := s.engine.ImageInspect(ctx, imageID)
	if err != nil {
		return nil, fmt.Errorf("inspect image %s: %w", imageID, err)
	}
	// Docker describes an image as it would a container: its top layer as the
	// upper directory, which only the image's containers would have below them.
	upper, lower := inspect.GraphDriver.Data["UpperDir"], inspect.GraphDriver.Data["LowerDir"]
	if inspect.GraphDriver.Name != layerDriver || upper == "" {
		h := s.Host()
		return nil, fmt.Errorf("%w: needs Docker 28.0 (API 1.48), or storage driver %s; this engine is %s (API %s) with %q",
			errdefs.ErrFailedPrecondition, layerDriver, h.EngineVersion, h.APIVersion, s.engine.Capabilities().StorageDriver)
	}
	return append([]string{upper}, filepath.SplitList(lower)...), nil
}

// holdImage makes the container that keeps an image's layers. Even a forced
// removal of the image leaves what a container is based on.
func (s *Service) holdImage(ctx context.Context, imageID, owner string) error {
	cfg, host := neverStarted(imageID)
	_, err := s.engine.ContainerCreate(ctx, volumePrefix+owner+"_"+shortHash(imageID), cfg, host, nil)
	if errdefs.IsConflict(err) {
		return nil // by an earlier call of the same request: the name says all
	}
	return err
}

// neverStarted describes a container that only serves to have an image.
func neverStarted(imageID string) (*container.Config, *container.HostConfig) {
	return &container.Config{Image: imageID, Entrypoint: []string{"/never-started"}},
		&container.HostConfig{NetworkMode: "none", LogConfig: container.LogConfig{Type: "none"}}
}

// checkSubPath makes sure that a path is a directory in an image.
func (s *Service) checkSubPath(ctx context.Context, imageID, subPath string) error {
	return s.lookInto(ctx, imageID, func(probe string) error {
		_, err := s.engine.ContainerFile(ctx, probe, "/"+subPath, 0)
		switch {
		case errdefs.IsInvalidArgument(err):
			return nil // there, and not a file
		case err == nil || errdefs.IsOutOfRange(err):
			err = errNoDirectory // an empty file, or one with content
		}
		return subPathError(imageID, subPath, err)
	})
}

// releaseMounts takes away what was made on the node for the mounts of a
// container that is gone, by its name. It does nothing while there is a
// container of that name.
func (s *Service) releaseMounts(ctx context.Context, name string) error {
	owners, err := s.mountOwners(ctx)
	owner := shortHash(name)
	if err != nil || owners[owner] {
		return err
	}
	err = s.removeMountSpec(owner)
	if s.volumes.Has(owner) {
		err = errors.Join(err, s.releaseOwner(ctx, owner))
	}
	return err
}

// mountOwners are the owners that what is made for mounts of today's containers
// has.
func (s *Service) mountOwners(ctx context.Context) (map[string]bool, error) {
	containers, err := s.index.Containers(ctx)
	owners := make(map[string]bool, len(containers))
	for _, c := range containers {
		owners[shortHash(c.Name)] = true
	}
	return owners, err
}

// releaseOwner leaves the owner's directory for last: it says that there is
// something to release.
func (s *Service) releaseOwner(ctx context.Context, owner string) error {
	holders, err := s.named(ctx, volumePrefix+owner+"_")
	if err != nil {
		return fmt.Errorf("image volumes: %w", err)
	}
	for id, image := range holders {
		if !isShortHash(image) {
			continue
		}
		if err := ignoreNotFound(s.engine.ContainerRemove(ctx, id)); err != nil {
			return fmt.Errorf("image volumes: remove container %s: %w", id, err)
		}
	}
	return s.volumes.Unmount(owner)
}

// named lists the containers whose names begin with prefix, by ID, with what
// follows it.
func (s *Service) named(ctx context.Context, prefix string) (map[string]string, error) {
	list, err := s.engine.ContainerList(ctx, filters.NewArgs(filters.Arg("name", "^/"+regexp.QuoteMeta(prefix))))
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, c := range list {
		for _, name := range c.Names {
			if rest, ok := strings.CutPrefix(name, "/"+prefix); ok {
				found[c.ID] = rest
			}
		}
	}
	return found, nil
}

// collectImageVolumes releases image volumes of containers that went while no
// cridock was there, and what a reboot has left of them.
func (s *Service) collectImageVolumes(ctx context.Context) error {
	// These first: what is made from now on is not looked at.
	owners, err := s.volumes.Foreign()
	if err != nil {
		return err
	}
	holders, err := s.named(ctx, volumePrefix)
	if err != nil {
		return err
	}
	for _, rest := range holders {
		owner, image, _ := strings.Cut(rest, "_")
		if isShortHash(owner) && isShortHash(image) && !s.volumes.Has(owner) {
			owners = append(owners, owner)
		}
	}
	live, err := s.mountOwners(ctx)
	if err != nil {
		return err
	}
	for _, owner := range owners {
		if !live[owner] {
			err = errors.Join(err, s.releaseOwner(ctx, owner))
		}
	}
	return err
}
