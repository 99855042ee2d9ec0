package translate

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Host is what a translation depends on besides the request: the engine's
// capabilities and facts of the node. The zero value is a cgroup v1 engine
// without optional features on a node that allows no negative oom_score_adj.
type Host struct {
	// CgroupDriver is "systemd" or "cgroupfs".
	CgroupDriver string
	CgroupV2     bool

	// Seccomp, AppArmor and SELinux say whether the engine enforces them.
	Seccomp, AppArmor, SELinux bool
	// SeccompBuiltin: the engine knows "seccomp=builtin" (API 1.42).
	SeccompBuiltin bool
	// Annotations: the engine hands annotations to the OCI runtime (API 1.43).
	Annotations bool
	// ReadOnlyNonRecursive: read-only binds are recursive unless told otherwise (API 1.44).
	ReadOnlyNonRecursive bool
	// ImageMounts: mounts of type image (API 1.48).
	ImageMounts bool
	// CDI: the engine resolves CDI device names itself.
	CDI bool
	// MountOptions: the caller makes a CDI device of each mount with mount_options
	// (see [ResolvedMount]).
	MountOptions bool
	// DockerRootDir is the engine's data directory; see privatePropagation.
	DockerRootDir string
	// UsernsRemap: the daemon maps all containers into a user namespace.
	UsernsRemap bool

	// DefaultRuntime is the Docker runtime used when none is asked for.
	DefaultRuntime string
	// Runtimes are the engine's runtimes by Docker name.
	Runtimes map[string]RuntimeFeatures

	// MinOOMScoreAdj is the lowest oom_score_adj the node lets the engine set:
	// -1000 when nothing limits it. Lower requests are raised to it.
	MinOOMScoreAdj int

	// LogMaxSize and LogMaxFile bound Docker's json-file log of a container.
	LogMaxSize string
	LogMaxFile int

	// PodLogsDir is where the logs of adopted containers must be.
	PodLogsDir string
	// Seal tells the containers that cridock made from all others.
	Seal *Seal

	// EngineVersion and APIVersion are used in messages only.
	EngineVersion string
	APIVersion    string
}

// RuntimeFeatures is what a Docker runtime can do.
type RuntimeFeatures struct {
	// RecursiveReadOnly: the runtime and the kernel know the mount option rro.
	RecursiveReadOnly bool
	// ShimGrouping: the containers of a pod share one containerd shim.
	ShimGrouping bool
}

// dockerHandler is accepted as a name of the engine's default runtime, as
// dockershim and cri-dockerd do.
const dockerHandler = "docker"

// RuntimeHandler gives the Docker runtime of a CRI runtime handler; "" means
// the engine's default. "" and "docker" name the default. An unknown handler
// is ErrInvalidArgument and the message lists the known ones.
func RuntimeHandler(requested string, host Host) (dockerRuntime string, err error) {
	if requested == "" {
		return "", nil
	}
	if _, ok := host.Runtimes[requested]; ok {
		return requested, nil
	}
	if requested == dockerHandler {
		return "", nil
	}
	return "", invalid("runtime_handler", "unknown runtime %q; this engine has %q: register the runtime with the engine or correct the RuntimeClass",
		requested, runtimeNames(host))
}

// CRIRuntimeHandlers lists the runtime handlers RunPodSandbox accepts: the
// default (""), "docker" and every runtime of the engine, sorted by name.
func CRIRuntimeHandlers(host Host) []*runtimeapi.RuntimeHandler {
	handlers := []*runtimeapi.RuntimeHandler{criRuntimeHandler("", host)}
	names := runtimeNames(host)
	if !slices.Contains(names, dockerHandler) {
		names = append(names, dockerHandler)
		slices.Sort(names)
	}
	for _, name := range names {
		handlers = append(handlers, criRuntimeHandler(name, host))
	}
	return handlers
}

// CRIRuntimeFeatures says which optional features of the CRI requests may use.
func CRIRuntimeFeatures(host Host) *runtimeapi.RuntimeFeatures {
	return &runtimeapi.RuntimeFeatures{
		SupplementalGroupsPolicy: true,
		MountOptions:             host.CDI && host.MountOptions,
	}
}

func criRuntimeHandler(name string, host Host) *runtimeapi.RuntimeHandler {
	return &runtimeapi.RuntimeHandler{
		Name: name,
		Features: &runtimeapi.RuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: recursiveReadOnly(name, host),
			UserNamespaces:          false,
		},
	}
}

// recursiveReadOnly says whether the runtime behind a CRI handler can make a
// mount and everything below it read-only.
func recursiveReadOnly(handler string, host Host) bool {
	return host.ReadOnlyNonRecursive && runtimeFeatures(handler, host).RecursiveReadOnly
}

// shimGrouping says whether the pods of a CRI handler have one shim each.
func shimGrouping(handler string, host Host) bool {
	return host.Annotations && runtimeFeatures(handler, host).ShimGrouping
}

// runtimeFeatures are those of the runtime behind a CRI handler.
func runtimeFeatures(handler string, host Host) RuntimeFeatures {
	if features, ok := host.Runtimes[handler]; ok {
		return features
	}
	return host.Runtimes[host.DefaultRuntime]
}

func runtimeNames(host Host) []string {
	names := make([]string, 0, len(host.Runtimes))
	for name := range host.Runtimes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// tooOld is the refusal of a field that a newer engine would serve.
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
