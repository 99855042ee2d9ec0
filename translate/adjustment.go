package translate

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cridock/cridock/internal/seam"
)

// Adjustment changes the request for a container in what the CRI has no field for.
// What it adds replaces what the request has of the same name, path or kind.
type Adjustment struct {
	// Request is the [LabelRequest] of the request without an adjustment.
	Request string
	// Env has the form NAME=value. UnsetEnv are names that the container doesn't get,
	// not even from its image.
	Env, UnsetEnv []string
	// Process is the whole command; nil for the request's.
	Process []string
	// Unmount and RemoveDevices are paths in the container.
	Mounts        []mount.Mount
	Unmount       []string
	Devices       []container.DeviceMapping
	RemoveDevices []string
	// DeviceRules have Docker's form, such as "c 1:3 rwm".
	DeviceRules []string
	Ulimits     []*container.Ulimit
	// Annotations are for the OCI runtime.
	Annotations       map[string]string
	RemoveAnnotations []string
	Sysctls           map[string]string
	// CgroupParent is in Docker's form; "" for the sandbox's.
	CgroupParent string
	Limits       AdjustedLimits
	// BlockIOClass replaces the class that annotations name; "" for none, nil for
	// theirs.
	BlockIOClass *string
	// NoRDTClass: the class that annotations name doesn't count. Otherwise Spec's does, or
	// theirs if it has none.
	NoRDTClass bool
	// Hooks and Spec need cridock-runtime, see [Host.SeamUnmet].
	Hooks []seam.Hook
	Spec  *seam.Spec
}

// AdjustedLimits are resources that the CRI has no field for; nil or zero for those
// that Docker chooses.
type AdjustedLimits struct {
	Pids, Swappiness                *int64
	MemoryReservation               int64
	OOMKillDisable                  *bool
	RealtimeRuntime, RealtimePeriod int64
}

// SeamUnmet says what containers of a CRI handler lack for cridock-runtime to change
// them; "" if nothing.
func (h Host) SeamUnmet(handler string) string { return h.seamUnmet(handler) }

// replacesMount reports whether an adjustment removes what is mounted on a clean path,
// or mounts something else there. a may be nil.
func (a *Adjustment) replacesMount(target string) bool {
	return a.removesMount(target) || a != nil && slices.ContainsFunc(a.Mounts, func(m mount.Mount) bool { return path.Clean(m.Target) == target })
}

// removesMount reports whether an adjustment removes what is mounted on a clean path. It
// may mount something else there. a may be nil.
func (a *Adjustment) removesMount(target string) bool {
	return a != nil && slices.Contains(a.Unmount, target)
}

// replacesDevice is replacesMount for a device.
func (a *Adjustment) replacesDevice(target string) bool {
	return a != nil && (slices.Contains(a.RemoveDevices, target) ||
		slices.ContainsFunc(a.Devices, func(d container.DeviceMapping) bool { return path.Clean(d.PathInContainer) == target }) ||
		a.Spec != nil && slices.ContainsFunc(a.Spec.Devices, func(d specs.LinuxDevice) bool { return d.Path == target }))
}

