package seam

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Devices changes the device nodes of a container.
type Devices struct {
	// Exclusive removes all devices that are not in Nodes, and access to them. The real
	// runtime adds those that every container has, such as /dev/null.
	Exclusive bool `json:"exclusive,omitempty"`
	// Nodes are devices of the bundle. Of two on the same path the last one counts.
	Nodes []DeviceNode `json:"nodes,omitempty"`
	// Rules allow access besides that to Nodes. Only Exclusive needs them: otherwise the
	// bundle has them.
	Rules []specs.LinuxDeviceCgroup `json:"rules,omitempty"`
}

// DeviceNode is a device in the bundle.
type DeviceNode struct {
	// Path is in the container.
	Path string `json:"path"`
	// UID and GID own the node; nil for what the bundle has.
	UID *uint32 `json:"uid,omitempty"`
	GID *uint32 `json:"gid,omitempty"`
	// Access, of r, w and m, is what Exclusive allows.
	Access string `json:"access,omitempty"`
}

// OwnsDevice reports whether the record, and not the engine, says what node a device is
// or who owns it.
func (r *Record) OwnsDevice(path string) bool {
	owned := r.Devices != nil && slices.ContainsFunc(r.Devices.Nodes, func(n DeviceNode) bool { return n.Path == path && (n.UID != nil || n.GID != nil) })
	return owned || r.Spec != nil && slices.ContainsFunc(r.Spec.Devices, func(d specs.LinuxDevice) bool { return d.Path == path })
}

func (d *Devices) validate() error {
	if d == nil {
		return nil
	}
	if !d.Exclusive && len(d.Nodes) == 0 {
		return errors.New("no devices to change")
	}
	paths := make([]string, len(d.Nodes))
	for i, n := range d.Nodes {
		paths[i] = n.Path
		if strings.Trim(n.Access, "rwm") != "" || d.Exclusive && n.Access == "" {
			return fmt.Errorf("device %q: access %q is not a combination of r, w and m", n.Path, n.Access)
		}
	}
	if len(d.Rules) > 0 && !d.Exclusive {
		return errors.New("rules for devices that are not exclusive")
	}
	for _, r := range d.Rules {
		if !r.Allow || !slices.Contains([]string{"a", "b", "c"}, r.Type) || r.Access == "" || strings.Trim(r.Access, "rwm") != "" {
			return fmt.Errorf("device rule %+v: want one that allows r, w or m of type a, b or c", r)
		}
	}
	return validateDestinations(paths)
}
