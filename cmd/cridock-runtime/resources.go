package main

import (
	"fmt"
	"slices"

	"github.com/cridock/cridock/internal/seam"
)

// makeObject returns the object with this name in another, which it creates if there
// is none.
func makeObject(in map[string]any, name string) (map[string]any, error) {
	if in[name] == nil {
		in[name] = map[string]any{}
	}
	o := object(in, name)
	if o == nil {
		return nil, fmt.Errorf("%s: %s is not an object", specName, name)
	}
	return o, nil
}

// setResources replaces limits of the container.
func (s spec) setResources(r *seam.Resources) error {
	linux, err := makeObject(s, "linux")
	if err != nil {
		return err
	}
	resources, err := makeObject(linux, "resources")
	if err != nil {
		return err
	}
	if r.Memory != nil {
		if err := setMemory(resources, r.Memory); err != nil {
			return err
		}
	}
	if len(r.Unified) > 0 {
		if err := setUnified(resources, r.Unified); err != nil {
			return err
		}
	}
	if len(r.Hugepages) > 0 {
		return setHugepages(resources, r.Hugepages)
	}
	return nil
}

// setUnified sets files of the cgroup, in addition to those in the bundle.
func setUnified(resources map[string]any, files map[string]string) error {
	unified, err := makeObject(resources, "unified")
	if err != nil {
		return err
	}
	for key, value := range files {
		unified[key] = value
	}
	return nil
}

// setHugepages sets limits of huge pages, in addition to those of other page sizes in
// the bundle.
func setHugepages(resources map[string]any, limits []seam.Hugepages) error {
	have, err := objects(resources, "hugepageLimits")
	if err != nil {
		return err
	}
	list := []any{}
	for _, h := range have {
		if !slices.ContainsFunc(limits, func(l seam.Hugepages) bool { return h["pageSize"] == l.PageSize }) {
			list = append(list, h)
		}
	}
	for _, l := range limits {
		list = append(list, map[string]any{"pageSize": l.PageSize, "limit": l.Limit})
	}
	resources["hugepageLimits"] = list
	return nil
}

// setMemory replaces the limits of memory and swap.
func setMemory(resources map[string]any, m *seam.Memory) error {
	memory, err := makeObject(resources, "memory")
	if err != nil {
		return err
	}
	memory["limit"] = m.Limit
	switch {
	case m.Swap < 0:
		delete(memory, "swap")
	case memory["swap"] != nil:
		// Docker leaves it out if the kernel does not account for swap.
		memory["swap"] = m.Swap
	}
	return nil
}