// changesNamespace reports whether an adjustment replaces a namespace or has the
// container use the host's. a may be nil.
func (a *Adjustment) changesNamespace(kind specs.LinuxNamespaceType) bool {
	return a.removesNamespace(kind) || a != nil && a.Spec != nil &&
		slices.ContainsFunc(a.Spec.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

func (a *Adjustment) removesNamespace(kind specs.LinuxNamespaceType) bool {
	return a != nil && a.Spec != nil && slices.Contains(a.Spec.RemoveNamespaces, kind)
}

// checkAdjustment refuses what Docker would ignore, or cridock-runtime refuse at the
// start.
func (c *Create) checkAdjustment(req ContainerRequest, host Host) error {
	a := req.Adjustment
	if a == nil {
		return nil
	}
	if podUserns(req.Sandbox.Namespaces) != nil {
		for _, kind := range []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.IPCNamespace, specs.PIDNamespace} {
			if a.removesNamespace(kind) {
				return unmet("linux.security_context.namespace_options", "a pod with a user namespace can't use the host's %s namespace", kind)
			}
		}
	}
	if a.Spec != nil && len(a.Spec.Devices) > 0 && c.remapped(host) {
		return unmet("devices", "%s: with the engine's userns-remap the runtime can't make devices that the host does not have at the same path", a.Spec.Devices[0].Path)
	}
	return nil
}

// adjust applies an adjustment; nil is none.
func (c *Create) adjust(a *Adjustment, handler string, host Host) {
	if a == nil {
		return
	}
	cfg, hc := c.Config, c.HostConfig
	cfg.Env = adjustEnv(cfg.Env, a)
	if a.Process != nil {
		cfg.Entrypoint, cfg.Cmd = slices.Clone(a.Process), nil
	}
	hc.Mounts = append(slices.DeleteFunc(slices.Clone(hc.Mounts), func(m mount.Mount) bool {
		return a.replacesMount(path.Clean(m.Target))
	}), a.Mounts...)
	hc.Devices = append(slices.DeleteFunc(slices.Clone(hc.Devices), func(d container.DeviceMapping) bool {
		return a.replacesDevice(path.Clean(d.PathInContainer))
	}), a.Devices...)
	hc.DeviceCgroupRules = append(hc.DeviceCgroupRules, a.DeviceRules...)
	hc.Ulimits = append(slices.DeleteFunc(slices.Clone(hc.Ulimits), func(u *container.Ulimit) bool {
		return slices.ContainsFunc(a.Ulimits, func(n *container.Ulimit) bool { return n.Name == u.Name })
	}), a.Ulimits...)
	for _, key := range a.RemoveAnnotations {
		delete(hc.Annotations, key)
	}
	hc.Annotations = merged(hc.Annotations, a.Annotations)
	hc.Sysctls = merged(hc.Sysctls, a.Sysctls)
	if a.CgroupParent != "" {
		hc.CgroupParent = a.CgroupParent
	}
	a.Limits.set(&hc.Resources)
	if len(a.Hooks) > 0 {
		r := c.useSeam(handler, host)
		r.Hooks = append(r.Hooks, a.Hooks...)
	}
	if a.Spec != nil {
		c.useSeam(handler, host).Spec = a.Spec
	}
}

func (l AdjustedLimits) set(r *container.Resources) {
	if l.Pids != nil {
		r.PidsLimit = l.Pids
	}
	if l.Swappiness != nil {
		r.MemorySwappiness = l.Swappiness
	}
	if l.MemoryReservation != 0 {
		r.MemoryReservation = l.MemoryReservation
	}
	if l.OOMKillDisable != nil {
		r.OomKillDisable = l.OOMKillDisable
	}
	if l.RealtimeRuntime != 0 {
		r.CPURealtimeRuntime = l.RealtimeRuntime
	}
	if l.RealtimePeriod != 0 {
		r.CPURealtimePeriod = l.RealtimePeriod
	}
}

// adjustEnv returns an environment with variables replaced, added and removed. To
// Docker, a name without a value removes the image's variable.
func adjustEnv(env []string, a *Adjustment) []string {
	value := map[string]string{}
	for _, text := range a.Env {
		name, _, _ := strings.Cut(text, "=")
		value[name] = text
	}
	var out []string
	for _, text := range env {
		name, _, _ := strings.Cut(text, "=")
		if slices.Contains(a.UnsetEnv, name) {
			continue
		}
		if replaced, ok := value[name]; ok {
			text = replaced
			delete(value, name)
		}
		out = append(out, text)
	}
	for _, text := range a.Env {
		name, _, _ := strings.Cut(text, "=")
		if value[name] == text {
			out = append(out, text)
			delete(value, name)
		}
	}
	return append(out, a.UnsetEnv...)
}

// merged returns a map with the entries of both; those of add win. It is base if there
// is nothing to add.
func merged(base, add map[string]string) map[string]string {
	if len(add) == 0 {
		return base
	}
	out := maps.Clone(base)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, add)
	return out
}
