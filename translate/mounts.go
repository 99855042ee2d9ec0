package translate

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/mount"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ResolvedMount holds what the caller looked up for the CRI mount of the same
// index.
type ResolvedMount struct {
	// Source is the host path with symbolic links followed. For an image mount it
	// is "" or, for engines without image mounts, where the caller has mounted the
	// image's content at the sub-path.
	Source string
	// ImageID is, for an image mount, the image's ID.
	ImageID string
	// Layers are, for an image mount with a Source, the directories of the image's
	// layers, the uppermost first.
	Layers []string
	// CDIDevice is the name of a CDI device that makes this mount with its
	// mount_options, instead of Docker itself.
	CDIDevice string
}

// mountOptions are the CRI's mount options.
var mountOptions = []string{"noexec", "nodev", "nosuid"}

// validateMount checks as much as it can without the node.
func validateMount(field string, m *runtimeapi.Mount) error {
	switch {
	case m == nil:
		return invalid(field, "nil")
	case !path.IsAbs(m.GetContainerPath()):
		return invalid(field+".container_path", "%q is not an absolute path", m.GetContainerPath())
	case path.Clean(m.GetContainerPath()) == "/":
		return invalid(field+".container_path", "a mount can't replace the root directory")
	}
	if len(m.GetUidMappings()) > 0 || len(m.GetGidMappings()) > 0 {
		if err := validateMappings(field+".uidMappings", m.GetUidMappings(), field+".gidMappings", m.GetGidMappings()); err != nil {
			return err
		}
	}
	if _, ok := runtimeapi.MountPropagation_name[int32(m.GetPropagation())]; !ok {
		return invalid(field+".propagation", "unknown value %d", m.GetPropagation())
	}
	for i, option := range m.GetMountOptions() {
		if !slices.Contains(mountOptions, option) {
			return invalid(fmt.Sprintf("%s.mount_options[%d]", field, i), "%q is not one of %q", option, mountOptions)
		}
	}
	if m.GetRecursiveReadOnly() {
		if !m.GetReadonly() {
			return invalid(field+".recursive_read_only", "needs readonly")
		}
		if m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
			return invalid(field+".recursive_read_only", "needs propagation PRIVATE, not %s", m.GetPropagation())
		}
	}
	if m.GetImage().GetImage() != "" {
		return validateImageMount(field, m)
	}
	return validateBind(field, m)
}

// validateBind accepts an image_sub_path: in a pod with an image volume, the kubelet sets
// it for each mount with a subPath. The host_path of a mount without an image has that
// already.
func validateBind(field string, m *runtimeapi.Mount) error {
	if !path.IsAbs(m.GetHostPath()) {
		return invalid(field+".host_path", "%q is not an absolute path", m.GetHostPath())
	}
	return nil
}

func validateImageMount(field string, m *runtimeapi.Mount) error {
	if m.GetHostPath() != "" {
		return invalid(field+".host_path", "set together with image; set only one")
	}
	if !m.GetReadonly() {
		return &ReasonError{Reason: ReasonImageVolumeMountFailed, Err: invalid(field+".readonly", "an image can only be mounted read-only")}
	}
	if m.GetPropagation() == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL {
		return invalid(field+".propagation", "BIDIRECTIONAL: an image mount has no counterpart on the host")
	}
	if sub := m.GetImageSubPath(); path.IsAbs(sub) || slices.Contains(strings.Split(sub, "/"), "..") {
		return &ReasonError{Reason: ReasonImageVolumeMountFailed, Err: invalid(field+".image_sub_path", "%q must be relative and must not contain \"..\"", sub)}
	}
	return nil
}

// dockerMounts returns Docker's mounts, and the CDI devices that make those with
// mount options, without mounts that the adjustment replaces. Of mounts on the same path
// the last one wins.
func dockerMounts(req ContainerRequest, host Host) ([]mount.Mount, []string, error) {
	requested := req.Config.GetMounts()
	if len(req.Mounts) != len(requested) {
		return nil, nil, invalid("mounts", "%d mounts requested, %d resolved", len(requested), len(req.Mounts))
	}
	last := map[string]int{}
	for i, m := range requested {
		last[path.Clean(m.GetContainerPath())] = i
	}
	var mounts []mount.Mount
	var devices []string
	times := map[string]int{} // mounts of an image
	for i, m := range requested {
		target := path.Clean(m.GetContainerPath())
		if last[target] != i || req.Adjustment.replacesMount(target) {
			continue
		}
		field := fmt.Sprintf("mounts[%d]", i)
		if device := req.Mounts[i].CDIDevice; device != "" {
			devices = append(devices, device)
			continue
		}
		dockerMount, err := dockerMount(field, m, req.Mounts[i], req.runtimeHandler(), host)
		if err != nil {
			return nil, nil, err
		}
		if id := dockerMount.Source; dockerMount.Type == mount.TypeImage && !host.RepeatedImageMounts {
			if dockerMount.Source, err = respell(field, id, times[id]); err != nil {
				return nil, nil, err
			}
			times[id]++
		}
		mounts = append(mounts, dockerMount)
	}
	return mounts, devices, nil
}

