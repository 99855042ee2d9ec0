package translate

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Host holds what a translation depends on besides the request: the engine's
// capabilities and facts about the node. The zero value is a cgroup v1 engine
// without optional features on a node that allows no negative oom_score_adj.
type Host struct {
	// CgroupDriver is "systemd" or "cgroupfs".
	CgroupDriver string
	CgroupV2     bool

	// NoHugetlb: the node's cgroups have no controller that limits huge pages.
	NoHugetlb bool

	// Seccomp, AppArmor and SELinux report whether the engine enforces them.
	Seccomp, AppArmor, SELinux bool
	// SeccompBuiltin: the engine accepts "seccomp=builtin" (API 1.42).
	SeccompBuiltin bool
	// SeccompCustom: the operator has set the engine's default profile.
	SeccompCustom bool
	// Annotations: the engine passes annotations to the OCI runtime (API 1.43).
	Annotations bool
	// ReadOnlyNonRecursive: read-only binds are recursive unless requested otherwise (API 1.44).
	ReadOnlyNonRecursive bool
	// ImageMounts: the engine supports mounts of type image (API 1.48).
	ImageMounts bool
	// RepeatedImageMounts: a container can mount an image any number of times (API 1.52).
	RepeatedImageMounts bool
	// CDI: the engine resolves CDI device names itself.
	CDI bool
	// MountOptions: the caller makes a CDI device of each mount with mount_options
	// (see [ResolvedMount]).
	MountOptions bool
	// DockerRootDir is the engine's data directory; see privatePropagation.
	DockerRootDir string
	// UsernsRemap: the daemon maps all containers into a user namespace.
	UsernsRemap bool
	// SeamRuntime is the Docker name of cridock-runtime, "" if the engine does not have
	// it. It is no runtime handler.
	SeamRuntime string
	// UserNamespacesUnmet says what else pods lack to have user namespaces of their
	// own, "" if nothing.
	UserNamespacesUnmet string

	// PodAnnotations and ContainerAnnotations select the annotations of pods and
	// containers to pass to the OCI runtime.
	PodAnnotations, ContainerAnnotations []AnnotationPattern
	// CRIAnnotations lists the Docker runtimes that get a container's pod in the
	// annotations that other CRI runtimes use.
	CRIAnnotations []string

	// DeclaredVolumes is the operator's choice for the volumes that images declare.
	DeclaredVolumes DeclaredVolumes
	// Base is what the operator adds to all containers; nil for nothing.
	Base *BaseSpec
	// Settings need cridock-runtime.
	Settings SeamSettings

	// DefaultRuntime is the Docker runtime used if none is requested.
	DefaultRuntime string
	// PauseRuntime is the Docker runtime of the sandboxes of pods that request none; ""
	// for DefaultRuntime, which the containers of these pods have in any case.
	PauseRuntime string
	// Runtimes are the engine's runtimes by Docker name.
	Runtimes map[string]RuntimeFeatures

	// MinOOMScoreAdj is the lowest oom_score_adj the node lets the engine set:
	// -1000 if nothing limits it. Lower requests are raised to it.
	MinOOMScoreAdj int

	// Ulimits are those of all containers; the engine's defaults have the rest.
	Ulimits []*container.Ulimit

	// BlockIOClasses are the classes of block I/O by name; nil without a configuration.
	BlockIOClasses map[string]*BlockIOClass

	// LogMaxSize and LogMaxFile bound Docker's json-file log of a container.
	LogMaxSize string
	LogMaxFile int

	// PodLogsDir is the directory that must hold the logs of adopted containers.
	PodLogsDir string
	// Seal distinguishes the containers that cridock made from all others.
	Seal *Seal

	// EngineVersion and APIVersion are used only in errors.
	EngineVersion string
	APIVersion    string
}

// RuntimeFeatures describes what a Docker runtime supports.
type RuntimeFeatures struct {
	// RecursiveReadOnly: the runtime and the kernel support the mount option rro.
	RecursiveReadOnly bool
	// ShimGrouping: the containers of a pod share one containerd shim.
	ShimGrouping bool
	// Seam: cridock-runtime can execute it.
	Seam bool
	// SeamRecursiveReadOnly is RecursiveReadOnly for mounts that cridock-runtime
	// changes; engines before API 1.44 do not say what a runtime supports.
	SeamRecursiveReadOnly bool
	// SeamRDT: it knows classes of Intel RDT; SeamExecCPU: it knows
	// process.execCPUAffinity.
	SeamRDT, SeamExecCPU bool
}

