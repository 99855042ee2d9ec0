package seam

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Spec has parts of an OCI configuration that replace or extend those of the bundle.
type Spec struct {
	// Annotations are added; those in RemoveAnnotations are removed before.
	Annotations       map[string]string `json:"annotations,omitempty"`
	RemoveAnnotations []string          `json:"removeAnnotations,omitempty"`
	// Devices replace those on the same path. The container may read and write them.
	Devices []specs.LinuxDevice `json:"devices,omitempty"`
	// Namespaces replace those of the same type; a new one has no path. The container
	// gets the host's for the types in RemoveNamespaces.
	Namespaces       []specs.LinuxNamespace          `json:"namespaces,omitempty"`
	RemoveNamespaces []specs.LinuxNamespaceType      `json:"removeNamespaces,omitempty"`
	Seccomp          *specs.LinuxSeccomp             `json:"seccomp,omitempty"`
	IOPriority       *specs.LinuxIOPriority          `json:"ioPriority,omitempty"`
	Scheduler        *specs.Scheduler                `json:"scheduler,omitempty"`
	NetDevices       map[string]specs.LinuxNetDevice `json:"netDevices,omitempty"`
	MemoryPolicy     *specs.LinuxMemoryPolicy        `json:"memoryPolicy,omitempty"`
	IntelRdt         *specs.LinuxIntelRdt            `json:"intelRdt,omitempty"`
}

// NamespaceTypes are the types of namespaces that a [Spec] can change. A user
// namespace is in [Record.UserNamespace], and every container has a mount namespace of
// its own.
var NamespaceTypes = []specs.LinuxNamespaceType{
	specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.TimeNamespace,
}

// Validate reports the first thing that cridock-runtime would refuse. s may be nil.
func (s *Spec) Validate() error {
	if s == nil {
		return nil
	}
	for _, key := range slices.Concat(slices.Sorted(maps.Keys(s.Annotations)), s.RemoveAnnotations) {
		if key == "" || strings.ContainsRune(key, 0) {
			return fmt.Errorf("annotation %q: want a name", key)
		}
	}
	for _, d := range s.Devices {
		if !path.IsAbs(d.Path) || path.Clean(d.Path) != d.Path || d.Path == "/" || strings.ContainsRune(d.Path, 0) {
			return fmt.Errorf("device %q: want a clean absolute path", d.Path)
		}
		if !slices.Contains([]string{"b", "c", "u", "p"}, d.Type) {
			return fmt.Errorf("device %s: %q is not the type of a device", d.Path, d.Type)
		}
	}
	for _, ns := range s.Namespaces {
		if !slices.Contains(NamespaceTypes, ns.Type) {
			return fmt.Errorf("namespace %q is not one of %q", ns.Type, NamespaceTypes)
		}
		if ns.Path != "" && (!path.IsAbs(ns.Path) || strings.ContainsRune(ns.Path, 0)) {
			return fmt.Errorf("%s namespace: path %q is not absolute", ns.Type, ns.Path)
		}
	}
	for _, kind := range s.RemoveNamespaces {
		if !slices.Contains(NamespaceTypes, kind) {
			return fmt.Errorf("namespace %q is not one of %q", kind, NamespaceTypes)
		}
	}
	if s.Seccomp != nil && s.Seccomp.DefaultAction == "" {
		return errors.New("seccomp: no default action")
	}
	return nil
}
