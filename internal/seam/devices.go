package seam

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Devices changes the device nodes of a container.
type Devices struct {
	// Exclusive removes all devices that are not in Nodes, and access to them. The real
	// runtime adds those that every container has, such as /dev/null.
	Exclusive bool `json:"exclusive,omitempty"`
	// Nodes are devices of the bundle. Of two on the same path the last one counts.
	Nodes []DeviceNode `json:"nodes,omitempty"`
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

// Owned reports whether a device has another owner than in the bundle. d may be nil.
func (d *Devices) Owned(path string) bool {
	return d != nil && slices.ContainsFunc(d.Nodes, func(n DeviceNode) bool { return n.Path == path && (n.UID != nil || n.GID != nil) })
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
	return validateDestinations(paths)
}
