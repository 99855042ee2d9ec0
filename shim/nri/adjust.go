package nri

import (
	"errors"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/nri/pkg/api"
	"github.com/docker/docker/api/types/container"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/ocifeatures"
	"github.com/cridock/cridock/internal/seam"
	"github.com/cridock/cridock/translate"
)

// Node is what an adjustment depends on.
type Node struct {
	// SeamUnmet says why cridock-runtime cannot change the container; "" if it can.
	SeamUnmet string
	// Annotations: Docker passes annotations on.
	Annotations bool
	// SystemdCgroup: parents of control groups are slices.
	SystemdCgroup bool
	CgroupV2      bool
	// Device looks at a device node of the host; [HostDevice].
	Device func(path string) (DeviceNode, error)
	// SpecVersion returns the latest version of the OCI specification that the
	// container's runtime says it knows, such as 1.2.0; "" if it does not say. A
	// runtime ignores what it does not know.
	SpecVersion func() string
}

// DeviceNode is a device node of the host.
type DeviceNode struct {
	Type         string // as in OCI: b, c or p
	Major, Minor int64
	Mode         uint32 // permissions
	UID, GID     uint32
}

// Adjust returns a container's configuration and the rest of its request as plugins
// want them. c is the container that they got; cfg is not changed. An impossible
// adjustment is errdefs.ErrFailedPrecondition.
func (a *Answer) Adjust(cfg *runtimeapi.ContainerConfig, c *api.Container, node Node) (*runtimeapi.ContainerConfig, *translate.Adjustment, error) {
	x := &adjuster{node: node, cfg: proto.CloneOf(cfg), in: a.adjust, container: c, out: &translate.Adjustment{}, spec: &seam.Spec{}}
	err := x.all()
	if r := (*refusal)(nil); errors.As(err, &r) {
		return nil, nil, a.blame(r)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, name := range a.unset {
		x.cfg.Envs = slices.DeleteFunc(x.cfg.Envs, func(e *runtimeapi.KeyValue) bool { return e.GetKey() == name })
		x.out.UnsetEnv = append(x.out.UnsetEnv, name)
	}
	return x.cfg, x.out, nil
}

// adjuster does one adjustment.
type adjuster struct {
	node      Node
	in        *api.ContainerAdjustment
	container *api.Container
	cfg       *runtimeapi.ContainerConfig
	out       *translate.Adjustment
	spec      *seam.Spec // for out
	usesSpec  bool
	only      bool // an update, of resources only
}

func (x *adjuster) all() error {
	for _, step := range []func() error{
		x.process, x.annotations, x.mounts, x.devices, x.hooks, x.rlimits,
		x.cpu, x.memory, x.otherResources, x.cgroupsPath, x.sysctls,
		x.namespaces, x.scheduling, x.seccomp, x.netDevices, x.rdt,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if x.usesSpec {
		x.out.Spec = x.spec
	}
	return nil
}

func (x *adjuster) linux() *api.LinuxContainerAdjustment { return x.in.GetLinux() }

// inSpec returns the part for cridock-runtime, for a field that Docker does not have.
// since is the version of the OCI specification that has it, "" for the first.
func (x *adjuster) inSpec(field api.Field, key, since string) (*seam.Spec, error) {
	if x.node.SeamUnmet != "" {
		return nil, refuse(field, key, "this needs %s", x.node.SeamUnmet)
	}
	if since != "" {
		if have := x.node.SpecVersion(); !ocifeatures.AtLeast(have, since) {
			if have == "" {
				have = "an unknown version"
			}
			return nil, refuse(field, key, "this needs an OCI runtime that knows version %s of the specification; the container's knows %s", since, have)
		}
	}
	x.usesSpec = true
	return x.spec, nil
}

func (x *adjuster) process() error {
	for _, e := range x.in.GetEnv() {
		if name, removed := e.IsMarkedForRemoval(); removed {
			x.out.UnsetEnv = append(x.out.UnsetEnv, name)
			continue
		}
		if e.GetKey() == "" || strings.ContainsAny(e.GetKey(), "=\x00") || strings.ContainsRune(e.GetValue(), 0) {
			return refuse(api.Field_Env, e.GetKey(), "%q is not the name of a variable, or its value contains a NUL", e.GetKey())
		}
		x.out.Env = append(x.out.Env, e.GetKey()+"="+e.GetValue())
	}
	for _, word := range x.in.GetArgs() {
		if strings.ContainsRune(word, 0) {
			return refuse(api.Field_Args, "", "an argument contains a NUL")
		}
	}
	if len(x.in.GetArgs()) > 0 {
		x.out.Process = slices.Clone(x.in.GetArgs())
	}
	for _, d := range x.in.GetCDIDevices() {
		x.cfg.CDIDevices = append(x.cfg.CDIDevices, &runtimeapi.CDIDevice{Name: d.GetName()})
		if _, err := translate.CDIDevices(x.cfg); err != nil {
			return refuse(api.Field_CdiDevices, d.GetName(), "%v", err)
		}
	}
	return nil
}

func (x *adjuster) annotations() error {
	add := map[string]string{}
	var remove []string
	for _, key := range slices.Sorted(maps.Keys(x.in.GetAnnotations())) {
		if name, removed := api.IsMarkedForRemoval(key); removed {
			remove = append(remove, name)
		} else if key == "" || strings.ContainsRune(key, 0) {
			return refuse(api.Field_Annotations, key, "%q is not a name", key)
		} else {
			add[key] = x.in.GetAnnotations()[key]
		}
	}
	if len(add)+len(remove) == 0 {
		return nil
	}
	if x.node.Annotations {
		x.out.Annotations, x.out.RemoveAnnotations = add, remove
		return nil
	}
	if len(add) == 0 && x.node.SeamUnmet != "" {
		return nil // nobody passes any on
	}
	spec, err := x.inSpec(api.Field_Annotations, "", "")
	if err != nil {
		return refuse(api.Field_Annotations, slices.Sorted(maps.Keys(add))[0], "this needs Docker 24 (API 1.43), or %s", x.node.SeamUnmet)
	}
	spec.Annotations, spec.RemoveAnnotations = add, remove
	return nil
}

func (x *adjuster) hooks() error {
	h := x.in.GetHooks()
	for _, stage := range []struct {
		name  string
		hooks []*api.Hook
	}{
		{"prestart", h.GetPrestart()},
		{"createRuntime", h.GetCreateRuntime()},
		{"createContainer", h.GetCreateContainer()},
		{"startContainer", h.GetStartContainer()},
		{"poststart", h.GetPoststart()},
		{"poststop", h.GetPoststop()},
	} {
		for _, hook := range stage.hooks {
			if x.node.SeamUnmet != "" {
				return refuse(api.Field_OciHooks, "", "this needs %s", x.node.SeamUnmet)
			}
			out := seam.Hook{Name: stage.name, Path: hook.GetPath(), Args: hook.GetArgs(), Env: hook.GetEnv(), Timeout: int(hook.GetTimeout().GetValue())}
			if err := out.Validate(); err != nil {
				return refuse(api.Field_OciHooks, "", "%v", err)
			}
			x.out.Hooks = append(x.out.Hooks, out)
		}
	}
	return nil
}

// rlimitPrefix precedes Docker's names of limits, in upper case.
const rlimitPrefix = "RLIMIT_"

// rlimitNames are the limits that Docker can set.
var rlimitNames = []string{
	"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice",
	"nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
}

func (x *adjuster) rlimits() error {
	for _, l := range x.in.GetRlimits() {
		name := strings.ToLower(strings.TrimPrefix(l.GetType(), rlimitPrefix))
		if !strings.HasPrefix(l.GetType(), rlimitPrefix) || !slices.Contains(rlimitNames, name) {
			return refuse(api.Field_Rlimits, l.GetType(), "Docker can set %q, with the prefix %s in upper case", rlimitNames, rlimitPrefix)
		}
		if l.GetSoft() > l.GetHard() {
			return refuse(api.Field_Rlimits, l.GetType(), "the soft limit %d is above the hard limit %d", l.GetSoft(), l.GetHard())
		}
		x.out.Ulimits = append(x.out.Ulimits, &container.Ulimit{Name: name, Soft: dockerLimit(l.GetSoft()), Hard: dockerLimit(l.GetHard())})
	}
	return nil
}

// dockerLimit returns -1 for no limit.
func dockerLimit(v uint64) int64 {
	if v > 1<<63-1 {
		return -1
	}
	return int64(v)
}

// cgroupsPath accepts another parent. Docker chooses the name of the group itself.
func (x *adjuster) cgroupsPath() error {
	want, have := x.linux().GetCgroupsPath(), x.container.GetLinux().GetCgroupsPath()
	if want == "" || want == have {
		return nil
	}
	const field = api.Field_CgroupsPath
	if x.node.SystemdCgroup {
		parent, ok := strings.CutSuffix(want, strings.TrimPrefix(have, before(have)))
		if !ok || !strings.HasSuffix(parent, ".slice") || strings.ContainsAny(parent, "/\x00") {
			return refuse(field, "", "%q is not SLICE%s: Docker lets only the slice be chosen", want, strings.TrimPrefix(have, before(have)))
		}
		x.out.CgroupParent = parent
		return nil
	}
	if !path.IsAbs(want) || path.Clean(want) != want || strings.ContainsRune(want, 0) || path.Base(want) != path.Base(have) || path.Dir(want) == "/" {
		return refuse(field, "", "%q is not /PARENT/%s: Docker lets only the parent be chosen", want, path.Base(have))
	}
	x.out.CgroupParent = path.Dir(want)
	return nil
}

// before returns the slice in a path for systemd.
func before(cgroupsPath string) string {
	slice, _, _ := strings.Cut(cgroupsPath, ":")
	return slice
}

func (x *adjuster) sysctls() error {
	have := x.container.GetLinux().GetSysctl()
	for _, key := range slices.Sorted(maps.Keys(x.linux().GetSysctl())) {
		if name, removed := api.IsMarkedForRemoval(key); removed {
			if _, ok := have[name]; ok {
				return refuse(api.Field_Sysctl, name, "it belongs to the pod, whose other containers have it too")
			}
			continue
		}
		value := x.linux().GetSysctl()[key]
		if key == "" || strings.ContainsAny(key, "\x00=") || strings.ContainsRune(value, 0) {
			return refuse(api.Field_Sysctl, key, "%q is not a name", key)
		}
		if x.out.Sysctls == nil {
			x.out.Sysctls = map[string]string{}
		}
		x.out.Sysctls[key] = value
	}
	return nil
}
