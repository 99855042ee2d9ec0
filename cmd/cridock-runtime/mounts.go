package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cridock/cridock/internal/seam"
)

// addMountOptions adds options to bind mounts. It is an error if one of them is not
// there, or more than once.
func (s spec) addMountOptions(bundle string, options map[string][]string) error {
	binds, err := s.binds(bundle)
	if err != nil {
		return err
	}
	for _, destination := range slices.Sorted(maps.Keys(options)) {
		var found []bind
		for _, b := range binds {
			if b.destination == destination {
				found = append(found, b)
			}
		}
		if len(found) != 1 {
			return fmt.Errorf("%d bind mounts on %s, want one to add options to", len(found), destination)
		}
		found[0].addOptions(options[destination])
	}
	return nil
}

func (b bind) addOptions(options []string) {
	list, _ := b.mount["options"].([]any)
	list = slices.Clone(list)
	for _, option := range options {
		if option == seam.RecursiveReadOnly {
			list = slices.DeleteFunc(list, func(o any) bool { return o == "ro" || o == "rw" })
		}
		if !slices.Contains(list, any(option)) {
			list = append(list, option)
		}
	}
	b.mount["options"] = list
}
