package translate

import (
	"fmt"
	"path"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/seam"
)

// engineFiles are the files that Docker mounts on its own. They belong to the host's
// root, and to the container's as well.
var engineFiles = []string{"/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}

// podUserns returns the options of a user namespace of the pod's own, nil if it uses
// the host's.
func podUserns(ns *runtimeapi.NamespaceOption) *runtimeapi.UserNamespace {
	if o := ns.GetUsernsOptions(); o != nil && !isHost(o.GetMode()) {
		return o
	}
	return nil
}

// validateUserns checks a user namespace without regard to the node.
func validateUserns(in string, o *runtimeapi.UserNamespace) error {
	field := in + "namespace_options.userns_options"
	switch {
	case o == nil:
		return nil
	case isHost(o.GetMode()):
		if len(o.GetUids()) > 0 || len(o.GetGids()) > 0 {
			return invalid(field, "mappings set with mode NODE, which allows none")
		}
		return nil
	case o.GetMode() != runtimeapi.NamespaceMode_POD:
		return invalid(field+".mode", "a user namespace can't have mode %s", o.GetMode())
	}
	return validateMappings(field+".uids", o.GetUids(), field+".gids", o.GetGids())
}

// validateMappings accepts the mappings that the kubelet sends: one for users and one
// for groups, from 0 on.
func validateMappings(uidField string, uids []*runtimeapi.IDMapping, gidField string, gids []*runtimeapi.IDMapping) error {
	for _, list := range []struct {
		field    string
		mappings []*runtimeapi.IDMapping
	}{{uidField, uids}, {gidField, gids}} {
		if len(list.mappings) != 1 {
			return invalid(list.field, "%d mappings; a user namespace needs exactly one", len(list.mappings))
		}
		if err := seam.ValidateMappings(seamMappings(list.mappings)); err != nil {
			return invalid(list.field, "%v", err)
		}
	}
	return nil
}

func seamMappings(mappings []*runtimeapi.IDMapping) []seam.Mapping {
	out := make([]seam.Mapping, 0, len(mappings))
	for _, m := range mappings {
		out = append(out, seam.Mapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return out
}

// validateSandboxUserns refuses a sandbox with a user namespace that shares another
// namespace with the host: that one would not belong to its users.
func validateSandboxUserns(in string, ns *runtimeapi.NamespaceOption) error {
	if err := validateUserns(in, ns.GetUsernsOptions()); err != nil || podUserns(ns) == nil {
		return err
	}
	for field, mode := range map[string]runtimeapi.NamespaceMode{"network": ns.GetNetwork(), "pid": ns.GetPid(), "ipc": ns.GetIpc()} {
		if isHost(mode) {
			return invalid(in+"namespace_options.userns_options.mode", "a pod with the host's %s namespace can't have a user namespace: set hostUsers: true (mode NODE)", field)
		}
	}
	return nil
}

// validateUsernsInSandbox checks a container's user namespace and id-mapped mounts
// against its sandbox: both have the sandbox's mappings.
func validateUsernsInSandbox(req ContainerRequest) error {
	const in = "linux.security_context.namespace_options."
	ns := req.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	sandbox := podUserns(req.Sandbox.Namespaces)
	if own := ns.GetUsernsOptions(); own != nil && !sameUserns(podUserns(ns), sandbox) {
		return invalid(in+"userns_options", "differs from the sandbox's")
	}
	if sandbox != nil && isHost(ns.GetPid()) {
		return invalid(in+"pid", "NODE: a pod with a user namespace can't use the host's PID namespace")
	}
	for i, m := range req.Config.GetMounts() {
		field := fmt.Sprintf("mounts[%d]", i)
		mapped := len(m.GetUidMappings()) > 0
		switch {
		case mapped && sandbox == nil:
			return invalid(field+".uidMappings", "the sandbox has no user namespace")
		case mapped && !sameMappings(m.GetUidMappings(), m.GetGidMappings(), sandbox):
			return invalid(field+".uidMappings", "differ from the sandbox's")
		case sandbox != nil && m.GetPropagation() == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
			return invalid(field+".propagation", "BIDIRECTIONAL: mounts made in a user namespace can't appear on the host")
		}
	}
	return nil
}

// SandboxUserNamespace returns a sandbox's user namespace, nil if it uses the host's.
func SandboxUserNamespace(s *Sandbox) *seam.UserNamespace {
	o := podUserns(s.Namespaces)
	if o == nil {
		return nil
	}
	return &seam.UserNamespace{UIDs: seamMappings(o.GetUids()), GIDs: seamMappings(o.GetGids())}
}

func sameUserns(a, b *runtimeapi.UserNamespace) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return sameMappings(a.GetUids(), a.GetGids(), b)
}

func sameMappings(uids, gids []*runtimeapi.IDMapping, o *runtimeapi.UserNamespace) bool {
	return slices.Equal(seamMappings(uids), seamMappings(o.GetUids())) && slices.Equal(seamMappings(gids), seamMappings(o.GetGids()))
}

// enterUserNamespace has cridock-runtime run a container in the pod's user namespace,
// if it has one of its own. handler is the pod's.
func (c *Create) enterUserNamespace(ns *runtimeapi.NamespaceOption, handler string, host Host) error {
	o := podUserns(ns)
	if o == nil {
		return nil
	}
	if why := host.userNamespacesUnmet(handler); why != "" {
		return unmet("linux.security_context.namespace_options.userns_options.mode", "%s; or set hostUsers: true (mode NODE)", why)
	}
	r := c.useSeam(handler, host)
	r.UserNamespace = &seam.UserNamespace{UIDs: seamMappings(o.GetUids()), GIDs: seamMappings(o.GetGids())}
	r.MappedFiles = slices.Clone(engineFiles)
	return nil
}

// mapMounts has cridock-runtime id-map the mounts of a container in a user namespace
// that the CRI has mappings for, and all images, but nothing that the adjustment mounts
// instead.
func (c *Create) mapMounts(req ContainerRequest) {
	if c.Seam == nil || c.Seam.Record.UserNamespace == nil {
		return
	}
	r := &c.Seam.Record
	r.MappedFiles = slices.DeleteFunc(r.MappedFiles, req.Adjustment.replacesMount)
	for i, m := range req.Config.GetMounts() {
		target := path.Clean(m.GetContainerPath())
		// Of mounts on the same path the last one wins.
		r.MappedMounts = slices.DeleteFunc(r.MappedMounts, func(d string) bool { return d == target })
		r.Images = slices.DeleteFunc(r.Images, func(i seam.Image) bool { return i.Destination == target })
		r.MappedFiles = slices.DeleteFunc(r.MappedFiles, func(d string) bool { return d == target })
		if req.Adjustment.replacesMount(target) {
			continue
		}
		image := m.GetImage().GetImage() != ""
		if image || len(m.GetUidMappings()) > 0 {
			r.MappedMounts = append(r.MappedMounts, target)
		}
		if image {
			r.Images = append(r.Images, seam.Image{Destination: target, Layers: req.Mounts[i].Layers})
		}
	}
}

// userNamespacesUnmet says what pods of a CRI handler lack to have user namespaces; ""
// if nothing.
func (h Host) userNamespacesUnmet(handler string) string {
	if h.SeamRuntime != "" && h.UserNamespacesUnmet != "" {
		return "user namespaces: " + h.UserNamespacesUnmet
	}
	if why := h.seamUnmet(handler); why != "" {
		return "user namespaces need " + why
	}
	return ""
}
