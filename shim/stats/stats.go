package stats

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// Container reads the stats of a running container. The error is
// errdefs.ErrNotFound if it is gone, and errdefs.ErrFailedPrecondition if it has
// no cgroup of its own and there is no fallback.
func (c *Collector) Container(ctx context.Context, ctr Container) (*runtimeapi.ContainerStats, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t, group, err := c.target(ctr.ID, ctr.Pid, ctr.UpperDir)
	if errdefs.IsFailedPrecondition(err) && c.opts.Fallback != nil {
		return c.opts.Fallback(ctx, ctr)
	}
	if err != nil {
		return nil, err
	}
	u, err := c.read(group)
	if err != nil {
		return nil, gone(ctr.ID, err)
	}
	s := &runtimeapi.ContainerStats{
		Attributes: ctr.Attributes,
		Cpu:        c.criCPU(t, &t.cpu, u),
		Memory:     criMemory(u),
		Swap:       criSwap(u),
		Io:         criIO(u),
	}
	if du, ok := c.layer(t); ok {
		s.WritableLayer = CRIFilesystemUsage(du, ctr.Mountpoint)
	}
	return s, nil
}

// Containers reads the stats of containers, in order. Containers that are gone are
// left out; those that fail otherwise are logged and left out.
func (c *Collector) Containers(ctx context.Context, list []Container) ([]*runtimeapi.ContainerStats, error) {
	return each(ctx, c.opts.Workers, list, tolerant(c.Container))
}

// tolerant makes read skip items that cannot be read, so that one odd container
// does not hide all others. The end of ctx stays an error.
func tolerant[T interface{ Container | Pod }, R any](read func(context.Context, T) (*R, error)) func(context.Context, T) (*R, error) {
	return func(ctx context.Context, item T) (*R, error) {
		r, err := read(ctx, item)
		if err == nil || errdefs.IsNotFound(err) || ctx.Err() != nil {
			return r, err
		}
		klog.FromContext(ctx).Error(err, "Cannot read stats")
		return nil, nil
	}
}

// Pod reads the stats of a pod and its containers. The error is
// errdefs.ErrNotFound if the sandbox's container is gone.
func (c *Collector) Pod(ctx context.Context, pod Pod) (*runtimeapi.PodSandboxStats, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t, group, err := c.target(pod.ID, pod.Pid, "")
	if err != nil {
		return nil, err
	}
	u, processes, err := c.readPod(pod, group)
	if err != nil {
		return nil, gone(pod.ID, err)
	}
	network, err := c.network(pod)
	if err != nil {
		return nil, err
	}
	linux := &runtimeapi.LinuxPodSandboxStats{
		Cpu:     c.criCPU(t, &t.podCPU, u),
		Memory:  criMemory(u),
		Io:      criIO(u),
		Network: criNetwork(network, c.now()),
	}
	if processes != none {
		linux.Process = &runtimeapi.ProcessUsage{Timestamp: u.at.UnixNano(), ProcessCount: value(processes)}
	}
	// Lists of pods already use the workers, so these are read one by one.
	linux.Containers, err = each(ctx, 1, pod.Containers, tolerant(c.Container))
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxStats{Attributes: pod.Attributes, Linux: linux}, nil
}

// Pods reads the stats of pods, in order. Pods that are gone are left out; those
// that fail otherwise are logged and left out.
func (c *Collector) Pods(ctx context.Context, list []Pod) ([]*runtimeapi.PodSandboxStats, error) {
	return each(ctx, c.opts.Workers, list, tolerant(c.Pod))
}

// usage is one reading of a group, or the sum of several.
type usage struct {
	at                    time.Time
	cpuNanos              uint64
	memory                memory
	cpuPSI, memPSI, ioPSI *runtimeapi.PsiStats
}

