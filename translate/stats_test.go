package translate

import (
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestContainerStats(t *testing.T) {
	attributes := &runtimeapi.ContainerAttributes{Id: containerID}
	at := time.Unix(1, 2)
	reading := func(memory container.MemoryStats) container.StatsResponse {
		return container.StatsResponse{Read: at, CPUStats: container.CPUStats{CPUUsage: container.CPUUsage{TotalUsage: 7}}, MemoryStats: memory}
	}
	want := &runtimeapi.ContainerStats{
		Attributes: attributes,
		Cpu:        &runtimeapi.CpuUsage{Timestamp: at.UnixNano(), UsageCoreNanoSeconds: uint64Value(7)},
	}
	if diff := cmp.Diff(want, CRIContainerStats(attributes, reading(container.MemoryStats{})), protocmp.Transform()); diff != "" {
		t.Errorf("without memory controller (-want +got):\n%s", diff)
	}
	want.Memory = &runtimeapi.MemoryUsage{
		Timestamp: at.UnixNano(), UsageBytes: uint64Value(100), WorkingSetBytes: uint64Value(90), RssBytes: uint64Value(20), PageFaults: uint64Value(5), MajorPageFaults: uint64Value(1),
	}
	for version, stat := range map[string]map[string]uint64{
		"v1": {"total_inactive_file": 10, "total_rss": 20, "total_pgfault": 5, "total_pgmajfault": 1, "inactive_file": 3, "pgfault": 3},
		"v2": {"inactive_file": 10, "anon": 20, "pgfault": 5, "pgmajfault": 1},
	} {
		if diff := cmp.Diff(want, CRIContainerStats(attributes, reading(container.MemoryStats{Usage: 100, Limit: 1 << 40, Stats: stat})), protocmp.Transform()); diff != "" {
			t.Errorf("cgroup %s (-want +got):\n%s", version, diff)
		}
	}
	more := CRIContainerStats(attributes, reading(container.MemoryStats{Usage: 5, Stats: map[string]uint64{"inactive_file": 10}}))
	if more.Memory.WorkingSetBytes.Value != 0 {
		t.Errorf("working set of a reading that is not atomic is %d", more.Memory.WorkingSetBytes.Value)
	}
}
