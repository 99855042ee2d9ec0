package translate

import (
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/seam"
)

// Seam is what Docker's API cannot be told of a container. The caller leaves it to
// cridock-runtime.
type Seam struct {
	// RealRuntime is the name of the Docker runtime that the container would have
	// without cridock-runtime.
	RealRuntime string
	// Record has all but the container's ID and the runtime.
	Record seam.Record
}

// useSeam has cridock-runtime run a container, and returns the record to complete. The
// caller has checked [Host.seamUnmet].
func (c *Create) useSeam(handler string, host Host) *seam.Record {
	if c.Seam == nil {
		c.Seam = &Seam{RealRuntime: runtimeName(handler, host)}
		c.HostConfig.Runtime = host.SeamRuntime
	}
	return &c.Seam.Record
}

// seamUnmet says what containers of a CRI handler lack for cridock-runtime to change
// them; "" if nothing.
func (h Host) seamUnmet(handler string) string {
	switch {
	case h.SeamRuntime == "":
		return fmt.Sprintf("the OCI runtime %q, which this engine does not have: run \"cridock runtime install\"", seam.RuntimeName)
	case !runtimeFeatures(handler, h).Seam:
		return fmt.Sprintf("a runtime that the engine knows by its path; runtime %q has none", runtimeName(handler, h))
	}
	return ""
}

// limitBeforeStart has cridock-runtime set limits that Docker has no field for. A
// container that does not need them before its first instruction gets them after its
// start, see [CgroupFiles].
func (c *Create) limitBeforeStart(r *runtimeapi.LinuxContainerResources, handler string, host Host) {
	limits := SeamResources(r)
	if limits.Memory == nil {
		return
	}
	c.useSeam(handler, host).Resources = limits
}

// SeamResources returns the limits that cridock-runtime sets; it is not nil. r was
// validated and may be nil.
func SeamResources(r *runtimeapi.LinuxContainerResources) *seam.Resources {
	return &seam.Resources{Memory: smallMemory(r)}
}

// AmbiguousMemory reports whether the memory limit is one for which Docker has its
// minimum: that, or any below it, which cridock-runtime sets.
func AmbiguousMemory(r *runtimeapi.LinuxContainerResources) bool {
	return r.GetMemoryLimitInBytes() > 0 && r.GetMemoryLimitInBytes() <= minMemory
}

// smallMemory returns the exact limits of memory and swap if they are below Docker's
// minimum; nil if Docker can set them.
func smallMemory(r *runtimeapi.LinuxContainerResources) *seam.Memory {
	limit := r.GetMemoryLimitInBytes()
	if limit <= 0 || limit >= minMemory {
		return nil
	}
	swap, err := memorySwap("linux.resources", r, limit)
	if err != nil {
		return nil // the request was refused
	}
	return &seam.Memory{Limit: limit, Swap: swap}
}