// read takes one reading of a group.
func (c *Collector) read(g cgroup) (u usage, err error) {
	u.at = c.now()
	if u.cpuNanos, err = g.cpuNanos(); err != nil {
		return u, err
	}
	if u.memory, err = g.memory(); err != nil {
		return u, err
	}
	if u.cpuPSI, err = g.pressure("cpu"); err != nil {
		return u, err
	}
	if u.memPSI, err = g.pressure("memory"); err != nil {
		return u, err
	}
	if u.ioPSI, err = g.pressure("io"); err != nil {
		return u, err
	}
	if !u.memory.present && !g.exists() {
		// Removed between two files, which otherwise looks as if the memory
		// controller were off.
		return u, errdefs.ErrNotFound
	}
	return u, nil
}

// readPod reads the pod's group and the number of its processes ([none]:
// unknown). Without a group for the pod, it sums up the members.
func (c *Collector) readPod(pod Pod, sandbox cgroup) (u usage, processes uint64, err error) {
	if g := podGroup(sandbox, pod.CgroupParent); g != nil {
		if u, err = c.read(g); err != nil {
			return u, 0, err
		}
		n, err := countProcesses(g)
		return u, n, err
	}
	if u, err = c.read(sandbox); err != nil {
		return u, 0, err
	}
	if processes, err = countProcesses(sandbox); err != nil {
		return u, 0, err
	}
	// Neither limits nor pressure can be added up.
	u.cpuPSI, u.memPSI, u.ioPSI = nil, nil, nil
	u.memory.limit = none
	for _, ctr := range pod.Containers {
		_, g, err := c.target(ctr.ID, ctr.Pid, ctr.UpperDir)
		if err != nil {
			continue // its own stats report the error
		}
		member, err := c.read(g)
		if err != nil {
			continue
		}
		u.add(member)
		if n, err := countProcesses(g); err == nil && n != none && processes != none {
			processes += n
		}
	}
	return u, processes, nil
}

// add sums up what pod stats report.
func (u *usage) add(v usage) {
	u.cpuNanos += v.cpuNanos
	u.memory.usage += v.memory.usage
	u.memory.inactiveFile += v.memory.inactiveFile
	u.memory.rss += v.memory.rss
	u.memory.faults += v.memory.faults
	u.memory.majorFaults += v.memory.majorFaults
}

// podGroup returns the parent of the sandbox's group if it belongs to the pod;
// nil if containers of other pods are in it too, as in Docker's default parent.
func podGroup(sandbox cgroup, cgroupParent string) cgroup {
	if cgroupParent == "" {
		return nil
	}
	parent := sandbox.parent()
	if name := path.Base(parent.path()); name == "/" || name != path.Base(cgroupParent) {
		return nil
	}
	return parent
}

// countProcesses counts as containerd does: tasks, if the kernel counts them,
// which is cheap and includes child groups; else processes. It returns [none] if
// unknown.
func countProcesses(g cgroup) (uint64, error) {
	t, err := g.tasks()
	if err != nil || t.present {
		return t.current, err
	}
	pids, err := g.processes()
	if err != nil {
		return none, unlessAbsent(err)
	}
	return uint64(len(pids)), nil
}

// network reads the interfaces of a pod; nil for the host's network. It checks
// the process again, which may have exited since the cgroup was found.
func (c *Collector) network(pod Pod) (list []netInterface, err error) {
	if pod.HostNetwork {
		return nil, nil
	}
	p, err := openProcess(c.opts.ProcRoot, pod.Pid)
	if err != nil {
		return nil, gone(pod.ID, err)
	}
	defer p.close()
	err = p.with("cgroup", func(content []byte) error {
		if !bytes.Contains(content, []byte(pod.ID)) {
			return fmt.Errorf("%w: process %d is another one now", errdefs.ErrNotFound, pod.Pid)
		}
		return nil
	})
	if err == nil {
		list, err = p.interfaces()
	}
	return list, gone(pod.ID, err)
}

// rate computes nano cores from counter readings.
type rate struct {
	at        time.Time
	usage     uint64
	nanoCores *runtimeapi.UInt64Value
}

// window is the shortest time over which a rate is computed. Earlier readings get
// the last rate.
const window = time.Second

