package translate

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// shimGroupAnnotation makes containerd's runc shim serve all containers with
	// the same value from one process.
	shimGroupAnnotation = "io.containerd.runc.v2.group"
	// criAnnotationPrefix begins what a CRI runtime itself tells an OCI runtime.
	criAnnotationPrefix = "io.kubernetes.cri."
)

// AnnotationPattern selects annotations of requests for the OCI runtime.
type AnnotationPattern struct {
	// Handler is the runtime handler that it is for, "" for all. The engine's
	// default runtime has its Docker name.
	Handler string
	// Pattern of the keys, as [path.Match] has it.
	Pattern string
}

// ParseAnnotationPattern reads [HANDLER=]PATTERN. What is neither is
// ErrInvalidArgument.
func ParseAnnotationPattern(text string) (AnnotationPattern, error) {
	handler, pattern, ok := strings.Cut(text, "=")
	if !ok {
		handler, pattern = "", text
	}
	if ok && handler == "" || pattern == "" {
		return AnnotationPattern{}, invalid("annotation pattern", "%q is not [HANDLER=]PATTERN", text)
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return AnnotationPattern{}, invalid("annotation pattern", "%q: %v", text, err)
	}
	return AnnotationPattern{Handler: handler, Pattern: pattern}, nil
}

// selectAnnotations are those of a request that the settings let through to the
// runtime behind a handler. What cridock itself says of a pod nobody else can.
func selectAnnotations(annotations map[string]string, patterns []AnnotationPattern, handler string, host Host) map[string]string {
	out := map[string]string{}
	for key, value := range annotations {
		if key == shimGroupAnnotation || strings.HasPrefix(key, criAnnotationPrefix) {
			continue
		}
		for _, p := range patterns {
			// The patterns have been parsed: there is no error.
			if ok, _ := path.Match(p.Pattern, key); ok && (p.Handler == "" || p.Handler == runtimeName(handler, host)) {
				out[key] = value
			}
		}
	}
	return out
}

// runtimeName is the Docker runtime behind a handler.
func runtimeName(handler string, host Host) string {
	if _, ok := host.Runtimes[handler]; ok {
		return handler
	}
	return host.DefaultRuntime
}

// podAnnotations tell the runtimes that want to know which pod a sandbox or
// container is of. kind is theirs, sandbox or container.
func podAnnotations(kind string, pod *runtimeapi.PodSandboxMetadata) map[string]string {
	return map[string]string{
		criAnnotationPrefix + "container-type":    kind,
		criAnnotationPrefix + "sandbox-name":      pod.GetName(),
		criAnnotationPrefix + "sandbox-namespace": pod.GetNamespace(),
		criAnnotationPrefix + "sandbox-uid":       pod.GetUid(),
	}
}

// sandboxAnnotations are for the OCI runtime: what the settings let through,
// shim grouping, and the pod's size under the names that runtimes with virtual
// machines read. A sandbox's ID is not known before it is created, so it is not
// among them.
func sandboxAnnotations(req SandboxRequest, host Host) (map[string]string, error) {
	pod := req.Config.GetMetadata()
	out := selectAnnotations(req.Config.GetAnnotations(), host.PodAnnotations, req.RuntimeHandler, host)
	if host.wantsCRIAnnotations(req.RuntimeHandler) {
		maps.Copy(out, podAnnotations("sandbox", pod))
	}
	if !host.Annotations {
		return nil, host.refuseAnnotations(out)
	}
	if shimGrouping(req.RuntimeHandler, host) {
		out[shimGroupAnnotation] = shimGroup(pod)
	}
	resources, overhead := req.Config.GetLinux().GetResources(), req.Config.GetLinux().GetOverhead()
	for name, value := range map[string]int64{
		"cpu-period": max(resources.GetCpuPeriod(), overhead.GetCpuPeriod()),
		"cpu-quota":  resources.GetCpuQuota() + overhead.GetCpuQuota(),
		"cpu-shares": resources.GetCpuShares() + overhead.GetCpuShares(),
		"memory":     resources.GetMemoryLimitInBytes() + overhead.GetMemoryLimitInBytes(),
	} {
		if value > 0 {
			out[criAnnotationPrefix+"sandbox-"+name] = strconv.FormatInt(value, 10)
		}
	}
	return orNil(out), nil
}

// containerAnnotations are for the OCI runtime: what the settings let through of
// the pod's and the container's, and ours, which go before both.
func containerAnnotations(req ContainerRequest, ours map[string]string, host Host) (map[string]string, error) {
	handler, pod := req.runtimeHandler(), req.sandboxMetadata()
	out := selectAnnotations(req.Sandbox.Annotations, host.PodAnnotations, handler, host)
	maps.Copy(out, selectAnnotations(req.Config.GetAnnotations(), host.ContainerAnnotations, handler, host))
	if host.wantsCRIAnnotations(handler) {
		maps.Copy(out, podAnnotations("container", pod))
		out[criAnnotationPrefix+"sandbox-id"] = req.Sandbox.ID
		out[criAnnotationPrefix+"container-name"] = req.Config.GetMetadata().GetName()
		out[criAnnotationPrefix+"image-name"] = imageName(req.Config.GetImage().GetImage(), req.Image)
	}
	if !host.Annotations {
		return nil, host.refuseAnnotations(out)
	}
	maps.Copy(out, ours)
	if shimGrouping(handler, host) {
		out[shimGroupAnnotation] = shimGroup(pod)
	}
	return orNil(out), nil
}

// wantsCRIAnnotations: the settings say so of the runtime behind a handler.
func (h Host) wantsCRIAnnotations(handler string) bool {
	return slices.Contains(h.CRIAnnotations, runtimeName(handler, h))
}

// refuseAnnotations is the error of an engine that would drop what a runtime was
// to be told; nil if that is nothing.
func (h Host) refuseAnnotations(wanted map[string]string) error {
	if len(wanted) == 0 {
		return nil
	}
	return h.tooOld(fmt.Sprintf("annotations[%q] for the OCI runtime", sortedKeys(wanted)[0]), "24.0", "1.43")
}

func orNil(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}
