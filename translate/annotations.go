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
	// ShimGroupAnnotation makes containerd's runc shim serve all containers with
	// the same value from one process.
	ShimGroupAnnotation = "io.containerd.runc.v2.group"
	// criAnnotationPrefix is the prefix of a CRI runtime's own annotations for the
	// OCI runtime.
	criAnnotationPrefix = "io.kubernetes.cri."
)

// AnnotationPattern selects request annotations to pass to the OCI runtime.
type AnnotationPattern struct {
	// Handler is the runtime handler it applies to, "" for all. The engine's
	// default runtime goes by its Docker name.
	Handler string
	// Pattern matches keys, in the syntax of [path.Match].
	Pattern string
}

// ParseAnnotationPattern parses [HANDLER=]PATTERN. Malformed text is
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

// selectAnnotations returns a request's annotations that the settings pass to the
// runtime behind a handler. Keys that only cridock may set are dropped.
func selectAnnotations(annotations map[string]string, patterns []AnnotationPattern, handler string, host Host) map[string]string {
	out := map[string]string{}
	for key, value := range annotations {
		if key == ShimGroupAnnotation || strings.HasPrefix(key, criAnnotationPrefix) {
			continue
		}
		for _, p := range patterns {
			// The patterns were validated when parsed, so there is no error.
			if ok, _ := path.Match(p.Pattern, key); ok && (p.Handler == "" || p.Handler == runtimeName(handler, host)) {
				out[key] = value
			}
		}
	}
	return out
}

// runtimeName returns the name of the Docker runtime behind a handler.
func runtimeName(handler string, host Host) string {
	if _, ok := host.Runtimes[handler]; ok {
		return handler
	}
	return host.DefaultRuntime
}

// podAnnotations returns annotations that name the pod of a sandbox or container.
// kind is "sandbox" or "container".
func podAnnotations(kind string, pod *runtimeapi.PodSandboxMetadata) map[string]string {
	return map[string]string{
		criAnnotationPrefix + "container-type":    kind,
		criAnnotationPrefix + "sandbox-name":      pod.GetName(),
		criAnnotationPrefix + "sandbox-namespace": pod.GetNamespace(),
		criAnnotationPrefix + "sandbox-uid":       pod.GetUid(),
	}
}

// sandboxAnnotations returns the annotations for the OCI runtime: those the
// settings pass on, shim grouping, and the pod's size under the names that VM
// runtimes read. The sandbox's ID is missing: it is not known before creation.
func sandboxAnnotations(req SandboxRequest, host Host) (map[string]string, error) {
	pod := req.Config.GetMetadata()
	out := req.runtimeAnnotations(host)
	if !host.Annotations {
		return nil, host.refuseAnnotations(out, req.RuntimeHandler)
	}
	if shimGrouping(req.RuntimeHandler, host) {
		out[ShimGroupAnnotation] = shimGroup(pod)
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

// runtimeAnnotations returns those that the settings pass on.
func (r SandboxRequest) runtimeAnnotations(host Host) map[string]string {
	out := selectAnnotations(r.Config.GetAnnotations(), host.PodAnnotations, r.RuntimeHandler, host)
	if host.wantsCRIAnnotations(r.RuntimeHandler) {
		maps.Copy(out, podAnnotations("sandbox", r.Config.GetMetadata()))
	}
	return out
}

// containerAnnotations returns the annotations for the OCI runtime: those of the
// pod and the container that the settings pass on, and ours, which win over both.
func containerAnnotations(req ContainerRequest, ours map[string]string, host Host) (map[string]string, error) {
	out := req.runtimeAnnotations(host)
	if !host.Annotations {
		return nil, host.refuseAnnotations(out, req.runtimeHandler())
	}
	maps.Copy(out, ours)
	if shimGrouping(req.runtimeHandler(), host) {
		out[ShimGroupAnnotation] = shimGroup(req.sandboxMetadata())
	}
	return orNil(out), nil
}

// runtimeAnnotations returns those that the settings pass on.
func (r ContainerRequest) runtimeAnnotations(host Host) map[string]string {
	handler := r.runtimeHandler()
	out := selectAnnotations(r.Sandbox.Annotations, host.PodAnnotations, handler, host)
	maps.Copy(out, selectAnnotations(r.Config.GetAnnotations(), host.ContainerAnnotations, handler, host))
	if host.wantsCRIAnnotations(handler) {
		maps.Copy(out, podAnnotations("container", r.sandboxMetadata()))
		out[criAnnotationPrefix+"sandbox-id"] = r.Sandbox.ID
		out[criAnnotationPrefix+"container-name"] = r.Config.GetMetadata().GetName()
		out[criAnnotationPrefix+"image-name"] = r.imageName()
	}
	return out
}

// annotate has cridock-runtime pass annotations on for an engine that can't.
func (c *Create) annotate(annotations map[string]string, handler string, host Host) {
	if len(annotations) > 0 && !host.Annotations {
		c.useSeam(handler, host).Annotations = annotations
	}
}

// wantsCRIAnnotations reports whether the settings enable CRI annotations for the
// runtime behind a handler.
func (h Host) wantsCRIAnnotations(handler string) bool {
	return slices.Contains(h.CRIAnnotations, runtimeName(handler, h))
}

// refuseAnnotations returns the error for an engine that would drop the wanted
// annotations, without cridock-runtime to pass them on; nil if there are none.
func (h Host) refuseAnnotations(wanted map[string]string, handler string) error {
	why := h.seamUnmet(handler)
	if len(wanted) == 0 || why == "" {
		return nil
	}
	return fmt.Errorf("%w, or %s", h.tooOld(fmt.Sprintf("annotations[%q] for the OCI runtime", sortedKeys(wanted)[0]), "24.0", "1.43"), why)
}

func orNil(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}
