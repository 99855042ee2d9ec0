package translate

import (
	"cmp"

	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CRIContainerStats converts a reading of Docker's stats. Fields that Docker has no
// data for are nil: the rate of CPU usage, the writable layer, and the available
// memory (Docker reports the machine's memory for a missing limit).
func CRIContainerStats(attributes *runtimeapi.ContainerAttributes, r container.StatsResponse) *runtimeapi.ContainerStats {
	at := r.Read.UnixNano()
	s := &runtimeapi.ContainerStats{
		Attributes: attributes,
		Cpu:        &runtimeapi.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: uint64Value(r.CPUStats.CPUUsage.TotalUsage)},
	}
	m := r.MemoryStats
	if m.Usage == 0 {
		return s // the memory controller is off
	}
	// The names in memory.stat of cgroup v1 and of v2.
	inactive := cmp.Or(m.Stats["total_inactive_file"], m.Stats["inactive_file"])
	s.Memory = &runtimeapi.MemoryUsage{
		Timestamp:       at,
		UsageBytes:      uint64Value(m.Usage),
		WorkingSetBytes: uint64Value(m.Usage - min(m.Usage, inactive)),
		RssBytes:        uint64Value(cmp.Or(m.Stats["total_rss"], m.Stats["anon"])),
		PageFaults:      uint64Value(cmp.Or(m.Stats["total_pgfault"], m.Stats["pgfault"])),
		MajorPageFaults: uint64Value(cmp.Or(m.Stats["total_pgmajfault"], m.Stats["pgmajfault"])),
	}
	return s
}

func uint64Value(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }
