package translate

import (
	"path"
	"slices"

	"github.com/docker/docker/api/types/container"
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
}

// applySeamSettings has cridock-runtime do what the settings ask for.
func (c *Create) applySeamSettings(req ContainerRequest, host Host) error {
	if err := c.changeDevices(req, host); err != nil {
		return err
	}
	if err := c.makeCgroupsWritable(req, host); err != nil {
		return err
	}
	return c.shareUTS(req, host)
}

// changeDevices applies the settings of devices.
func (c *Create) changeDevices(req ContainerRequest, host Host) error {
	const field = "linux.security_context."
	sc, handler := req.Config.GetLinux().GetSecurityContext(), req.runtimeHandler()
	exclusive := sc.GetPrivileged() && slices.Contains(host.Settings.PrivilegedWithoutHostDevices, runtimeName(handler, host))
	uid, gid := owner(sc.GetRunAsUser()), owner(sc.GetRunAsGroup())
	requested := c.HostConfig.Devices // those of CDI follow
	if n := len(req.Config.GetDevices()); req.Devices == nil {
		requested = requested[:n]
	} else {
		requested = requested[:len(req.Devices)]
	}
	owned := host.Settings.DeviceOwnership && (uid != nil || gid != nil) && len(requested) > 0
	if !exclusive && !owned {
		return nil
	}
	if why := host.seamUnmet(handler); why != "" && exclusive {
		return unmet(field+"privileged", "privileged-without-host-devices is set for runtime %q, and needs %s", runtimeName(handler, host), why)
	} else if why != "" {
		return unmet("devices", "device-ownership-from-security-context is set, and needs %s", why)
	}
	if owned && c.remapped(host) {
		return unmet("devices", "device-ownership-from-security-context is set, but with the engine's userns-remap the runtime mounts the host's devices, with their owners")
	}
	names, err := CDIDevices(req.Config)
	switch {
	case err != nil:
		return err
	case exclusive && host.CDI && len(names) > 0:
		return unmet("CDI_devices", "%q can't be told from the host's devices: privileged-without-host-devices is set for runtime %q", names, runtimeName(handler, host))
	case !owned:
		uid, gid = nil, nil
	}
	d := &seam.Devices{Exclusive: exclusive}
	if exclusive {
		d.Nodes = deviceNodes(c.HostConfig.Devices)
	} else {
		d.Nodes = deviceNodes(requested)
	}
	for i := range d.Nodes {
		if owns := slices.ContainsFunc(requested, func(m container.DeviceMapping) bool { return path.Clean(m.PathInContainer) == d.Nodes[i].Path }); owns {
			d.Nodes[i].UID, d.Nodes[i].GID = uid, gid
		}
	}
	c.useSeam(handler, host).Devices = d
	return nil
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
	if why := host.seamUnmet(handler); why != "" {
		return unmet(field, "writable-cgroups is set for runtime %q, and needs %s", runtimeName(handler, host), why)
	}
	c.useSeam(handler, host).WritableCgroups = true
	return nil
}

// shareUTS has the container join its pod's UTS namespace, unless that is the host's.
func (c *Create) shareUTS(req ContainerRequest, host Host) error {
	if req.Sandbox.HostNetwork || !host.Settings.SharedUTS && podUserns(req.Sandbox.Namespaces) == nil {
		return nil
	}
	if why := host.seamUnmet(req.runtimeHandler()); why != "" {
		return unmet("linux.security_context.namespace_options", "shared-uts-namespace is set, and needs %s", why)
	}
	c.useSeam(req.runtimeHandler(), host)
	c.Seam.SharedUTS = true
	return nil
}
