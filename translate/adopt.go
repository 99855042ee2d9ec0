package translate

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
)

// An adopted container has no seal: dockershim, cri-dockerd or a cridock with
// another key made it. Its name identifies it: an image cannot choose that.
// Its labels mix its creator's and its image's; one with the same value in the
// image may come from the image and is ignored unless the name confirms it.

// NeedsImage reports whether [ReadSandbox] and [ReadContainer] need the image of
// a container: it may belong to a pod, but cridock did not make it.
func NeedsImage(in container.InspectResponse, host Host) bool {
	if in.ContainerJSONBase == nil || in.Config == nil {
		return false
	}
	_, ok := IsKubernetes(in.Config.Labels, in.Name)
	return ok && !host.Seal.made(in)
}

// creatorLabels returns the labels that an adopted container has from its
// creator, and its name. A label that contradicts the name is ErrNotFound.
// image is nil if it is gone.
func creatorLabels(in container.InspectResponse, image *Image) (map[string]string, Name, error) {
	name, err := ParseName(in.Name)
	if err != nil {
		return nil, Name{}, notPodMember(in)
	}
	vouched := map[string]string{
		LabelContainerName: name.Container, LabelPodName: name.Pod, LabelPodNamespace: name.Namespace, LabelPodUID: name.UID,
	}
	labels := map[string]string{}
	for key, value := range in.Config.Labels {
		if strings.HasPrefix(key, ownPrefix) {
			continue
		}
		part, identity := vouched[key]
		agrees := identity && namesPart(key, value, part)
		if imageHas(image, key, value) && !agrees {
			continue
		}
		if identity && !agrees {
			return nil, Name{}, fmt.Errorf("container %s: %w: label %s contradicts the name %s", in.ID, errdefs.ErrNotFound, key, in.Name)
		}
		labels[key] = value
	}
	return labels, name, nil
}

// namesPart reports whether a label's value matches its part of the name.
func namesPart(key, value, part string) bool {
	if key == LabelContainerName && value == sandboxContainer && part == hashedPart(value) {
		return true // a container named like a sandbox's own, see ContainerName
	}
	return namePart(value) == part
}

func imageHas(image *Image, key, value string) bool {
	if image == nil {
		return false
	}
	own, ok := image.Labels[key]
	return ok && own == value
}

// adoptedLogPath returns the log path of an adopted container if it is below the
// pod log directory, else "": cridock creates and writes that file. Without the
// image it is "" too, as the image may have chosen it.
func adoptedLogPath(file string, image *Image, host Host) string {
	if image == nil || host.PodLogsDir == "" || file != path.Clean(file) {
		return ""
	}
	if !strings.HasPrefix(file, strings.TrimSuffix(host.PodLogsDir, "/")+"/") {
		return ""
	}
	return file
}
