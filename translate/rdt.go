package translate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cridock/cridock/internal/seam"
)

// rdtAnnotation on a container, or with the suffixes of block I/O classes on its pod,
// names a class of Intel RDT, as in containerd and CRI-O.
const (
	rdtAnnotation     = "io.kubernetes.cri.rdt-class"
	rdtPodAnnotations = "rdt.resources.beta.kubernetes.io/"
)

// ValidateRDTClass returns an error unless name can be that of a resctrl group that
// somebody has made.
func ValidateRDTClass(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00\n"):
		return fmt.Errorf("RDT class %q: want the name of a directory in /sys/fs/resctrl", name)
	case slices.Contains([]string{"info", "mon_groups", "mon_data"}, name):
		return fmt.Errorf("RDT class %q: the kernel has this name for itself", name)
	}
	return nil
}

// RDTClass returns the RDT class that annotations name for a container of cridock's; ""
// for none. sb is its sandbox, nil if that is gone.
func RDTClass(c *Container, sb *Sandbox) string {
	if c.Config == nil {
		return ""
	}
	if sb == nil {
		sb = &Sandbox{}
	}
	_, class := (&ContainerRequest{Config: c.Config, Sandbox: sb}).annotatedClass(rdtAnnotation, rdtPodAnnotations)
	return class
}

// setRDTClass has cridock-runtime put the container into the class that an annotation
// names, unless the adjustment chooses another.
func (c *Create) setRDTClass(req ContainerRequest, host Host) error {
	a := req.Adjustment
	if a != nil && (a.NoRDTClass || a.Spec != nil && a.Spec.IntelRdt != nil && a.Spec.IntelRdt.ClosID != "") {
		return nil
	}
	field, name := req.annotatedClass(rdtAnnotation, rdtPodAnnotations)
	if name == "" {
		return nil
	}
	classes, handler := host.Settings.RDTClasses, req.runtimeHandler()
	if len(classes) == 0 {
		return unmet(field, "class %q: pods may name no RDT classes: set rdt-classes", name)
	}
	if !slices.Contains(classes, name) {
		return invalid(field, "unknown class %q; rdt-classes has %q", name, slices.Sorted(slices.Values(classes)))
	}
	if why := host.seamUnmet(handler); why != "" {
		return unmet(field, "class %q needs %s", name, why)
	}
	if !runtimeFeatures(handler, host).SeamRDT {
		return unmet(field, "class %q needs an OCI runtime that says that it knows RDT classes, such as runc 1.2; %q does not", name, runtimeName(handler, host))
	}
	record := c.useSeam(handler, host)
	// The adjustment may share both with later requests.
	var spec seam.Spec
	var rdt specs.LinuxIntelRdt
	if record.Spec != nil {
		spec = *record.Spec
	}
	if spec.IntelRdt != nil {
		rdt = *spec.IntelRdt
	}
	rdt.ClosID = name
	spec.IntelRdt, record.Spec = &rdt, &spec
	return nil
}