// respell returns the source of a container's nth mount of an image, from 0. Docker 28
// names a mount's layer by the container and the source, so it takes each source once.
// An ID has two spellings; anything else could be the name of another image.
func respell(field, id string, nth int) (source string, err error) {
	switch nth {
	case 0:
		return id, nil
	case 1:
		return strings.TrimPrefix(id, "sha256:"), nil
	}
	return "", &ReasonError{Reason: ReasonImageVolumeMountFailed, Err: unmet(field+".image", "Docker before 29 mounts an image at most twice in a container")}
}

func dockerMount(field string, m *runtimeapi.Mount, resolved ResolvedMount, handler string, host Host) (mount.Mount, error) {
	if len(m.GetMountOptions()) > 0 {
		if m.GetImage().GetImage() != "" {
			return mount.Mount{}, unmet(field+".mount_options", "can't be combined with an image")
		}
		if why := host.seamUnmet(handler); why != "" {
			return mount.Mount{}, unmet(field+".mount_options", "needs the engine's CDI support (on by default from Docker 28.2), which this engine (%s) does not have, or %s", orUnknown(host.EngineVersion), why)
		}
	}
	if m.GetImage().GetImage() != "" {
		return imageMount(field, m, resolved, host)
	}
	return bindMount(field, m, resolved.Source, handler, host)
}

func bindMount(field string, m *runtimeapi.Mount, source, handler string, host Host) (mount.Mount, error) {
	if source == "" {
		source = m.GetHostPath()
	}
	options := &mount.BindOptions{Propagation: privatePropagation(source, host)}
	switch m.GetPropagation() {
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		options.Propagation = mount.PropagationRSlave
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		options.Propagation = mount.PropagationRShared
	}
	switch {
	case m.GetRecursiveReadOnly():
		if why := host.recursiveReadOnlyUnmet(field+".recursive_read_only", handler); why != nil {
			return mount.Mount{}, &ReasonError{Reason: ReasonRROUnsupported, Err: why}
		}
		if options.Propagation != mount.PropagationRPrivate {
			return mount.Mount{}, &ReasonError{Reason: ReasonRROUnsupported,
				Err: unmet(field+".recursive_read_only", "Docker does not support it for paths in or above its data directory %s", host.DockerRootDir)}
		}
		// Otherwise cridock-runtime changes it.
		options.ReadOnlyForceRecursive = engineRecursiveReadOnly(handler, host)
		options.ReadOnlyNonRecursive = host.ReadOnlyNonRecursive && !options.ReadOnlyForceRecursive
	case m.GetReadonly():
		options.ReadOnlyNonRecursive = host.ReadOnlyNonRecursive
	}
	return mount.Mount{
		Type:        mount.TypeBind,
		Source:      source,
		Target:      path.Clean(m.GetContainerPath()),
		ReadOnly:    m.GetReadonly(),
		BindOptions: options,
	}, nil
}

// recursiveReadOnlyUnmet returns why a mount can't be recursively read-only; nil if it
// can.
func (h Host) recursiveReadOnlyUnmet(field, handler string) error {
	switch {
	case recursiveReadOnly(handler, h):
		return nil
	case h.seamUnmet(handler) == "" || h.ReadOnlyNonRecursive:
		return unmet(field, "runtime handler %q needs runc 1.1 and Linux 5.12", handler)
	}
	return fmt.Errorf("%w, or %s", h.tooOld(field, "25.0", "1.44"), h.seamUnmet(handler))
}

// privatePropagation returns Docker's form of PRIVATE. It is explicit, as Docker
// may change an unset one. For a source in or above its data directory (it
// compares strings, so "/var/l" counts), Docker refuses rprivate: private copies
// of its mounts would keep them busy. The closest it accepts there is rslave, with
// which mounts made in the container stay private.
func privatePropagation(source string, host Host) mount.Propagation {
	root := host.DockerRootDir
	if root != "" && (strings.HasPrefix(source, root) || strings.HasPrefix(root, source)) {
		return mount.PropagationRSlave
	}
	return mount.PropagationRPrivate
}

func imageMount(field string, m *runtimeapi.Mount, resolved ResolvedMount, host Host) (mount.Mount, error) {
	target := path.Clean(m.GetContainerPath())
	if resolved.Source != "" {
		return mount.Mount{
			Type:        mount.TypeBind,
			Source:      resolved.Source,
			Target:      target,
			ReadOnly:    true,
			BindOptions: &mount.BindOptions{Propagation: privatePropagation(resolved.Source, host), ReadOnlyNonRecursive: host.ReadOnlyNonRecursive},
		}, nil
	}
	if !host.ImageMounts {
		return mount.Mount{}, &ReasonError{Reason: ReasonImageVolumeMountFailed, Err: host.tooOld(field+".image", "28.0", "1.48")}
	}
	if resolved.ImageID == "" {
		return mount.Mount{}, &ReasonError{Reason: ReasonImageVolumeMountFailed, Err: invalid(field+".image", "no image ID found for %q", m.GetImage().GetImage())}
	}
	out := mount.Mount{Type: mount.TypeImage, Source: resolved.ImageID, Target: target, ReadOnly: true}
	if sub := m.GetImageSubPath(); sub != "" {
		out.ImageOptions = &mount.ImageOptions{Subpath: path.Clean(sub)}
	}
	return out, nil
}
