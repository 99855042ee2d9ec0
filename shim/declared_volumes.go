package shim

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/state"
	"github.com/cridock/cridock/translate"
)

// makeVolumes returns directories for the volumes that a container's image declares, with
// the setting for them; nil without. Calls for one job return the same.
func (j *containerJob) makeVolumes(image translate.Image, host translate.Host, caps *engine.Capabilities) (map[string]translate.VolumeDir, error) {
	if host.DeclaredVolumes != translate.DirectoryVolumes {
		return nil, nil
	}
	if j.volumes == nil {
		j.volumes = map[string]state.Volume{}
	}
	dirs := map[string]translate.VolumeDir{}
	for _, path := range translate.VolumePaths(image) {
		v, ok := j.volumes[path]
		if !ok {
			owner, err := volumeOwner(j.sandbox, host, caps)
			if err == nil {
				v, err = j.dir.Volume(j.volumeKey(path), owner)
			}
			if err != nil {
				return nil, fmt.Errorf("directory for the image's volume on %q: %w", path, err)
			}
			j.volumes[path] = v
			if !v.Kept {
				j.undo.Push(func(context.Context) error { return j.dir.RemoveVolume(v) })
			}
		}
		dirs[path] = translate.VolumeDir{Path: v.Path, Kept: v.Kept}
	}
	return dirs, nil
}

// volumeKey returns the name of a volume among those of all sandboxes. The same container
// has the same ones after a restart. Nothing in it is the image's text.
func (j *containerJob) volumeKey(path string) string {
	return translate.ShortHash(j.sandbox.ID + translate.ShortHash(j.request.GetConfig().GetMetadata().GetName()) + path)
}

// keepVolumes keeps the directories that a created container has for its restarts, and
// removes those on whose paths something else is mounted.
func (j *containerJob) keepVolumes(create *translate.Create) error {
	var errs []error
	for path, v := range j.volumes {
		if v.Kept {
			continue
		}
		settle := j.dir.RemoveVolume
		if create.HasVolumeDir(v.Path) {
			settle = j.dir.KeepVolume
		}
		if err := settle(v); err != nil {
			errs = append(errs, fmt.Errorf("directory for the image's volume on %q: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

// volumeOwner returns the owner of a directory that the image does not have: the root of
// the user namespace into which the engine puts all containers, or else the host's. Docker
// names its data directory by the former.
func volumeOwner(sb *translate.Sandbox, host translate.Host, caps *engine.Capabilities) (owner state.Owner, err error) {
	if !host.UsernsRemap || container.UsernsMode(sb.UsernsMode).IsHost() {
		return owner, nil
	}
	uid, gid, _ := strings.Cut(filepath.Base(caps.RootDir), ".")
	var errUID, errGID error
	owner.UID, errUID = strconv.Atoi(uid)
	owner.GID, errGID = strconv.Atoi(gid)
	if errUID != nil || errGID != nil || min(owner.UID, owner.GID) < 0 {
		return owner, fmt.Errorf("the engine maps all containers into a user namespace (userns-remap), and its directory %q does not end in UID.GID, as it would tell their root: %w", caps.RootDir, errdefs.ErrFailedPrecondition)
	}
	return owner, nil
}
