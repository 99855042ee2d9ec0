package translate

import (
	"fmt"

	"github.com/docker/docker/api/types/blkiodev"
	"github.com/docker/docker/api/types/container"
)

const (
	// blockIOAnnotation on a container, or with the suffixes below on its pod, names a
	// class, as in containerd and CRI-O.
	blockIOAnnotation     = "io.kubernetes.cri.blockio-class"
	blockIOPodAnnotations = "blockio.resources.beta.kubernetes.io/"
	classPodSuffix        = "pod"
	classContainerSuffix  = "container."

	minWeight, maxWeight = 10, 1000
)

// BlockIOClass limits the block I/O of a container.
type BlockIOClass struct {
	// Weight is 0 for the kernel's default.
	Weight uint16
	// Weights are those for single devices.
	Weights []BlockIOLimit
	// In bytes and operations per second.
	ReadBps, WriteBps, ReadIOps, WriteIOps []BlockIOLimit
}

// BlockIOLimit is a value for the block device at a path.
type BlockIOLimit struct {
	Device string
	Value  uint64
}

// Validate reports the first value that Docker refuses.
func (c *BlockIOClass) Validate() error {
	var weights []uint64
	if c.Weight != 0 {
		weights = append(weights, uint64(c.Weight))
	}
	for _, d := range c.Weights {
		weights = append(weights, d.Value)
	}
	for _, w := range weights {
		if w < minWeight || w > maxWeight {
			return fmt.Errorf("weight %d is not from %d to %d", w, minWeight, maxWeight)
		}
	}
	return nil
}

// blockIOClass returns the name of the class that a container is to have, and the
// annotation that says so; "" for none.
func blockIOClass(req ContainerRequest) (field, class string) {
	if a := req.Adjustment; a != nil && a.BlockIOClass != nil {
		return "blockio_class", *a.BlockIOClass
	}
	return req.annotatedClass(blockIOAnnotation, blockIOPodAnnotations)
}

// annotatedClass returns the class that an annotation of the container or, with the
// prefix, of its pod names; "" for none. field names the annotation in errors.
func (req *ContainerRequest) annotatedClass(annotation, podPrefix string) (field, class string) {
	own, pod := req.Config.GetAnnotations(), req.Sandbox.Annotations
	for _, a := range []struct {
		key  string
		from map[string]string
	}{
		{annotation, own},
		{podPrefix + classContainerSuffix + req.Config.GetMetadata().GetName(), pod},
		{podPrefix + classPodSuffix, pod},
	} {
		if class, ok := a.from[a.key]; ok {
			return fmt.Sprintf("annotations[%q]", a.key), class
		}
	}
	return "", ""
}

// limitBlockIO sets the limits of the class that the annotations name.
func limitBlockIO(r *container.Resources, req ContainerRequest, host Host) error {
	field, name := blockIOClass(req)
	if name == "" {
		return nil
	}
	if host.BlockIOClasses == nil {
		return unmet(field, "class %q: no block I/O classes are configured: set blockio-config-file", name)
	}
	class, ok := host.BlockIOClasses[name]
	if !ok {
		return invalid(field, "unknown class %q; the file of blockio-config-file has %q", name, sortedKeys(host.BlockIOClasses))
	}
	r.BlkioWeight = class.Weight
	for _, w := range class.Weights {
		r.BlkioWeightDevice = append(r.BlkioWeightDevice, &blkiodev.WeightDevice{Path: w.Device, Weight: uint16(w.Value)}) //nolint:gosec // was validated
	}
	r.BlkioDeviceReadBps, r.BlkioDeviceWriteBps = throttles(class.ReadBps), throttles(class.WriteBps)
	r.BlkioDeviceReadIOps, r.BlkioDeviceWriteIOps = throttles(class.ReadIOps), throttles(class.WriteIOps)
	return nil
}

func throttles(limits []BlockIOLimit) []*blkiodev.ThrottleDevice {
	var out []*blkiodev.ThrottleDevice
	for _, l := range limits {
		out = append(out, &blkiodev.ThrottleDevice{Path: l.Device, Rate: l.Value})
	}
	return out
}
