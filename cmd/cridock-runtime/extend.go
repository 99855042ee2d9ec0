package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cridock/cridock/internal/seam"
)

// extend replaces and adds parts of the configuration.
func (s spec) extend(add *seam.Spec) error {
	linux, err := makeObject(s, "linux")
	if err != nil {
		return err
	}
	process, err := makeObject(s, "process")
	if err != nil {
		return err
	}
	if add.Seccomp != nil {
		linux["seccomp"] = add.Seccomp
	}
	if add.MemoryPolicy != nil {
		linux["memoryPolicy"] = add.MemoryPolicy
	}
	if add.IntelRdt != nil {
		linux["intelRdt"] = add.IntelRdt
	}
	if add.IOPriority != nil {
		process["ioPriority"] = add.IOPriority
	}
	if add.Scheduler != nil {
		process["scheduler"] = add.Scheduler
	}
	return errors.Join(s.setAnnotations(add), replaceDevices(linux, add.Devices), setNamespaces(linux, add), setNetDevices(linux, add.NetDevices))
}

func (s spec) setAnnotations(add *seam.Spec) error {
	for _, key := range add.RemoveAnnotations {
		delete(object(s, "annotations"), key)
	}
	return s.annotate(add.Annotations)
}

// replaceDevices replaces devices on the same paths, adds the others and gives access to
// all of them.
func replaceDevices(linux map[string]any, devices []specs.LinuxDevice) error {
	if len(devices) == 0 {
		return nil
	}
	list, err := without(linux, "devices", "path", func(path any) bool {
		return slices.ContainsFunc(devices, func(d specs.LinuxDevice) bool { return d.Path == path })
	})
	if err != nil {
		return err
	}
	resources, err := makeObject(linux, "resources")
	if err != nil {
		return err
	}
	rules, ok := resources["devices"].([]any)
	if !ok && resources["devices"] != nil {
		return fmt.Errorf("%s: linux.resources.devices is not a list", specName)
	}
	for _, d := range devices {
		device, err := toObject(d)
		if err != nil {
			return err
		}
		list = append(list, device)
		if d.Type == "p" {
			continue // a FIFO needs no access
		}
		kind := d.Type
		if kind == "u" {
			kind = "c"
		}
		rules = append(rules, map[string]any{"allow": true, "type": kind, "major": d.Major, "minor": d.Minor, "access": "rwm"})
	}
	linux["devices"], resources["devices"] = list, rules
	return nil
}

// setNamespaces replaces, adds and removes namespaces.
func setNamespaces(linux map[string]any, add *seam.Spec) error {
	if len(add.Namespaces)+len(add.RemoveNamespaces) == 0 {
		return nil
	}
	list, err := without(linux, "namespaces", "type", func(kind any) bool {
		name, _ := kind.(string)
		return slices.Contains(add.RemoveNamespaces, specs.LinuxNamespaceType(name)) ||
			slices.ContainsFunc(add.Namespaces, func(n specs.LinuxNamespace) bool { return string(n.Type) == name })
	})
	if err != nil {
		return err
	}
	for _, ns := range add.Namespaces {
		namespace, err := toObject(ns)
		if err != nil {
			return err
		}
		list = append(list, namespace)
	}
	linux["namespaces"] = list
	return nil
}

func setNetDevices(linux map[string]any, devices map[string]specs.LinuxNetDevice) error {
	if len(devices) == 0 {
		return nil
	}
	have, err := makeObject(linux, "netDevices")
	if err != nil {
		return err
	}
	for name, d := range devices {
		have[name] = d
	}
	return nil
}

// toObject converts a value to what it is in a bundle, for later changes to find it.
func toObject(v any) (map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var o map[string]any
	return o, d.Decode(&o)
}

// without returns a list of objects without those whose key drop accepts.
func without(in map[string]any, name, key string, drop func(any) bool) ([]any, error) {
	have, err := objects(in, name)
	if err != nil {
		return nil, err
	}
	list := []any{}
	for _, o := range have {
		if !drop(o[key]) {
			list = append(list, o)
		}
	}
	return list, nil
}