// dockerHandler is a name for the engine's default runtime, as in dockershim and
// cri-dockerd.
const dockerHandler = "docker"

// RuntimeHandler returns the Docker runtime of a CRI runtime handler; "" means
// the engine's default. Handlers "" and, unless a runtime has that name, "docker"
// name the default. An unknown handler is ErrInvalidArgument, and the message
// lists the known ones.
func RuntimeHandler(requested string, host Host) (dockerRuntime string, err error) {
	if requested == "" {
		return "", nil
	}
	if _, ok := host.Runtimes[requested]; ok && requested != host.SeamRuntime {
		return requested, nil
	}
	if requested == dockerHandler {
		return "", nil
	}
	return "", invalid("runtime_handler", "unknown runtime %q; this engine has %q: register the runtime with the engine or correct the RuntimeClass",
		requested, handlerNames(host))
}

// CRIRuntimeHandlers lists the runtime handlers RunPodSandbox accepts: the
// default (""), "docker" and every runtime of the engine, sorted by name.
func CRIRuntimeHandlers(host Host) []*runtimeapi.RuntimeHandler {
	handlers := []*runtimeapi.RuntimeHandler{criRuntimeHandler("", host)}
	for _, name := range handlerNames(host) {
		handlers = append(handlers, criRuntimeHandler(name, host))
	}
	return handlers
}

// handlerNames returns the named runtime handlers, sorted.
func handlerNames(host Host) []string {
	names := runtimeNames(host)
	if !slices.Contains(names, dockerHandler) {
		names = append(names, dockerHandler)
		slices.Sort(names)
	}
	return names
}

// CRIRuntimeFeatures returns the optional CRI features that requests may use.
func CRIRuntimeFeatures(host Host) *runtimeapi.RuntimeFeatures {
	return &runtimeapi.RuntimeFeatures{
		SupplementalGroupsPolicy: true,
		MountOptions:             host.CDI && host.MountOptions || host.seamUnmet("") == "",
	}
}

func criRuntimeHandler(name string, host Host) *runtimeapi.RuntimeHandler {
	return &runtimeapi.RuntimeHandler{
		Name: name,
		Features: &runtimeapi.RuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: recursiveReadOnly(name, host),
			UserNamespaces:          host.userNamespacesUnmet(name) == "",
		},
	}
}

// recursiveReadOnly reports whether containers of a CRI handler can have mounts that
// are read-only with everything below them.
func recursiveReadOnly(handler string, host Host) bool {
	return engineRecursiveReadOnly(handler, host) || seamRecursiveReadOnly(handler, host)
}

// engineRecursiveReadOnly reports whether the engine makes such mounts itself.
func engineRecursiveReadOnly(handler string, host Host) bool {
	return host.ReadOnlyNonRecursive && runtimeFeatures(handler, host).RecursiveReadOnly
}

// seamRecursiveReadOnly reports whether cridock-runtime can have them made.
func seamRecursiveReadOnly(handler string, host Host) bool {
	return host.seamUnmet(handler) == "" && runtimeFeatures(handler, host).SeamRecursiveReadOnly
}

// shimGrouping reports whether the pods of a CRI handler have one shim each.
func shimGrouping(handler string, host Host) bool {
	return host.Annotations && runtimeFeatures(handler, host).ShimGrouping
}

// runtimeFeatures returns the features of the runtime behind a CRI handler.
func runtimeFeatures(handler string, host Host) RuntimeFeatures {
	if features, ok := host.Runtimes[handler]; ok {
		return features
	}
	return host.Runtimes[host.DefaultRuntime]
}

func runtimeNames(host Host) []string {
	names := make([]string, 0, len(host.Runtimes))
	for name := range host.Runtimes {
		if name != host.SeamRuntime {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// tooOld returns the refusal of a field that needs a newer engine.
func (h Host) tooOld(field, docker, api string) error {
	return fmt.Errorf("%s: %w: needs Docker %s (API %s); this engine is %s (API %s)",
		field, errdefs.ErrFailedPrecondition, docker, api, orUnknown(h.EngineVersion), orUnknown(h.APIVersion))
}

func orUnknown(s string) string {
	if s == "" {
		return "of unknown version"
	}
	return s
}
