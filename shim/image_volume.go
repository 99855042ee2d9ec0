package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/imagevolume"
	"github.com/cridock/cridock/translate"
)

const (
	// volumePrefix begins the names of containers that are never started and hold an
	// image's layers while a container mounts the image as a volume. The store's
	// owner and a hash of the image's ID follow. Such a container is recognized by its
	// name, since labels can come from the image.
	volumePrefix = "cridock_image-volume_"
	// layerDriver is the only storage driver whose layers are plain directories
	// for the kernel's overlay file system and that reports their paths.
	layerDriver = "overlay2"
)

// resolveImageMount finds the image of an image volume. For an engine that cannot
// mount images it mounts the image until releaseMounts; name is the container's
// Docker name. It rejects a sub-path that is not a directory of the image: Docker
// would only fail the start, or mount a file.
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

// errNoDirectory means that a sub-path names a file. Kubernetes and containerd
// mount only directories of images.
var errNoDirectory = errors.New("not a directory")

// subPathError classifies a sub-path that is missing or not a directory as
// ErrFailedPrecondition: NotFound would mean a missing image.
func subPathError(imageID, subPath string, err error) error {
	switch {
	case errors.Is(err, errNoDirectory):
		return fmt.Errorf("image_sub_path %q: %w: %w in image %s; only directories can be mounted", subPath, errdefs.ErrFailedPrecondition, err, imageID)
	case errdefs.IsNotFound(err):
		return fmt.Errorf("image_sub_path %q: %w: not in image %s", subPath, errdefs.ErrFailedPrecondition, imageID)
	}
	return err
}

// mountImage mounts an image on the node and returns the path of the sub-path in
// it.
func (s *Service) mountImage(ctx context.Context, imageID, subPath, name string) (string, error) {
	layers, err := s.imageLayers(ctx, imageID)
	if err != nil {
		return "", err
	}
	owner := shortHash(name)
	// Before the mount, so that nobody can remove the layers.
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
	// Docker describes an image like a container, with its top layer as the upper
	// directory; for the image's containers that is a lower one.
	upper, lower := inspect.GraphDriver.Data["UpperDir"], inspect.GraphDriver.Data["LowerDir"]
	if inspect.GraphDriver.Name != layerDriver || upper == "" {
		h := s.Host()
		return nil, fmt.Errorf("%w: needs Docker 28.0 (API 1.48), or storage driver %s; this engine is %s (API %s) with %q",
			errdefs.ErrFailedPrecondition, layerDriver, h.EngineVersion, h.APIVersion, s.engine.Capabilities().StorageDriver)
	}
	return append([]string{upper}, filepath.SplitList(lower)...), nil
}

// holdImage creates the container that holds an image's layers. Even a forced
// removal of the image keeps the layers of its containers.
func (s *Service) holdImage(ctx context.Context, imageID, owner string) error {
	_, err := s.images.unstarted.Create(ctx, volumePrefix+owner+"_"+shortHash(imageID), imageID)
	if errdefs.IsConflict(err) {
		return nil // created by an earlier call: the name identifies owner and image
	}
	return err
}

// checkSubPath returns an error unless a path is a directory in an image.
func (s *Service) checkSubPath(ctx context.Context, imageID, subPath string) error {
	return s.images.probes.Look(ctx, imageID, func(probe string) error {
		_, err := s.engine.ContainerFile(ctx, probe, "/"+subPath, 0)
		switch {
		case errdefs.IsInvalidArgument(err):
			return nil // exists and is not a file
		case err == nil || errdefs.IsOutOfRange(err):
			err = errNoDirectory // an empty or a non-empty file
		}
		return subPathError(imageID, subPath, err)
	})
}

// releaseMounts removes what was created on the node for the mounts of a removed
// container, by its name. It does nothing while a container has that name.
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

// mountOwners returns the owners, hashes of names, of all existing containers.
func (s *Service) mountOwners(ctx context.Context) (map[string]bool, error) {
	containers, err := s.index.Containers(ctx)
	owners := make(map[string]bool, len(containers))
	for _, c := range containers {
		owners[shortHash(c.Name)] = true
	}
	return owners, err
}

// releaseOwner releases the image volumes of an owner. It removes the owner's
// directory last: that shows that there is something to release.
func (s *Service) releaseOwner(ctx context.Context, owner string) error {
	holders, err := s.images.unstarted.Named(ctx, volumePrefix+owner+"_")
	if err != nil {
		return fmt.Errorf("image volumes: %w", err)
	}
	for id, image := range holders {
		if !isShortHash(image) {
			continue
		}
		if err := s.images.unstarted.Remove(ctx, id); err != nil {
			return fmt.Errorf("image volumes: remove container %s: %w", id, err)
		}
	}
	return s.volumes.Unmount(owner)
}

// collectImageVolumes releases image volumes of containers that were removed while
// cridock was not running, and what a reboot has left of image volumes.
func (s *Service) collectImageVolumes(ctx context.Context) error {
	// List these before containers, so that new ones are not considered.
	owners, err := s.volumes.Foreign()
	if err != nil {
		return err
	}
	holders, err := s.images.unstarted.Named(ctx, volumePrefix)
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
