package translate

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
)

// An adopted container has no seal: dockershim, cri-dockerd or a cridock with
// another key made it. What identifies it is its name, which an image cannot
// choose. Its labels are its creator's and its image's in one map; one that has
// the image's own value may come from the image and counts as absent.

// NeedsImage reports whether [ReadSandbox] and [ReadContainer] need the image of
// a container: it may be a pod's, and cridock did not make it.
func NeedsImage(in container.InspectResponse, host Host) bool {
	if in.ContainerJSONBase == nil || in.Config == nil {
		return false
	}
	_, ok := IsKubernetes(in.Config.Labels, in.Name)
	return ok && !host.Seal.made(in)
}

// creatorLabels returns the labels that an adopted container has from its
// creator, and its name. A name that says otherwise than they do is
// ErrNotFound. image is nil if it is gone.
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
			return nil, Name{}, fmt.Errorf("container %s: %w: its label %s does not agree with its name %s", in.ID, errdefs.ErrNotFound, key, in.Name)
		}
		labels[key] = value
	}
	return labels, name, nil
}

// namesPart reports whether a label's value is what a part of the name says.
func namesPart(key, value, part string) bool {
	if key == LabelContainerName && value == sandboxContainer && part == hashedPart(value) {
		return true // a container that is called like the sandbox's own, see ContainerName
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
// directory of the pods' logs, else "": cridock creates and writes that file.
// Without the image nobody knows who chose it.
func adoptedLogPath(file string, image *Image, host Host) string {
	if image == nil || host.PodLogsDir == "" || file != path.Clean(file) {
		return ""
	}
	if !strings.HasPrefix(file, strings.TrimSuffix(host.PodLogsDir, "/")+"/") {
		return ""
	}
	return file
}
