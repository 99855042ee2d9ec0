package stats

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// PodMetrics reads the metrics of a pod and its containers. The error is
// errdefs.ErrNotFound if the sandbox's container is gone. Containers that are
// gone, or have no cgroup of their own, are left out.
func (c *Collector) PodMetrics(ctx context.Context, pod Pod) (*runtimeapi.PodSandboxMetrics, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	_, sandbox, err := c.target(pod.ID, pod.Pid, "")
	if err != nil {
		return nil, err
	}
	network, err := c.network(pod)
	if err != nil {
		return nil, err
	}
	m := &runtimeapi.PodSandboxMetrics{PodSandboxId: pod.ID}
	r := newRecorder(pod, "", pod.Image, pod.ID, sandbox.path())
	for i := range network {
		r.network(&network[i])
	}
	m.Metrics = r.list
	if g := podGroup(sandbox, pod.CgroupParent); g != nil {
		r := newRecorder(pod, "", "", "", g.path())
		if _, err := r.group(g); err != nil {
			return nil, gone(pod.ID, err)
		}
		m.Metrics = append(m.Metrics, r.list...)
	}
	for _, ctr := range pod.Containers {
		metrics, err := c.containerMetrics(pod, ctr)
		switch {
		case err == nil:
			m.ContainerMetrics = append(m.ContainerMetrics,
				&runtimeapi.ContainerMetrics{ContainerId: ctr.ID, Metrics: metrics})
		case !errdefs.IsNotFound(err):
			klog.FromContext(ctx).Error(err, "Cannot read metrics", "containerID", ctr.ID)
		}
	}
	return m, ctx.Err()
}

// PodsMetrics reads the metrics of pods, in order. Pods that are gone are left
// out; those that fail otherwise are logged and left out.
func (c *Collector) PodsMetrics(ctx context.Context, list []Pod) ([]*runtimeapi.PodSandboxMetrics, error) {
	return each(ctx, c.opts.Workers, list, tolerant(c.PodMetrics))
}

func (c *Collector) containerMetrics(pod Pod, ctr Container) ([]*runtimeapi.Metric, error) {
	t, g, err := c.target(ctr.ID, ctr.Pid, ctr.UpperDir)
	if err != nil {
		return nil, err
	}
	r := newRecorder(pod, ctr.Attributes.GetMetadata().GetName(), ctr.Image, ctr.ID, g.path())
	if err := r.container(c, t, g); err != nil {
		return nil, gone(ctr.ID, err)
	}
	if ctr.StartedAt > 0 {
		r.add(startTime, uint64(ctr.StartedAt/int64(time.Second)))
	}
	r.add(lastSeen, uint64(c.now().Unix()))
	return r.list, nil
}

// recorder collects the metrics of one container, or of a pod.
type recorder struct {
	base []string
	list []*runtimeapi.Metric
	at   int64 // timestamp of added values; 0: now
}

// newRecorder takes the values of [baseLabels], though in another order.
func newRecorder(pod Pod, container, image, name, id string) *recorder {
	meta := pod.Attributes.GetMetadata()
	return &recorder{
		base: []string{container, id, image, name, meta.GetNamespace(), meta.GetName()},
		list: make([]*runtimeapi.Metric, 0, 64),
	}
}

// add appends a value, with the labels that the metric has beyond the base ones.
func (r *recorder) add(m metric, v uint64, labels ...string) {
	values := r.base // shared by all metrics that have no others
	if len(labels) > 0 {
		values = slices.Concat(r.base, labels)
	}
	r.list = append(r.list, &runtimeapi.Metric{
		Name: m.descriptor.Name, MetricType: m.kind, Timestamp: r.at, LabelValues: values, Value: value(v),
	})
}

// container adds all metrics of a container.
func (r *recorder) container(c *Collector, t *target, g cgroup) error {
	mem, err := r.group(g)
	if err != nil {
		return err
	}
	if err := r.details(t, g, mem); err != nil {
		return err
	}
	if err := r.blocks(c, g); err != nil {
		return err
	}
	if err := r.hugePages(c, g); err != nil {
		return err
	}
	r.disk(c, t)
	if f := c.openFiles(t); f != nil {
		r.at = f.at.UnixNano()
		r.add(processCount, f.processes)
		r.add(fileDescriptors, f.open)
		r.add(socketCount, f.sockets)
		if f.limit != none {
			r.add(ulimitsSoft, f.limit, "max_open_files")
		}
		r.at = 0
	}
	return nil
}

// group adds the metrics that pods have too: CPU, memory, threads, pressure.
func (r *recorder) group(g cgroup) (mem memory, err error) {
	cpu, err := g.cpu()
	if err != nil {
		return mem, err
	}
	r.cpu(&cpu)
	if mem, err = g.memory(); err != nil {
		return mem, err
	}
	if !mem.present && !g.exists() {
		return mem, errdefs.ErrNotFound
	}
	if mem.present {
		r.memory(&mem)
	}
	tasks, err := g.tasks()
	if err != nil {
		return mem, err
	}
	if tasks.present {
		r.add(threadCount, tasks.current)
		r.add(threadLimit, orZero(tasks.limit))
	}
	return mem, r.pressure(g)
}

func (r *recorder) pressure(g cgroup) error {
	for _, p := range []struct {
		resource         string
		stalled, waiting metric
	}{
		{"cpu", pressureCPUStalled, pressureCPUWaiting},
		{"memory", pressureMemoryStalled, pressureMemoryWaiting},
		{"io", pressureIOStalled, pressureIOWaiting},
	} {
		psi, err := g.pressure(p.resource)
		if err != nil {
			return err
		}
		if psi != nil {
			r.add(p.stalled, seconds(psi.Full.Total))
			r.add(p.waiting, seconds(psi.Some.Total))
		}
	}
	return nil
}

