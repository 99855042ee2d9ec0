package stats

import (
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// baseLabels come first in every metric. They have cAdvisor's names and meanings:
// id is the cgroup's path and name the container's ID. A pod's series have an
// empty container; those of its cgroup have an empty image and name too, so that
// sums over containers (image!="" or container!="") do not count twice.
var baseLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// metric is a kind of metric: its descriptor and type.
type metric struct {
	descriptor *runtimeapi.MetricDescriptor
	kind       runtimeapi.MetricType
}

func newMetric(kind runtimeapi.MetricType, name, help string, labels []string) metric {
	return metric{kind: kind, descriptor: &runtimeapi.MetricDescriptor{
		Name: name, Help: help, LabelKeys: slices.Concat(baseLabels, labels),
	}}
}

func counter(name, help string, labels ...string) metric {
	return newMetric(runtimeapi.MetricType_COUNTER, name, help, labels)
}

func gauge(name, help string, labels ...string) metric {
	return newMetric(runtimeapi.MetricType_GAUGE, name, help, labels)
}

// The metrics that a kubelet with CRI-O serves, under cAdvisor's names (its
// docs/storage/prometheus.md). CRI values are integers, so seconds are rounded
// down.
var (
	cpuUsage = counter("container_cpu_usage_seconds_total",
		"Cumulative CPU time consumed in seconds.", "cpu")
	cpuUser = counter("container_cpu_user_seconds_total",
		"Cumulative user CPU time consumed in seconds.")
	cpuSystem = counter("container_cpu_system_seconds_total",
		"Cumulative system CPU time consumed in seconds.")
	cpuPeriods = counter("container_cpu_cfs_periods_total",
		"Number of elapsed enforcement period intervals.")
	cpuThrottledPeriods = counter("container_cpu_cfs_throttled_periods_total",
		"Number of throttled period intervals.")
	cpuThrottledSeconds = counter("container_cpu_cfs_throttled_seconds_total",
		"Total time the container has been throttled, in seconds.")

	memoryCache = gauge("container_memory_cache",
		"Page cache memory in bytes.")
	memoryRSS = gauge("container_memory_rss",
		"Anonymous memory in bytes.")
	memoryKernel = gauge("container_memory_kernel_usage",
		"Kernel memory allocated, in bytes.")
	memoryMappedFile = gauge("container_memory_mapped_file",
		"Memory mapped files in bytes.")
	memorySwap = gauge("container_memory_swap",
		"Swap usage in bytes.")
	memoryFailcnt = counter("container_memory_failcnt",
		"Number of times memory usage hit its limit.")
	memoryUsage = gauge("container_memory_usage_bytes",
		"Memory usage in bytes, including all memory regardless of when it was accessed.")
	memoryMaxUsage = gauge("container_memory_max_usage_bytes",
		"Highest memory usage recorded, in bytes.")
	memoryWorkingSet = gauge("container_memory_working_set_bytes",
		"Working set in bytes: usage without inactive page cache.")
	memoryFailures = counter("container_memory_failures_total",
		"Cumulative count of page faults.", "failure_type", "scope")
	oomEvents = counter("container_oom_events_total",
		"Number of processes killed for want of memory.")

	fsInodesFree = gauge("container_fs_inodes_free",
		"Free inodes of the filesystem with the writable layer.", "device")
	fsInodesTotal = gauge("container_fs_inodes_total",
		"Inodes of the filesystem with the writable layer.", "device")
	fsLimit = gauge("container_fs_limit_bytes",
		"Size of the filesystem with the writable layer, in bytes.", "device")
	fsUsage = gauge("container_fs_usage_bytes",
		"Bytes that the writable layer takes.", "device")
	fsReadBytes = counter("container_fs_reads_bytes_total",
		"Cumulative bytes read from the device.", "device")
	fsReads = counter("container_fs_reads_total",
		"Cumulative reads from the device.", "device")
	fsWriteBytes = counter("container_fs_writes_bytes_total",
		"Cumulative bytes written to the device.", "device")
	fsWrites = counter("container_fs_writes_total",
		"Cumulative writes to the device.", "device")
	blkioUsage = counter("container_blkio_device_usage_total",
		"Cumulative bytes that went to and came from the device.", "device", "major", "minor", "operation")

	hugetlbUsage = gauge("container_hugetlb_usage_bytes",
		"Huge pages in use, in bytes.", "pagesize")
	hugetlbMaxUsage = gauge("container_hugetlb_max_usage_bytes",
		"Most huge pages recorded in use, in bytes.", "pagesize")

	networkRxBytes = counter("container_network_receive_bytes_total",
		"Cumulative bytes received.", "interface")
	networkRxPackets = counter("container_network_receive_packets_total",
		"Cumulative packets received.", "interface")
	networkRxDropped = counter("container_network_receive_packets_dropped_total",
		"Cumulative packets dropped while receiving.", "interface")
	networkRxErrors = counter("container_network_receive_errors_total",
		"Cumulative errors while receiving.", "interface")
	networkTxBytes = counter("container_network_transmit_bytes_total",
		"Cumulative bytes transmitted.", "interface")
	networkTxPackets = counter("container_network_transmit_packets_total",
		"Cumulative packets transmitted.", "interface")
	networkTxDropped = counter("container_network_transmit_packets_dropped_total",
		"Cumulative packets dropped while transmitting.", "interface")
	networkTxErrors = counter("container_network_transmit_errors_total",
		"Cumulative errors while transmitting.", "interface")

	fileDescriptors = gauge("container_file_descriptors",
		"Open file descriptors of all processes.")
	processCount = gauge("container_processes",
		"Number of processes.")
	socketCount = gauge("container_sockets",
		"Open sockets of all processes.")
	threadCount = gauge("container_threads",
		"Number of threads.")
	threadLimit = gauge("container_threads_max",
		"Highest number of threads allowed; 0 is no limit.")
	ulimitsSoft = gauge("container_ulimits_soft",
		"Soft limits of the first process; without a limit there is no series.", "ulimit")

	specCPUPeriod = gauge("container_spec_cpu_period",
		"CPU period of the container in microseconds.")
	specCPUQuota = gauge("container_spec_cpu_quota",
		"CPU quota of the container in microseconds.")
	specCPUShares = gauge("container_spec_cpu_shares",
		"CPU shares of the container.")
	specMemoryLimit = gauge("container_spec_memory_limit_bytes",
		"Memory limit of the container in bytes; 0 is no limit.")
	specMemoryReservation = gauge("container_spec_memory_reservation_limit_bytes",
		"Memory reservation of the container in bytes; 0 is none.")
	specMemorySwapLimit = gauge("container_spec_memory_swap_limit_bytes",
		"Swap limit of the container in bytes, with memory on cgroup v1; 0 is no limit.")
	startTime = gauge("container_start_time_seconds",
		"Start time of the container since the Unix epoch in seconds.")
	lastSeen = gauge("container_last_seen",
		"When the container was last seen, since the Unix epoch in seconds.")

	pressureCPUStalled = counter("container_pressure_cpu_stalled_seconds_total",
		"Total time in which no process made progress for want of CPU, in seconds.")
	pressureCPUWaiting = counter("container_pressure_cpu_waiting_seconds_total",
		"Total time in which processes waited for CPU, in seconds.")
	pressureMemoryStalled = counter("container_pressure_memory_stalled_seconds_total",
		"Total time in which no process made progress for want of memory, in seconds.")
	pressureMemoryWaiting = counter("container_pressure_memory_waiting_seconds_total",
		"Total time in which processes waited for memory, in seconds.")
	pressureIOStalled = counter("container_pressure_io_stalled_seconds_total",
		"Total time in which no process made progress for want of IO, in seconds.")
	pressureIOWaiting = counter("container_pressure_io_waiting_seconds_total",
		"Total time in which processes waited for IO, in seconds.")
)

// Descriptors returns the descriptors of all metrics that [Collector.PodMetrics]
// may return. The messages are shared and must not be changed.
func (*Collector) Descriptors() []*runtimeapi.MetricDescriptor {
	all := []metric{
		cpuUsage, cpuUser, cpuSystem, cpuPeriods, cpuThrottledPeriods, cpuThrottledSeconds,
		memoryCache, memoryRSS, memoryKernel, memoryMappedFile, memorySwap, memoryFailcnt, memoryUsage,
		memoryMaxUsage, memoryWorkingSet, memoryFailures, oomEvents,
		fsInodesFree, fsInodesTotal, fsLimit, fsUsage, fsReadBytes, fsReads, fsWriteBytes, fsWrites, blkioUsage,
		hugetlbUsage, hugetlbMaxUsage,
		networkRxBytes, networkRxPackets, networkRxDropped, networkRxErrors,
		networkTxBytes, networkTxPackets, networkTxDropped, networkTxErrors,
		fileDescriptors, processCount, socketCount, threadCount, threadLimit, ulimitsSoft,
		specCPUPeriod, specCPUQuota, specCPUShares, specMemoryLimit, specMemoryReservation, specMemorySwapLimit,
		startTime, lastSeen,
		pressureCPUStalled, pressureCPUWaiting, pressureMemoryStalled, pressureMemoryWaiting,
		pressureIOStalled, pressureIOWaiting,
	}
	list := make([]*runtimeapi.MetricDescriptor, len(all))
	for i, m := range all {
		list[i] = m.descriptor
	}
	return list
}
