package main

import (
	"fmt"
	"maps"
	"path"
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

// dropMounts removes anonymous volumes. It is an error if one of them is not there, or if
// something else is mounted there: what a CDI device mounts takes a volume's place.
func (s spec) dropMounts(bundle string, destinations []string) error {
	if len(destinations) == 0 {
		return nil
	}
	binds, err := s.binds(bundle)
	if err != nil {
		return err
	}
	volume := map[string]bool{}
	for _, b := range binds {
		volume[b.destination] = isAnonymousVolume(b.source)
	}
	count := map[string]int{}
	kept, err := without(s, "mounts", "destination", func(destination any) bool {
		d, _ := destination.(string)
		d = path.Clean(d)
		count[d]++
		return slices.Contains(destinations, d)
	})
	if err != nil {
		return err
	}
	for _, d := range destinations {
		if count[d] != 1 || !volume[d] {
			return fmt.Errorf("%d mounts on %s, want one to drop, a volume that the engine has made for the image", count[d], d)
		}
	}
	s["mounts"] = kept
	return nil
}

// isAnonymousVolume reports whether a path is where the engine has a volume to which it
// gave the name, 64 hexadecimal digits.
func isAnonymousVolume(source string) bool {
	dir, base := path.Split(source)
	return base == "_data" && seam.IsID(path.Base(dir))
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