func seconds(nanos uint64) uint64 { return nanos / uint64(time.Second) }

// orZero returns the limit, or 0, by which metrics mean no limit.
func orZero(limit uint64) uint64 {
	if limit == none {
		return 0
	}
	return limit
}

func (r *recorder) cpu(c *cpu) {
	r.add(cpuUsage, seconds(c.usage), "total")
	if c.userSystemKnown {
		r.add(cpuUser, seconds(c.user))
		r.add(cpuSystem, seconds(c.system))
	}
	if c.period > 0 {
		r.add(specCPUPeriod, c.period)
	}
	if c.shares > 0 {
		r.add(specCPUShares, c.shares)
	}
	if c.quota == none {
		return // as in cAdvisor: without a quota nothing is throttled
	}
	r.add(specCPUQuota, c.quota)
	if c.hasPeriods {
		r.add(cpuPeriods, c.periods)
		r.add(cpuThrottledPeriods, c.throttled)
		r.add(cpuThrottledSeconds, seconds(c.throttledNanos))
	}
}

func (r *recorder) memory(m *memory) {
	r.add(memoryUsage, m.usage)
	r.add(memoryWorkingSet, m.workingSet())
	r.add(memoryRSS, m.rss)
	r.add(memoryCache, m.cache)
	r.add(memoryMappedFile, m.mapped)
	r.add(memorySwap, m.swapUsage)
	r.add(memoryFailures, m.ownFaults, "pgfault", "container")
	r.add(memoryFailures, m.faults, "pgfault", "hierarchy")
	r.add(memoryFailures, m.ownMajor, "pgmajfault", "container")
	r.add(memoryFailures, m.majorFaults, "pgmajfault", "hierarchy")
	r.add(specMemoryLimit, orZero(m.limit))
	if m.memoryAndSwapCombined != none {
		r.add(specMemorySwapLimit, m.memoryAndSwapCombined)
	} else {
		r.add(specMemorySwapLimit, orZero(m.swapLimit))
	}
}

// details adds the remaining metrics of the memory controller.
func (r *recorder) details(t *target, g cgroup, mem memory) error {
	events, err := g.memoryEvents()
	if err != nil || !events.present {
		return err
	}
	r.add(memoryFailcnt, events.limitHits)
	r.add(oomEvents, events.oomKills)
	limits, err := g.limits()
	if err != nil {
		return err
	}
	r.add(specMemoryReservation, orZero(limits.memoryReservation))
	r.add(memoryKernel, mem.kernel+events.kernel)
	peak := events.peak
	if peak == 0 {
		peak = t.highest(mem.usage)
	}
	r.add(memoryMaxUsage, peak)
	return nil
}

// highest returns the highest memory usage seen, for kernels that do not record
// it.
func (t *target) highest(usage uint64) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.peak = max(t.peak, usage)
	return t.peak
}

// blocks adds the I/O counters of block devices.
func (r *recorder) blocks(c *Collector, g cgroup) error {
	devices, err := g.io()
	if err != nil {
		return err
	}
	for _, d := range devices {
		name := c.blocks.name(d.major, d.minor)
		major, minor := strconv.FormatUint(d.major, 10), strconv.FormatUint(d.minor, 10)
		r.add(fsReadBytes, d.readBytes, name)
		r.add(fsReads, d.readCount, name)
		r.add(fsWriteBytes, d.writeBytes, name)
		r.add(fsWrites, d.writeCount, name)
		r.add(blkioUsage, d.readBytes, name, major, minor, "Read")
		r.add(blkioUsage, d.writeBytes, name, major, minor, "Write")
	}
	return nil
}

func (r *recorder) hugePages(c *Collector, g cgroup) error {
	for _, size := range c.hugePageSizes {
		h, err := g.hugePages(size)
		if err != nil {
			return err
		}
		if h.present {
			r.add(hugetlbUsage, h.usage, size)
		}
		if h.peakPresent {
			r.add(hugetlbMaxUsage, h.peak, size)
		}
	}
	return nil
}

// disk adds the writable layer and its filesystem.
func (r *recorder) disk(c *Collector, t *target) {
	usage, known := c.layer(t)
	t.mu.Lock()
	upper := t.upper
	t.mu.Unlock()
	var st unix.Stat_t
	var fs unix.Statfs_t
	if upper == "" || unix.Stat(upper, &st) != nil || unix.Statfs(upper, &fs) != nil {
		return
	}
	device := c.blocks.name(uint64(unix.Major(st.Dev)), uint64(unix.Minor(st.Dev)))
	r.add(fsInodesFree, fs.Ffree, device)
	r.add(fsInodesTotal, fs.Files, device)
	r.add(fsLimit, fs.Blocks*uint64(fs.Bsize), device)
	if known {
		r.at = usage.At.UnixNano()
		r.add(fsUsage, usage.Bytes, device)
		r.at = 0
	}
}

// network adds the counters of one interface.
func (r *recorder) network(i *netInterface) {
	for _, m := range []struct {
		metric
		value uint64
	}{
		{networkRxBytes, i.rxBytes}, {networkRxPackets, i.rxPackets},
		{networkRxDropped, i.rxDropped}, {networkRxErrors, i.rxErrors},
		{networkTxBytes, i.txBytes}, {networkTxPackets, i.txPackets},
		{networkTxDropped, i.txDropped}, {networkTxErrors, i.txErrors},
	} {
		r.add(m.metric, m.value, i.name)
	}
}
