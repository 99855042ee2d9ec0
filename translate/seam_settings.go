package translate

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/seam"
)

// SeamSettings are the operator's settings for all containers that need
// cridock-runtime. Containers that one of them concerns are refused without it.
type SeamSettings struct {
	// SharedUTS: the containers of a pod are in its UTS namespace. Those of a pod with a
	// user namespace always are.
	SharedUTS bool
	// DeviceOwnership: the user and group of the security context own the requested
	// devices in the container.
	DeviceOwnership bool
	// PrivilegedWithoutHostDevices lists the Docker runtimes whose privileged containers
	// have only the devices that they request.
	PrivilegedWithoutHostDevices []string
	// WritableCgroups lists the Docker runtimes whose containers can write to their
	// cgroup file system.
	WritableCgroups []string
	// RDTClasses are the resctrl groups that pods may name.
	RDTClasses []string
	// ExecOnFirstCPU: processes of exec sessions start on the first CPU of the cpuset of
	// a container that was created with one.
	ExecOnFirstCPU bool
}

// adjustAndSet applies the request's adjustment, and then has cridock-runtime do what
// the settings ask for.
func (c *Create) adjustAndSet(req ContainerRequest, host Host) error {
	requested := c.requestedDevices(req)
	if err := c.checkAdjustment(req, host); err != nil {
		return err
	}
	c.adjust(req.Adjustment, req.runtimeHandler(), host)
	if err := c.setRDTClass(req, host); err != nil {
		return err
	}
	if err := c.startExecsOnFirstCPU(req, host); err != nil {
		return err
	}
	if err := c.changeDevices(req, requested, host); err != nil {
		return err
	}
	if err := c.makeCgroupsWritable(req, host); err != nil {
		return err
	}
	return c.shareUTS(req, host)
}

// requestedDevices returns where the container has the devices that its configuration
// names, unless the adjustment replaces them; those of CDI are not among them.
func (c *Create) requestedDevices(req ContainerRequest) []string {
	n := len(req.Devices)
	if req.Devices == nil {
		n = len(req.Config.GetDevices())
	}
	var paths []string
	for _, d := range c.HostConfig.Devices[:n] { // those of CDI follow
		if target := path.Clean(d.PathInContainer); !req.Adjustment.replacesDevice(target) {
			paths = append(paths, target)
		}
	}
	return paths
}

// PrivilegedDevices reports whether the privileged containers of a runtime handler have all
// of the host's devices.
func (h Host) PrivilegedDevices(handler string) bool {
	return !slices.Contains(h.Settings.PrivilegedWithoutHostDevices, runtimeName(handler, h))
}

// changeDevices applies the settings of devices. The user of the container owns those on
// the requested paths.
func (c *Create) changeDevices(req ContainerRequest, requested []string, host Host) error {
	sc, handler := req.Config.GetLinux().GetSecurityContext(), req.runtimeHandler()
	exclusive := sc.GetPrivileged() && !host.PrivilegedDevices(handler)
	uid, gid := owner(sc.GetRunAsUser()), owner(sc.GetRunAsGroup())
	owned := host.Settings.DeviceOwnership && (uid != nil || gid != nil) && len(requested) > 0
	if !exclusive && !owned {
		return nil
	}
	if err := c.devicesUnmet(req, exclusive, host); err != nil {
		return err
	}
	d := &seam.Devices{Exclusive: exclusive}
	for _, n := range deviceNodes(c.HostConfig.Devices) {
		if owned && slices.Contains(requested, n.Path) {
			n.UID, n.GID = uid, gid
		} else if !exclusive {
			continue
		}
		d.Nodes = append(d.Nodes, n)
	}
	if exclusive && req.Adjustment != nil {
		for _, rule := range req.Adjustment.DeviceRules {
			d.Rules = append(d.Rules, deviceRule(rule))
		}
	}
	c.useSeam(handler, host).Devices = d
	return nil
}

