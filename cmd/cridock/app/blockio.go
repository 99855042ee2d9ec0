package app

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/cridock/cridock/translate"
)

// blockIOParameters is one element of a class in the file of blockio-config-file.
type blockIOParameters struct {
	Devices           []string
	Weight            string
	ThrottleReadBps   string
	ThrottleWriteBps  string
	ThrottleReadIOPS  string
	ThrottleWriteIOPS string
}

func (o *Options) validateBlockIO() error {
	_, err := o.blockIOClasses()
	return err
}

// blockIOClasses reads the file of blockio-config-file; nil for none.
func (o *Options) blockIOClasses() (map[string]*translate.BlockIOClass, error) {
	if o.BlockIOConfigFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(o.BlockIOConfigFile)
	if err != nil {
		return nil, fmt.Errorf("blockio-config-file: %w", err)
	}
	var in struct {
		Classes map[string][]blockIOParameters
	}
	if err := yaml.UnmarshalStrict(text, &in); err != nil {
		return nil, fmt.Errorf("blockio-config-file %s: %w", o.BlockIOConfigFile, err)
	}
	out := map[string]*translate.BlockIOClass{}
	for _, name := range slices.Sorted(maps.Keys(in.Classes)) {
		class := new(translate.BlockIOClass)
		for _, p := range in.Classes[name] {
			if err := p.addTo(class); err != nil {
				return nil, fmt.Errorf("blockio-config-file %s: class %s: %w", o.BlockIOConfigFile, name, err)
			}
		}
		if err := class.Validate(); err != nil {
			return nil, fmt.Errorf("blockio-config-file %s: class %s: %w", o.BlockIOConfigFile, name, err)
		}
		out[name] = class
	}
	return out, nil
}

// addTo adds the parameters to a class; later ones precede earlier ones.
func (p blockIOParameters) addTo(c *translate.BlockIOClass) error {
	devices, err := blockDevices(p.Devices)
	if err != nil {
		return err
	}
	weight, err := parseQuantity("Weight", p.Weight)
	if err != nil {
		return err
	}
	if weight > 0 && len(p.Devices) == 0 {
		c.Weight = uint16(min(weight, 1<<16-1)) //nolint:gosec // bounded
	}
	limitDevices(&c.Weights, devices, weight)
	for _, t := range []struct {
		name, text string
		into       *[]translate.BlockIOLimit
	}{
		{"ThrottleReadBps", p.ThrottleReadBps, &c.ReadBps}, {"ThrottleWriteBps", p.ThrottleWriteBps, &c.WriteBps},
		{"ThrottleReadIOPS", p.ThrottleReadIOPS, &c.ReadIOps}, {"ThrottleWriteIOPS", p.ThrottleWriteIOPS, &c.WriteIOps},
	} {
		rate, err := parseQuantity(t.name, t.text)
		if err != nil {
			return err
		}
		if rate > 0 && len(p.Devices) == 0 {
			return fmt.Errorf("%s without Devices", t.name)
		}
		limitDevices(t.into, devices, rate)
	}
	return nil
}

// limitDevices sets the limit of devices, unless it is 0.
func limitDevices(limits *[]translate.BlockIOLimit, devices []string, value uint64) {
	for _, device := range devices {
		if value > 0 {
			*limits = slices.DeleteFunc(*limits, func(l translate.BlockIOLimit) bool { return l.Device == device })
			*limits = append(*limits, translate.BlockIOLimit{Device: device, Value: value})
		}
	}
}

// parseQuantity parses a number such as 60M; 0 for "".
func parseQuantity(name, text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Value() <= 0 {
		return 0, fmt.Errorf("%s %q: want a positive number, such as 60M", name, text)
	}
	return uint64(q.Value()), nil
}

// blockDevices returns the block devices that globs match now. One that matches none
// is an error, as a misspelt one would limit nothing.
func blockDevices(globs []string) ([]string, error) {
	var out []string
	for _, glob := range globs {
		paths, err := filepath.Glob(glob)
		if err != nil {
			return nil, fmt.Errorf("device %q: %w", glob, err)
		}
		found := false
		for _, path := range paths {
			var st unix.Stat_t
			if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
				continue
			}
			found = true
			if !slices.Contains(out, path) {
				out = append(out, path)
			}
		}
		if !found {
			return nil, fmt.Errorf("device %q: no block device", glob)
		}
	}
	return out, nil
}
