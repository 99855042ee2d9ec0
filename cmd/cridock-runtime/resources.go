package main

import (
	"fmt"

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
		return setMemory(resources, r.Memory)
	}
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
