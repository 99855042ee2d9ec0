package main

import (
	"fmt"
	"path"

	"github.com/cridock/cridock/internal/seam"
)

// setDevices changes the device nodes. It is an error if one of them is not in the
// bundle.
func (s spec) setDevices(d *seam.Devices) error {
	linux, err := makeObject(s, "linux")
	if err != nil {
		return err
	}
	list, err := objects(linux, "devices")
	if err != nil {
		return err
	}
	have := map[string]map[string]any{}
	for _, device := range list {
		name, _ := device["path"].(string)
		have[path.Clean(name)] = device
	}
	kept := []any{}
	rules := []any{map[string]any{"allow": false, "access": "rwm"}}
	for _, n := range d.Nodes {
		device := have[n.Path]
		if device == nil {
			return fmt.Errorf("%s: no device %s", specName, n.Path)
		}
		if n.UID != nil {
			device["uid"] = *n.UID
		}
		if n.GID != nil {
			device["gid"] = *n.GID
		}
		kept = append(kept, device)
		rules = append(rules, map[string]any{"allow": true, "type": device["type"], "major": device["major"], "minor": device["minor"], "access": n.Access})
	}
	if !d.Exclusive {
		return nil
	}
	resources, err := makeObject(linux, "resources")
	if err != nil {
		return err
	}
	linux["devices"], resources["devices"] = kept, rules
	return nil
}