// devicesUnmet returns an error if cridock-runtime can't change the container's devices.
func (c *Create) devicesUnmet(req ContainerRequest, exclusive bool, host Host) error {
	const field = "linux.security_context."
	handler := req.runtimeHandler()
	name, why := runtimeName(handler, host), host.seamUnmet(handler)
	names, err := CDIDevices(req.Config)
	switch {
	case exclusive && why != "":
		return unmet(field+"privileged", "privileged-without-host-devices is set for runtime %q, and needs %s", name, why)
	case why != "":
		return unmet("devices", "device-ownership-from-security-context is set, and needs %s", why)
	case c.remapped(host):
		return unmet("devices", "device-ownership-from-security-context is set, but with the engine's userns-remap the runtime mounts the host's devices, with their owners")
	case err != nil:
		return err
	case exclusive && host.CDI && len(names) > 0:
		return unmet("CDI_devices", "%q can't be told from the host's devices: privileged-without-host-devices is set for runtime %q", names, name)
	}
	return nil
}

// deviceRule converts a rule from Docker's form, such as "c 1:* rwm".
func deviceRule(text string) specs.LinuxDeviceCgroup {
	kind, rest, _ := strings.Cut(text, " ")
	numbers, access, _ := strings.Cut(rest, " ")
	major, minor, _ := strings.Cut(numbers, ":")
	return specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: deviceNumber(major), Minor: deviceNumber(minor), Access: access}
}

// deviceNumber returns nil for all.
func deviceNumber(text string) *int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return nil
	}
	return &n
}

// owner returns an ID to own devices, nil for the host's owner. Like containerd, it
// takes no root.
func owner(id *runtimeapi.Int64Value) *uint32 {
	if id.GetValue() <= 0 {
		return nil
	}
	return new(uint32(id.GetValue())) //nolint:gosec // was validated
}

// deviceNodes returns devices by their paths in the container. Of two on the same path
// the last one wins.
func deviceNodes(devices []container.DeviceMapping) []seam.DeviceNode {
	var out []seam.DeviceNode
	for _, d := range devices {
		target := path.Clean(d.PathInContainer)
		out = slices.DeleteFunc(out, func(n seam.DeviceNode) bool { return n.Path == target })
		out = append(out, seam.DeviceNode{Path: target, Access: d.CgroupPermissions})
	}
	return out
}

// makeCgroupsWritable applies that setting. Privileged containers can write to all
// cgroups anyway.
func (c *Create) makeCgroupsWritable(req ContainerRequest, host Host) error {
	const field = "linux.security_context"
	handler := req.runtimeHandler()
	if c.HostConfig.Privileged || !slices.Contains(host.Settings.WritableCgroups, runtimeName(handler, host)) {
		return nil
	}
	if !host.CgroupV2 {
		return unmet(field, "writable-cgroups is set for runtime %q, but needs cgroup v2: in v1 a container would see those of others", runtimeName(handler, host))
	}
	if podUserns(req.Sandbox.Namespaces) != nil || c.remapped(host) {
		return unmet(field, "writable-cgroups is set for runtime %q, but in a user namespace runc leaves the cgroup to the host's root", runtimeName(handler, host))
	}
	if req.Adjustment.changesNamespace(specs.CgroupNamespace) {
		return unmet(field, "writable-cgroups is set for runtime %q, but needs a cgroup namespace of the container's own", runtimeName(handler, host))
	}
	if why := host.seamUnmet(handler); why != "" {
		return unmet(field, "writable-cgroups is set for runtime %q, and needs %s", runtimeName(handler, host), why)
	}
	c.useSeam(handler, host).WritableCgroups = true
	return nil
}

// shareUTS has the container join its pod's UTS namespace, unless that is the host's or
// the adjustment chooses another.
func (c *Create) shareUTS(req ContainerRequest, host Host) error {
	if req.Sandbox.HostNetwork || req.Adjustment.changesNamespace(specs.UTSNamespace) || !host.Settings.SharedUTS && podUserns(req.Sandbox.Namespaces) == nil {
		return nil
	}
	if why := host.seamUnmet(req.runtimeHandler()); why != "" {
		return unmet("linux.security_context.namespace_options", "shared-uts-namespace is set, and needs %s", why)
	}
	c.useSeam(req.runtimeHandler(), host)
	c.Seam.SharedUTS = true
	return nil
}
