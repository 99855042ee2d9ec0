package translate

import (
	"path"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cdi "tags.cncf.io/container-device-interface/specs-go"

	"github.com/cridock/cridock/internal/seam"
)

// CDIMount returns the CDI form of a mount with mount_options, which Docker's own
// mounts cannot have; nil if m has none, or if only cridock-runtime can make it. source
// is m's with links followed, handler the pod's runtime handler; field names m in
// errors.
func CDIMount(field string, m *runtimeapi.Mount, source, handler string, host Host) (*cdi.Mount, error) {
	switch {
	case len(m.GetMountOptions()) == 0:
		return nil, nil
	case m.GetImage().GetImage() != "":
		return nil, unmet(field+".mount_options", "Docker can't combine them with an image")
	case host.seamUnmet(handler) == "" && needsSeam(m, handler, host):
		return nil, nil
	case m.GetPropagation() == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		// Docker ensures only for its own mounts that the mount around the source is shared.
		return nil, unmet(field+".mount_options", "Docker can't combine them with propagation BIDIRECTIONAL")
	}
	bind, err := bindMount(field, m, source, handler, host)
	if err != nil {
		return nil, err
	}
	options := []string{"rbind", string(bind.BindOptions.Propagation)}
	switch {
	case m.GetRecursiveReadOnly():
		options = append(options, "rro")
	case m.GetReadonly():
		options = append(options, "ro")
	}
	return &cdi.Mount{HostPath: bind.Source, ContainerPath: bind.Target, Options: append(options, m.GetMountOptions()...)}, nil
}

// Append adds the edits of a CDI device, for an engine without CDI. What such an
// engine cannot do is ErrFailedPrecondition: network devices, resource classes,
// additional groups, and device nodes that differ from the node's. Hooks are for
// [DockerContainer] to refuse.
//
// Append returns the mount options that Docker does not have (nosuid, nodev,
// noexec). They only guard against files that the specification's author put
// there, so a mount without them is better than none.
func (e *CDIEdits) Append(device string, in *cdi.ContainerEdits) (without []string, err error) {
	field := "CDI device " + device
	if len(in.NetDevices) > 0 || in.IntelRdt != nil || len(in.AdditionalGIDs) > 0 {
		return nil, unmet(field, "has network devices, Intel RDT or additional groups, which need an engine with CDI")
	}
	for _, h := range in.Hooks {
		hook := seam.Hook{Name: h.HookName, Path: h.Path, Args: h.Args, Env: h.Env}
		if h.Timeout != nil {
			hook.Timeout = *h.Timeout
		}
		e.Hooks = append(e.Hooks, hook)
	}
	e.Env = append(e.Env, in.Env...)
	for _, n := range in.DeviceNodes {
		mapping, err := cdiNode(field, n)
		if err != nil {
			return nil, err
		}
		e.Devices = append(e.Devices, mapping)
	}
	for _, m := range in.Mounts {
		bind, unknown, err := cdiBind(field, m)
		if err != nil {
			return nil, err
		}
		e.Mounts = append(e.Mounts, bind)
		without = append(without, unknown...)
	}
	return without, nil
}

func cdiNode(field string, n *cdi.DeviceNode) (container.DeviceMapping, error) {
	if n.UID != nil || n.GID != nil || n.FileMode != nil {
		return container.DeviceMapping{}, unmet(field, "sets the owner or mode of %s, which needs an engine with CDI", n.Path)
	}
	permissions := n.Permissions
	if permissions == "none" { // the CDI library's value
		return container.DeviceMapping{}, unmet(field, "grants no permissions on %s, which needs an engine with CDI", n.Path)
	}
	host := n.HostPath
	if host == "" {
		host = n.Path
	}
	return DockerDevice(field, &runtimeapi.Device{HostPath: host, ContainerPath: n.Path, Permissions: permissions})
}

func cdiBind(field string, m *cdi.Mount) (bind mount.Mount, without []string, err error) {
	if m.Type != "" && m.Type != "bind" && m.Type != "none" || !path.IsAbs(m.HostPath) {
		return bind, nil, unmet(field, "mounts %q of type %q, which needs an engine with CDI", m.HostPath, m.Type)
	}
	bind = mount.Mount{Type: mount.TypeBind, Source: m.HostPath, Target: m.ContainerPath, BindOptions: &mount.BindOptions{}}
	for _, option := range m.Options {
		switch {
		case option == "ro":
			bind.ReadOnly = true
		case option == "bind":
			bind.BindOptions.NonRecursive = true
		case slices.Contains(mount.Propagations, mount.Propagation(option)):
			bind.BindOptions.Propagation = mount.Propagation(option)
		case slices.Contains(mountOptions, option):
			without = append(without, option)
		case option == "rbind", option == "rw", strings.TrimSpace(option) == "":
		default:
			return bind, nil, unmet(field, "mounts %q with option %q, which needs an engine with CDI", m.HostPath, option)
		}
	}
	return bind, without, nil
}
