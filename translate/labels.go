package translate

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Docker labels of pod members. Those with the prefix io.cridock are cridock's
// own, the others dockershim's.
const (
	// LabelType is "podsandbox" or "container".
	LabelType = "io.kubernetes.docker.type"
	// LabelSandboxID is, on containers, the ID of their sandbox.
	LabelSandboxID = "io.kubernetes.sandbox.id"
	// LabelLogPath is, on containers, the absolute path of the CRI log.
	LabelLogPath = "io.kubernetes.container.logpath"
	// LabelContainerName is the container's name, "POD" on sandboxes.
	LabelContainerName = "io.kubernetes.container.name"
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	// LabelConfig is the requested configuration and related facts, as JSON.
	LabelConfig = "io.cridock.config"
	// LabelRequest is, on containers, a hash of the whole request to Docker.
	LabelRequest = "io.cridock.request"
	// LabelSeal proves that cridock made the container, see [Seal].
	LabelSeal = "io.cridock.seal"

	ownPrefix = "io.cridock."

	annotationPrefix = "annotation."
)

// Kind is the CRI's kind of a Docker container. Its values are those of
// [LabelType].
type Kind string

// The kinds of pod members.
const (
	KindSandbox   Kind = "podsandbox"
	KindContainer Kind = "container"
)

// recordVersion is the version of the JSON in LabelConfig. New fields keep the
// version; it changes when an old reader would misread a new record.
const recordVersion = 1

// record is the content of LabelConfig.
type record struct {
	Version        int             `json:"version"`
	Config         json.RawMessage `json:"config"`
	RuntimeHandler string          `json:"runtimeHandler,omitempty"`
	ImageName      string          `json:"imageName,omitempty"`
	ImageRef       string          `json:"imageRef,omitempty"`
	User           *recordedUser   `json:"user,omitempty"`
	Restored       bool            `json:"restored,omitempty"`
}

type recordedUser struct {
	UID    int64   `json:"uid"`
	GID    int64   `json:"gid"`
	Groups []int64 `json:"groups,omitempty"`
}

// IsKubernetes reports whether a Docker container with these labels and this
// name (or one of its names) may be a pod member, and of which kind. The label
// alone is not enough, as containers inherit labels from images, so the name must
// be of the same kind: an image cannot choose it. [ReadSandbox] and
// [ReadContainer] check further.
func IsKubernetes(labels map[string]string, name string) (Kind, bool) {
	kind := Kind(labels[LabelType])
	if kind != KindSandbox && kind != KindContainer {
		return "", false
	}
	parsed, err := ParseName(name)
	if err != nil || (kind == KindSandbox) != (parsed.Container == sandboxContainer) {
		return "", false
	}
	return kind, true
}

// encodeRecord encodes rec with config in it.
func encodeRecord(rec record, config proto.Message) (string, error) {
	raw, err := protojson.Marshal(config)
	if err != nil {
		// protojson fails only on strings that are not UTF-8.
		return "", invalid("config", "can't be stored as JSON: %v", err)
	}
	rec.Version, rec.Config = recordVersion, raw
	// json.Marshal compacts protojson's deliberately unstable white space.
	text, err := json.Marshal(rec)
	if err != nil {
		return "", fmt.Errorf("config: %w: %w", errdefs.ErrInternal, err)
	}
	return string(text), nil
}

// decodeRecord reads LabelConfig of a sealed container into config.
func decodeRecord(labels map[string]string, config proto.Message) (*record, error) {
	rec := new(record)
	if err := json.Unmarshal([]byte(labels[LabelConfig]), rec); err != nil {
		return nil, fmt.Errorf("label %s: %w: %w", LabelConfig, errdefs.ErrDataLoss, err)
	}
	if rec.Version != recordVersion {
		return nil, fmt.Errorf("label %s: %w: version %d; this cridock reads version %d", LabelConfig, errdefs.ErrFailedPrecondition, rec.Version, recordVersion)
	}
	// A newer cridock may have stored fields of a newer CRI.
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(rec.Config, config); err != nil {
		return nil, fmt.Errorf("label %s: %w: %w", LabelConfig, errdefs.ErrDataLoss, err)
	}
	return rec, nil
}

// dockerLabels merges CRI labels and annotations into one map of Docker labels;
// internal ones win over equal keys. The record still holds the requested value
// of such a key.
func dockerLabels(labels, annotations, internal map[string]string) map[string]string {
	out := make(map[string]string, len(labels)+len(annotations)+len(internal))
	maps.Copy(out, labels)
	for key, value := range annotations {
		out[annotationPrefix+key] = value
	}
	maps.Copy(out, internal)
	return out
}

// criLabels splits the Docker labels of an adopted container into CRI labels and
// annotations.
func criLabels(docker map[string]string, kind Kind) (labels, annotations map[string]string) {
	labels, annotations = map[string]string{}, map[string]string{}
	for key, value := range docker {
		if annotation, ok := strings.CutPrefix(key, annotationPrefix); ok {
			annotations[annotation] = value
			continue
		}
		switch key {
		case LabelType, LabelSandboxID, LabelLogPath:
			continue
		case LabelContainerName:
			if kind == KindSandbox {
				continue
			}
		}
		labels[key] = value
	}
	return labels, annotations
}

// sandboxLabels returns the internal labels of a sandbox.
func sandboxLabels(m *runtimeapi.PodSandboxMetadata, rec string) map[string]string {
	return map[string]string{
		LabelType:          string(KindSandbox),
		LabelContainerName: sandboxContainer,
		LabelPodName:       m.GetName(),
		LabelPodNamespace:  m.GetNamespace(),
		LabelPodUID:        m.GetUid(),
		LabelConfig:        rec,
	}
}

// containerLabels returns the internal labels of a container. The log path is set
// even if empty, so that an image's label can't take its place.
func containerLabels(c *runtimeapi.ContainerMetadata, s *runtimeapi.PodSandboxMetadata, sandboxID, logPath, rec string) map[string]string {
	return map[string]string{
		LabelType:          string(KindContainer),
		LabelSandboxID:     sandboxID,
		LabelLogPath:       logPath,
		LabelContainerName: c.GetName(),
		LabelPodName:       s.GetName(),
		LabelPodNamespace:  s.GetNamespace(),
		LabelPodUID:        s.GetUid(),
		LabelConfig:        rec,
	}
}
