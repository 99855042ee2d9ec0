package stats

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestStatsAgreeWithWhatAProcessDid(t *testing.T) {
	child := startChild(t, "work", 0)
	c := New(Options{Disk: NewDisk(DiskOptions{})})
	ctr := child.container()
	ctr.UpperDir, ctr.Mountpoint, ctr.StartedAt = t.TempDir(), "/", time.Now().UnixNano()
	child.set(t, "cpu.cfs_quota_us", "400000") // bandwidth counters exist only with a quota
	first, err := c.Container(t.Context(), ctr)
	if err != nil {
		t.Fatal(err)
	}
	child.work(t)
	got, err := c.Container(t.Context(), ctr)
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := c.PodMetrics(t.Context(), Pod{ID: child.id, Pid: child.cmd.Process.Pid, HostNetwork: true, CgroupParent: child.parent,
		Containers: []Container{ctr}})
	if err != nil {
		t.Fatal(err)
	}
	child.end(t)

	checkCPU(t, child, first, got)
	m := got.Memory
	if rss := m.RssBytes.Value; rss < childMemory || rss > childMemory*3/2 {
		t.Errorf("rss = %d after touching %d bytes", rss, childMemory)
	}
	if m.UsageBytes.Value < m.RssBytes.Value || m.WorkingSetBytes.Value > m.UsageBytes.Value || m.WorkingSetBytes.Value < childMemory {
		t.Errorf("usage %d, working set %d, rss %d", m.UsageBytes.Value, m.WorkingSetBytes.Value, m.RssBytes.Value)
	}
	if m.PageFaults.Value == 0 || m.Timestamp <= 0 || got.Cpu.Timestamp <= 0 {
		t.Errorf("faults %v, timestamps %d, %d", m.PageFaults, m.Timestamp, got.Cpu.Timestamp)
	}
	if l := got.WritableLayer; l.GetInodesUsed().GetValue() != 1 || l.GetTimestamp() <= 0 || l.GetFsId().GetMountpoint() != "/" {
		t.Errorf("writable layer = %v", l)
	}
	checkProcessMetrics(t, metrics)
	checkComplete(t, metrics.ContainerMetrics[0].Metrics, "container_network_", "container_pressure_", "container_hugetlb_",
		"container_fs_reads_", "container_fs_writes_", "container_blkio_")

	if s, err := c.Container(t.Context(), child.container()); err != nil || s.Cpu.UsageCoreNanoSeconds.Value < got.Cpu.UsageCoreNanoSeconds.Value {
		t.Errorf("the group outlives its last process: %v, %v", s, err)
	}
	for _, g := range child.groups {
		removeGroup(t, g)
	}
	if _, err := c.Container(t.Context(), child.container()); !errdefs.IsNotFound(err) {
		t.Errorf("removed group: %v, want NotFound", err)
	}
}

// checkCPU compares the group's CPU time with what the kernel reports for the
// process, which includes its start outside the group.
func checkCPU(t *testing.T, child *child, first, got *runtimeapi.ContainerStats) {
	t.Helper()
	const tolerance = 100 * time.Millisecond
	used := time.Duration(got.Cpu.UsageCoreNanoSeconds.Value)
	total := child.cmd.ProcessState.UserTime() + child.cmd.ProcessState.SystemTime()
	if used < childCPU-tolerance || used > total+tolerance {
		t.Errorf("CPU time = %v, want between %v and the process's %v", used, childCPU, total)
	}
	if first.Cpu.UsageNanoCores != nil {
		t.Errorf("nano cores = %v of one reading", first.Cpu.UsageNanoCores)
	}
	elapsed := time.Duration(got.Cpu.Timestamp - first.Cpu.Timestamp)
	delta := used - time.Duration(first.Cpu.UsageCoreNanoSeconds.Value)
	want := float64(delta) / elapsed.Seconds()
	if n := got.Cpu.UsageNanoCores; n == nil || float64(n.Value) < want*0.99 || float64(n.Value) > want*1.01 {
		t.Errorf("nano cores = %v, want about %.0f", n, want)
	}
}

func checkProcessMetrics(t *testing.T, metrics *runtimeapi.PodSandboxMetrics) {
	t.Helper()
	got := map[string]uint64{}
	for _, m := range metrics.ContainerMetrics[0].Metrics {
		got[m.Name] = m.Value.Value
	}
	if got["container_processes"] != 1 || got["container_sockets"] != childSockets || got["container_file_descriptors"] < 3+childSockets {
		t.Errorf("processes %d, sockets %d, files %d", got["container_processes"], got["container_sockets"], got["container_file_descriptors"])
	}
	if got["container_cpu_usage_seconds_total"] < 1 || got["container_memory_max_usage_bytes"] < childMemory || got["container_threads"] < 1 {
		t.Errorf("cpu %d s, peak %d, threads %d", got["container_cpu_usage_seconds_total"], got["container_memory_max_usage_bytes"], got["container_threads"])
	}
	if got["container_last_seen"] == 0 || got["container_ulimits_soft"] == 0 {
		t.Errorf("last seen %d, ulimit %d", got["container_last_seen"], got["container_ulimits_soft"])
	}
}

// checkComplete wants a value for every descriptor, except those with a prefix
// for what the machine may lack.
func checkComplete(t *testing.T, metrics []*runtimeapi.Metric, but ...string) {
	t.Helper()
	got := map[string]*runtimeapi.Metric{}
	for _, m := range metrics {
		got[m.Name] = m
	}
	for _, d := range New(Options{}).Descriptors() {
		if slices.ContainsFunc(but, func(prefix string) bool { return strings.HasPrefix(d.Name, prefix) }) {
			continue
		}
		if m := got[d.Name]; m == nil || len(m.LabelValues) != len(d.LabelKeys) {
			t.Errorf("%s = %v, want a value and labels %v", d.Name, m, d.LabelKeys)
		}
	}
}

func TestNetworkOfAnotherNamespace(t *testing.T) {
	child := startChild(t, "network", syscall.CLONE_NEWNET)
	child.work(t)
	c := New(Options{})
	pod := Pod{ID: child.id, Pid: child.cmd.Process.Pid, CgroupParent: child.parent, Attributes: &runtimeapi.PodSandboxAttributes{Id: child.id}}
	s, err := c.Pod(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	n := s.Linux.Network
	if d := n.GetDefaultInterface(); d.GetName() != "eth0" || d.GetRxBytes().GetValue() != childFrames*childFrame || d.GetRxErrors().GetValue() != 0 {
		t.Errorf("default interface = %v, want eth0 with %d bytes received", d, childFrames*childFrame)
	}
	sent := map[string]uint64{}
	for _, i := range n.Interfaces {
		sent[i.Name] = i.TxBytes.GetValue()
	}
	if _, ok := sent["eth0"]; len(n.Interfaces) != 2 || !ok || sent["net1"] != childFrames*childFrame {
		t.Errorf("interfaces = %v, want eth0, and net1 with %d bytes sent", n.Interfaces, childFrames*childFrame)
	}
	if p := s.Linux.Process.GetProcessCount().GetValue(); p < 1 {
		t.Errorf("processes = %d", p)
	}
	metrics, err := c.PodMetrics(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range metrics.Metrics {
		if m.Name == "container_network_receive_packets_total" && m.LabelValues[len(m.LabelValues)-1] == "eth0" && m.Value.Value != childFrames {
			t.Errorf("%v, want %d packets", m, childFrames)
		}
	}
	child.end(t)
	if _, err := c.Pod(t.Context(), pod); !errdefs.IsNotFound(err) {
		t.Errorf("after the sandbox's process exited: %v, want NotFound", err)
	}
}