// update adds a reading and returns the rate; nil until two readings are a window
// apart.
func (r *rate) update(at time.Time, usage uint64) *runtimeapi.UInt64Value {
	switch elapsed := at.Sub(r.at); {
	case r.at.IsZero() || usage < r.usage:
		// The first reading, or the counter was reset.
		*r = rate{at: at, usage: usage}
	case elapsed >= window:
		cores := float64(usage-r.usage) / elapsed.Seconds()
		*r = rate{at: at, usage: usage, nanoCores: value(uint64(cores))}
	}
	return r.nanoCores
}

func value(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }

func (c *Collector) criCPU(t *target, r *rate, u usage) *runtimeapi.CpuUsage {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &runtimeapi.CpuUsage{
		Timestamp:            u.at.UnixNano(),
		UsageCoreNanoSeconds: value(u.cpuNanos),
		UsageNanoCores:       r.update(u.at, u.cpuNanos),
		Psi:                  u.cpuPSI,
	}
}

// criMemory returns nil where the memory controller is off.
func criMemory(u usage) *runtimeapi.MemoryUsage {
	m := &u.memory
	if !m.present {
		return nil
	}
	s := &runtimeapi.MemoryUsage{
		Timestamp:       u.at.UnixNano(),
		WorkingSetBytes: value(m.workingSet()),
		UsageBytes:      value(m.usage),
		RssBytes:        value(m.rss),
		PageFaults:      value(m.faults),
		MajorPageFaults: value(m.majorFaults),
		Psi:             u.memPSI,
	}
	if m.limit != none {
		s.AvailableBytes = value(floored(m.limit, m.workingSet()))
	}
	return s
}

// criSwap returns nil where the kernel does not account swap.
func criSwap(u usage) *runtimeapi.SwapUsage {
	m := &u.memory
	if !m.swapPresent {
		return nil
	}
	s := &runtimeapi.SwapUsage{Timestamp: u.at.UnixNano(), SwapUsageBytes: value(m.swapUsage)}
	if m.swapLimit != none {
		s.SwapAvailableBytes = value(floored(m.swapLimit, m.swapUsage))
	}
	return s
}

// criIO returns nil without pressure information, the only thing in it.
func criIO(u usage) *runtimeapi.IoUsage {
	if u.ioPSI == nil {
		return nil
	}
	return &runtimeapi.IoUsage{Timestamp: u.at.UnixNano(), Psi: u.ioPSI}
}

// defaultInterface is what CNI runtimes call the pod's first interface.
const defaultInterface = "eth0"

// criNetwork takes eth0 as the default interface, or else the first one. The list of
// interfaces has that one, too, as with containerd and cAdvisor, although the CRI's text
// leaves it out. It returns nil without interfaces.
func criNetwork(list []netInterface, at time.Time) *runtimeapi.NetworkUsage {
	if len(list) == 0 {
		return nil
	}
	first := 0
	for i := range list {
		if list[i].name == defaultInterface {
			first = i
		}
	}
	s := &runtimeapi.NetworkUsage{Timestamp: at.UnixNano()}
	for i := range list {
		n := &runtimeapi.NetworkInterfaceUsage{
			Name:     list[i].name,
			RxBytes:  value(list[i].rxBytes),
			RxErrors: value(list[i].rxErrors),
			TxBytes:  value(list[i].txBytes),
			TxErrors: value(list[i].txErrors),
		}
		s.Interfaces = append(s.Interfaces, n)
		if i == first {
			s.DefaultInterface = n
		}
	}
	return s
}

// layer returns the usage of a target's writable layer, and whether it is known.
func (c *Collector) layer(t *target) (DiskUsage, bool) {
	t.mu.Lock()
	upper := t.upper
	t.mu.Unlock()
	if c.opts.Disk == nil || upper == "" {
		return DiskUsage{}, false
	}
	return c.opts.Disk.Usage(upper)
}

// CRIFilesystemUsage converts u to CRI's type; mountpoint is a directory on the
// tree's filesystem.
func CRIFilesystemUsage(u DiskUsage, mountpoint string) *runtimeapi.FilesystemUsage {
	return &runtimeapi.FilesystemUsage{
		Timestamp:  u.At.UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: mountpoint},
		UsedBytes:  value(u.Bytes),
		InodesUsed: value(u.Inodes),
	}
}
