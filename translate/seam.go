package translate

import (
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/docker/docker/api/types/network"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/seam"
)

// Seam is what Docker's API cannot be told of a container. The caller leaves it to
// cridock-runtime.
type Seam struct {
	// RealRuntime is the name of the Docker runtime that the container would have
	// without cridock-runtime.
	RealRuntime string
	// Record has all but the container's ID and the runtime.
	Record seam.Record
	// SharedUTS: the caller adds the UTS namespace of the sandbox's process.
	SharedUTS bool `json:",omitempty"`
}

// useSeam has cridock-runtime run a container, and returns the record to complete. The
// caller has checked [Host.seamUnmet].
func (c *Create) useSeam(handler string, host Host) *seam.Record {
	if c.Seam == nil {
		c.Seam = &Seam{RealRuntime: runtimeName(handler, host)}
		c.HostConfig.Runtime = host.SeamRuntime
	}
	return &c.Seam.Record
}

// seamUnmet says what containers of a CRI handler lack for cridock-runtime to change
// them; "" if nothing.
func (h Host) seamUnmet(handler string) string {
	switch {
	case h.SeamRuntime == "":
		return fmt.Sprintf("the OCI runtime %q, which this engine does not have: run \"cridock runtime install\"", seam.RuntimeName)
	case !runtimeFeatures(handler, h).Seam:
		return fmt.Sprintf("a runtime that the engine knows by its path; runtime %q has none", runtimeName(handler, h))
	}
	return ""
}

// limitBeforeStart has cridock-runtime set limits that Docker has no field for, so that
// they hold from the container's first instruction on. If that is impossible, or the
// container has no such limits, all it has is set after the start, see [CgroupFiles].
func (c *Create) limitBeforeStart(r *runtimeapi.LinuxContainerResources, handler string, host Host) {
	limits := SeamResources(r, host)
	if limitsAnything(limits) && host.seamUnmet(handler) == "" {
		c.useSeam(handler, host).Resources = limits
	}
}

// EarlyNetwork reports whether cridock-runtime takes care of a sandbox's network
// namespace, so that it can be connected before the sandbox runs.
func (c *Create) EarlyNetwork() bool { return c.Seam != nil && c.Seam.Record.Network != nil }

// remapped reports whether the engine puts the container into the user namespace of its
// setting userns-remap. Its other namespaces must belong to that.
func (c *Create) remapped(host Host) bool {
	return host.UsernsRemap && !c.HostConfig.UsernsMode.IsHost()
}

// networkEarly has cridock-runtime take care of a sandbox's network namespace, as
// requested. A sandbox with a user namespace, its own or the engine's, has Docker do it:
// its network namespace must belong to the user namespace. The caller sets the sysctls
// of [ResetByCNI] that are left out.
func (c *Create) networkEarly(req SandboxRequest, host Host) {
	if !req.EarlyNetwork || c.HostConfig.NetworkMode != network.NetworkNone || host.seamUnmet(req.RuntimeHandler) != "" {
		return
	}
	if c.remapped(host) || c.Seam != nil && c.Seam.Record.UserNamespace != nil {
		return
	}
	// The runtime would set these while CNI adds addresses.
	maps.DeleteFunc(c.HostConfig.Sysctls, func(key, _ string) bool { return ResetByCNI(key) })
	c.useSeam(req.RuntimeHandler, host).Network = &seam.Network{}
}

// addMountOptions has cridock-runtime add options to mounts that Docker can't make with
// them; [dockerMounts] has refused what is impossible.
func (c *Create) addMountOptions(req ContainerRequest, host Host) {
	options := map[string][]string{}
	for i, m := range req.Config.GetMounts() {
		target := path.Clean(m.GetContainerPath())
		// Of mounts on the same path the last one wins.
		delete(options, target)
		if req.Adjustment.replacesMount(target) {
			continue
		}
		if add := seamMountOptions(m, req.runtimeHandler(), host); len(add) > 0 && req.Mounts[i].CDIDevice == "" {
			options[target] = add
		}
	}
	if len(options) > 0 {
		c.useSeam(req.runtimeHandler(), host).MountOptions = options
	}
}

// seamMountOptions returns the options that Docker's own mounts can't have.
func seamMountOptions(m *runtimeapi.Mount, handler string, host Host) []string {
	var options []string
	for _, option := range m.GetMountOptions() {
		if !slices.Contains(options, option) {
			options = append(options, option)
		}
	}
	if m.GetRecursiveReadOnly() && m.GetImage().GetImage() == "" && !engineRecursiveReadOnly(handler, host) {
		options = append(options, seam.RecursiveReadOnly)
	}
	return options
}

// needsSeam reports whether a mount with mount_options is impossible with CDI. Docker
// ensures only for its own mounts that the mount around the source of a BIDIRECTIONAL
// one is shared, and checks only for them that the runtime supports rro.
func needsSeam(m *runtimeapi.Mount, handler string, host Host) bool {
	return m.GetPropagation() == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL ||
		m.GetRecursiveReadOnly() && !engineRecursiveReadOnly(handler, host)
}

// oomGroup is in most requests of the kubelet on cgroup v2. It limits nothing, so it
// need not be set before the start.
const oomGroup = "memory.oom.group"

func limitsAnything(r *seam.Resources) bool {
	_, group := r.Unified[oomGroup]
	return r.Memory != nil || len(r.Hugepages) > 0 || len(r.Unified) > 1 || len(r.Unified) == 1 && !group
}

// SeamResources returns the limits that cridock-runtime sets; it is not nil. They are
// the memory limits that Docker refuses, and those of [CgroupFiles] without limits of
// zero huge pages, which the kubelet sends for all sizes, and whose cgroup files may be
// missing. r was validated and may be nil.
func SeamResources(r *runtimeapi.LinuxContainerResources, host Host) *seam.Resources {
	out := &seam.Resources{Memory: smallMemory(r)}
	for _, file := range unifiedFiles(r, host, false) {
		if out.Unified == nil {
			out.Unified = map[string]string{}
		}
		out.Unified[file.Name] = file.Value
	}
	for _, limit := range hugepageLimits(r, host) {
		// Of limits for one size the last one wins.
		out.Hugepages = slices.DeleteFunc(out.Hugepages, func(h seam.Hugepages) bool { return h.PageSize == limit.GetPageSize() })
		if limit.GetLimit() > 0 {
			out.Hugepages = append(out.Hugepages, seam.Hugepages{PageSize: limit.GetPageSize(), Limit: limit.GetLimit()})
		}
	}
	return out
}

// AmbiguousMemory reports whether the memory limit is one for which Docker has its
// minimum: that, or any below it, which cridock-runtime sets.
func AmbiguousMemory(r *runtimeapi.LinuxContainerResources) bool {
	return r.GetMemoryLimitInBytes() > 0 && r.GetMemoryLimitInBytes() <= minMemory
}

// smallMemory returns the exact limits of memory and swap if they are below Docker's
// minimum; nil if Docker can set them.
func smallMemory(r *runtimeapi.LinuxContainerResources) *seam.Memory {
	limit := r.GetMemoryLimitInBytes()
	if limit <= 0 || limit >= minMemory {
		return nil
	}
	swap, err := memorySwap("linux.resources", r, limit)
	if err != nil {
		return nil // the request was refused
	}
	return &seam.Memory{Limit: limit, Swap: swap}
}
