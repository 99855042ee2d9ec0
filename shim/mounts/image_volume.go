package mounts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/mounts/imagevolume"
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

// volumes are images that containers mount. An owner is the hash of a container's
// Docker name.
type volumes struct {
	Options
	store *imagevolume.Store
}

// resolve finds the image of an image volume. For an engine that cannot mount
// images it mounts the image until release. It rejects a sub-path that is not a
// directory of the image: Docker would only fail the start, or mount a file.
func (v *volumes) resolve(ctx context.Context, m *runtimeapi.Mount, owner string) (translate.ResolvedMount, error) {
	image, err := v.Image(ctx, m.GetImage().GetImage())
	if err != nil {
		return translate.ResolvedMount{}, err
	}
	resolved := translate.ResolvedMount{ImageID: image.ID}
	if dir, ok, err := v.Artifact(ctx, image.ID); err != nil || ok {
		resolved.Source = dir
		if sub := m.GetImageSubPath(); err == nil && sub != "" && path.Clean(sub) != "." {
			err = fmt.Errorf("image_sub_path %q: %w: %s is an artifact, which has no directories", sub, errdefs.ErrFailedPrecondition, image.ID)
		}
		return resolved, err
	}
	if !v.Host().ImageMounts {
		if resolved.Layers, err = v.layers(ctx, image.ID); err == nil {
			resolved.Source, err = v.mount(ctx, image, m.GetImageSubPath(), resolved.Layers, owner)
		}
	} else if m.GetImageSubPath() != "" {
		err = v.checkSubPath(ctx, image, m.GetImageSubPath())
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

// mount mounts the layers of an image on the node and returns the path of the sub-path
// in it.
func (v *volumes) mount(ctx context.Context, image translate.Image, subPath string, layers []string, owner string) (string, error) {
	// Before the mount, so that nobody can remove the layers.
	if err := v.hold(ctx, image, owner); err != nil {
		return "", fmt.Errorf("hold image %s: %w", image.ID, err)
	}
	root, _, err := v.store.Mount(owner, translate.ShortHash(image.ID), layers)
	if err != nil {
		return "", fmt.Errorf("mount image %s: %w", image.ID, err)
	}
	path, err := imagevolume.Resolve(root, subPath)
	if err != nil {
		return "", subPathError(image.ID, subPath, err)
	}
	if info, err := os.Lstat(path); err != nil {
		return "", fmt.Errorf("image_sub_path %q: %w", subPath, err)
	} else if !info.IsDir() {
		return "", subPathError(image.ID, subPath, errNoDirectory)
	}
	return path, nil
}

// layers lists the directories of an image's layers, the uppermost first.
func (v *volumes) layers(ctx context.Context, imageID string) ([]string, error) {
	inspect, err := v.Engine.ImageInspect(ctx, imageID)
	if err != nil {
		return nil, fmt.Errorf("inspect image %s: %w", imageID, err)
	}
	// Docker describes an image like a container, with its top layer as the upper
	// directory; for the image's containers that is a lower one.
	upper, lower := inspect.GraphDriver.Data["UpperDir"], inspect.GraphDriver.Data["LowerDir"]
	if inspect.GraphDriver.Name != layerDriver || upper == "" {
		h := v.Host()
		return nil, fmt.Errorf("%w: needs Docker 28.0 (API 1.48), or storage driver %s; this engine is %s (API %s) with %q",
			errdefs.ErrFailedPrecondition, layerDriver, h.EngineVersion, h.APIVersion, v.Engine.Capabilities().StorageDriver)
	}
	return append([]string{upper}, filepath.SplitList(lower)...), nil
}

// hold creates the container that holds an image's layers. Even a forced removal of
// the image keeps the layers of its containers.
func (v *volumes) hold(ctx context.Context, image translate.Image, owner string) error {
	_, err := v.Unstarted.Create(ctx, volumePrefix+owner+"_"+translate.ShortHash(image.ID), image)
	if errdefs.IsConflict(err) {
		return nil // created by an earlier call: the name identifies owner and image
	}
	return err
}

// checkSubPath returns an error unless a path is a directory in an image.
func (v *volumes) checkSubPath(ctx context.Context, image translate.Image, subPath string) error {
	return v.LookInto(ctx, image, func(probe string) error {
		_, err := v.Engine.ContainerFile(ctx, probe, "/"+subPath, 0)
		switch {
		case errdefs.IsInvalidArgument(err):
			return nil // exists and is not a file
		case err == nil || errdefs.IsOutOfRange(err):
			err = errNoDirectory // an empty or a non-empty file
		}
		return subPathError(image.ID, subPath, err)
	})
}

// release releases the image volumes of an owner. It removes the owner's directory
// last: that shows that there is something to release.
func (v *volumes) release(ctx context.Context, owner string) error {
	holders, err := v.Unstarted.Named(ctx, volumePrefix+owner+"_")
	if err != nil {
		return fmt.Errorf("image volumes: %w", err)
	}
	for id, image := range holders {
		if !translate.IsShortHash(image) {
			continue
		}
		if err := v.Unstarted.Remove(ctx, id); err != nil {
			return fmt.Errorf("image volumes: remove container %s: %w", id, err)
		}
	}
	return v.store.Unmount(owner)
}

// sweep releases the image volumes of owners that live does not return, unless this
// process has mounted them, and the containers whose mounts a reboot has removed. For
// owners that live on without their mounts, release does the rest.
func (v *volumes) sweep(ctx context.Context, live func(context.Context) (map[string]bool, error)) error {
	// List these before the live owners, so that new ones are not considered.
	owners, err := v.store.Foreign()
	if err != nil {
		return fmt.Errorf("image volumes: %w", err)
	}
	holders, err := v.Unstarted.Named(ctx, volumePrefix)
	if err != nil {
		return fmt.Errorf("image volumes: %w", err)
	}
	for _, rest := range holders {
		owner, image, _ := strings.Cut(rest, "_")
		if translate.IsShortHash(owner) && translate.IsShortHash(image) && !v.store.Has(owner) {
			// Before listing the live owners: one that is removed from now on is released.
			if err := v.store.Add(owner); err != nil {
				return fmt.Errorf("image volumes: %w", err)
			}
			owners = append(owners, owner)
		}
	}
	alive, err := live(ctx)
	if err != nil {
		return fmt.Errorf("image volumes: %w", err)
	}
	var errs []error
	for _, owner := range owners {
		if !alive[owner] {
			errs = append(errs, v.release(ctx, owner))
		}
	}
	return errors.Join(errs...)
}
