package translate

import (
	"path"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/mount"
)

// DeclaredVolumes says what becomes of the volumes that images declare (VOLUME).
type DeclaredVolumes string

const (
	// DockerVolumes are Docker's anonymous volumes, which are removed with the container.
	// The zero value is the same.
	DockerVolumes DeclaredVolumes = "docker"
	// DirectoryVolumes are directories of the pod, see [ContainerRequest.VolumeDirs].
	DirectoryVolumes DeclaredVolumes = "directory"
	// NoVolumes leaves the paths in the container's root file system.
	NoVolumes DeclaredVolumes = "ignore"
)

// VolumeDir is a directory of the host that becomes a volume.
type VolumeDir struct {
	Path string
	// Kept: a container had it before. Otherwise it is filled with what the image has on
	// the volume's path.
	Kept bool
}

// VolumePaths returns the clean paths, sorted, on which an image declares volumes. It
// leaves out what is no path to mount on, such as "/" or a relative path: Docker refuses
// that, or treats it as it does without cridock.
func VolumePaths(image Image) []string {
	var paths []string
	for _, volume := range image.Volumes {
		if mountable(volume) {
			paths = append(paths, path.Clean(volume))
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

func mountable(volume string) bool {
	return path.IsAbs(volume) && path.Clean(volume) != "/" && !strings.ContainsRune(volume, 0)
}

// declareVolumes makes of the image's volumes what the setting and the adjustment want,
// except where something else is mounted.
func (c *Create) declareVolumes(req ContainerRequest, host Host) error {
	taken := c.mountTargets(req)
	var drop []string
	for _, target := range VolumePaths(req.Image) {
		dir, ok := req.VolumeDirs[target]
		switch {
		case taken[target]:
		case req.Adjustment.removesMount(target) || host.DeclaredVolumes == NoVolumes:
			drop = append(drop, target)
		case ok:
			c.HostConfig.Mounts = append(c.HostConfig.Mounts, volumeOf(target, dir))
		}
	}
	if i := slices.IndexFunc(req.Image.Volumes, func(v string) bool { return !mountable(v) }); i >= 0 && host.DeclaredVolumes == NoVolumes {
		return unmet("image.image", "image-volumes is \"ignore\", but Docker makes its volume on %q, which is no path that something can be mounted on", req.Image.Volumes[i])
	}
	if len(drop) == 0 {
		return nil
	}
	if why := volumesUndroppable(drop, req, host); why != nil {
		return why
	}
	c.useSeam(req.runtimeHandler(), host).DroppedMounts = drop
	return nil
}

// mountTargets returns the clean paths on which the request mounts something. What a CDI
// device mounts besides is known only without the engine's CDI.
func (c *Create) mountTargets(req ContainerRequest) map[string]bool {
	targets := map[string]bool{}
	for _, m := range c.HostConfig.Mounts {
		targets[path.Clean(m.Target)] = true
	}
	for i, m := range req.Config.GetMounts() {
		if target := path.Clean(m.GetContainerPath()); req.Mounts[i].CDIDevice != "" && !req.Adjustment.replacesMount(target) {
			targets[target] = true
		}
	}
	return targets
}

// volumeOf returns an anonymous volume that is a directory of the host: Docker fills it
// with the image's content, as it does not fill a bind mount.
func volumeOf(target string, dir VolumeDir) mount.Mount {
	return mount.Mount{Type: mount.TypeVolume, Target: target, VolumeOptions: &mount.VolumeOptions{
		DriverConfig: &mount.Driver{Name: "local", Options: map[string]string{"type": "none", "o": "bind", "device": dir.Path}},
	}}
}

// HasVolumeDir reports whether a directory is one of the container's volumes.
func (c *Create) HasVolumeDir(dir string) bool {
	return slices.ContainsFunc(c.HostConfig.Mounts, func(m mount.Mount) bool {
		return m.Type == mount.TypeVolume && m.VolumeOptions != nil && m.VolumeOptions.DriverConfig != nil && m.VolumeOptions.DriverConfig.Options["device"] == dir
	})
}

// keepVolumes has Docker leave alone the volumes that an earlier container had: it would
// fill those that were emptied. The hash of the request is made without that, as a
// repeated request finds the directories of the first one kept.
func (c *Create) keepVolumes(req ContainerRequest) {
	for i, m := range c.HostConfig.Mounts {
		if m.Type == mount.TypeVolume && req.VolumeDirs[m.Target].Kept {
			options := *m.VolumeOptions
			options.NoCopy = true
			c.HostConfig.Mounts[i].VolumeOptions = &options
		}
	}
}

// volumesUndroppable returns why a container can't do without these volumes; nil if it
// can.
func volumesUndroppable(targets []string, req ContainerRequest, host Host) error {
	const field = "image.image"
	for _, target := range targets {
		if replacesEngineMount(target) {
			return unmet(field, "its volume on %q takes the place of a mount of Docker's own; mount something else there", target)
		}
	}
	why := host.seamUnmet(req.runtimeHandler())
	switch {
	case why == "":
		return nil
	case host.DeclaredVolumes == NoVolumes:
		return unmet(field, "it declares a volume on %q, and image-volumes is \"ignore\", which needs %s", targets[0], why)
	}
	return unmet(field, "Docker makes its volume on %q in every container; mount something else there: to remove it needs %s", targets[0], why)
}

// replacesEngineMount reports whether a volume takes the place of something that Docker
// would mount there otherwise.
func replacesEngineMount(target string) bool {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if target == dir || strings.HasPrefix(target, dir+"/") {
			return true
		}
	}
	return slices.Contains(engineFiles, target)
}
