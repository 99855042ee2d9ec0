package stats

import (
	"bytes"
	"fmt"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// v1Group is a control group of version 1: one directory per controller, ""
// for a controller that is not mounted.
type v1Group struct {
	name                                                         string
	cpuDir, cpuacctDir, memoryDir, blkioDir, pidsDir, hugetlbDir string
}

// newV1Group takes the directories by controller, and the group's path under "".
func newV1Group(dirs map[string]string) *v1Group {
	return &v1Group{
		name:   dirs[""],
		cpuDir: dirs["cpu"], cpuacctDir: dirs["cpuacct"], memoryDir: dirs["memory"],
		blkioDir: dirs["blkio"], pidsDir: dirs["pids"], hugetlbDir: dirs["hugetlb"],
	}
}

func (g *v1Group) path() string { return g.name }
func (g *v1Group) exists() bool { return isDirectory(g.memoryDir) }

func (g *v1Group) parent() cgroup {
	up := func(dir string) string {
		if dir == "" {
			return ""
		}
		return filepath.Dir(dir)
	}
	return &v1Group{
		name:   path.Dir(g.name),
		cpuDir: up(g.cpuDir), cpuacctDir: up(g.cpuacctDir), memoryDir: up(g.memoryDir),
		blkioDir: up(g.blkioDir), pidsDir: up(g.pidsDir), hugetlbDir: up(g.hugetlbDir),
	}
}

func (g *v1Group) cpuNanos() (uint64, error) { return readUint(g.cpuacctDir + "/cpuacct.usage") }

func (g *v1Group) cpu() (c cpu, err error) {
	if c.usage, err = g.cpuNanos(); err != nil {
		return c, err
	}
	c.quota = none
	// Both files are in nanoseconds and exist since Linux 4.7.
	user, err := readUint(g.cpuacctDir + "/cpuacct.usage_user")
	if err == nil {
		c.user = user
		c.system, err = readUint(g.cpuacctDir + "/cpuacct.usage_sys")
		c.userSystemKnown = err == nil
	}
	if g.cpuDir == "" {
		return c, nil
	}
	err = readKeys(g.cpuDir+"/cpu.stat", func(key []byte, v uint64) {
		switch string(key) {
		case "nr_periods":
			c.periods, c.hasPeriods = v, true
		case "nr_throttled":
			c.throttled = v
		case "throttled_time":
			c.throttledNanos = v
		}
	})
	if err != nil {
		return c, unlessAbsent(err)
	}
	// Without a quota the file has -1, which is not a uint.
	if quota, err := readUint(g.cpuDir + "/cpu.cfs_quota_us"); err == nil {
		c.quota = quota
	}
	if c.period, err = optional(readUint(g.cpuDir + "/cpu.cfs_period_us")); err != nil {
		return c, err
	}
	c.shares, err = optional(readUint(g.cpuDir + "/cpu.shares"))
	return c, err
}

func (g *v1Group) memory() (m memory, err error) {
	m.present, m.swapLimit, m.memoryAndSwapCombined = true, none, none
	if m.usage, err = readUint(g.memoryDir + "/memory.usage_in_bytes"); err != nil {
		return m, err
	}
	if m.limit, err = readLimit(g.memoryDir + "/memory.limit_in_bytes"); err != nil {
		return m, err
	}
	if err = readKeys(g.memoryDir+"/memory.stat", m.setV1); err != nil {
		return m, err
	}
	if !m.swapPresent {
		return m, nil
	}
	combined, err := readLimit(g.memoryDir + "/memory.memsw.limit_in_bytes")
	if err != nil {
		return m, unlessAbsent(err)
	}
	m.memoryAndSwapCombined = combined
	if combined != none && m.limit != none {
		m.swapLimit = floored(combined, m.limit)
	}
	return m, nil
}

// setV1 takes one line of version 1's memory.stat. Fields named total_ include
// child groups; swap is present only where the kernel accounts it.
func (m *memory) setV1(key []byte, v uint64) {
	switch string(key) {
	case "total_rss":
		m.rss = v
	case "total_cache":
		m.cache = v
	case "total_mapped_file":
		m.mapped = v
	case "total_inactive_file":
		m.inactiveFile = v
	case "total_pgfault":
		m.faults = v
	case "total_pgmajfault":
		m.majorFaults = v
	case "pgfault":
		m.ownFaults = v
	case "pgmajfault":
		m.ownMajor = v
	case "total_swap":
		m.swapUsage, m.swapPresent = v, true
	}
}

func (g *v1Group) memoryEvents() (e memoryEvents, err error) {
	e.present = true
	if e.peak, err = readUint(g.memoryDir + "/memory.max_usage_in_bytes"); err != nil {
		return e, err
	}
	if e.limitHits, err = readUint(g.memoryDir + "/memory.failcnt"); err != nil {
		return e, err
	}
	// Kernel memory accounting can be off, and is deprecated.
	if e.kernel, err = optional(readUint(g.memoryDir + "/memory.kmem.usage_in_bytes")); err != nil {
		return e, err
	}
	err = readKeys(g.memoryDir+"/memory.oom_control", func(key []byte, v uint64) {
		if string(key) == "oom_kill" {
			e.oomKills = v
		}
	})
	return e, unlessAbsent(err)
}

func (g *v1Group) limits() (limits, error) {
	reservation, err := readLimit(g.memoryDir + "/memory.soft_limit_in_bytes")
	return limits{memoryReservation: reservation}, err
}

// pressure returns nil: the v1 controllers have none.
func (g *v1Group) pressure(string) (*runtimeapi.PsiStats, error) { return nil, nil }

func (g *v1Group) tasks() (t tasks, err error) {
	if g.pidsDir == "" {
		return t, nil
	}
	return readTasks(g.pidsDir)
}

func (g *v1Group) processes() ([]int, error) { return readProcesses(g.memoryDir, 0) }

// io reads the throttling layer's counters, which work with every I/O scheduler.
// Kernels before 4.20 lack the hierarchical ones, but containers have no child
// groups of their own there.
func (g *v1Group) io() ([]deviceIO, error) {
	if g.blkioDir == "" {
		return nil, nil
	}
	devices := devices{}
	for _, f := range []struct {
		name string
		set  func(d *deviceIO, operation string, v uint64)
	}{
		{"io_service_bytes", func(d *deviceIO, operation string, v uint64) {
			switch operation {
			case "Read":
				d.readBytes = v
			case "Write":
				d.writeBytes = v
			}
		}},
		{"io_serviced", func(d *deviceIO, operation string, v uint64) {
			switch operation {
			case "Read":
				d.readCount = v
			case "Write":
				d.writeCount = v
			}
		}},
	} {
		err := readBlkio(g.blkioDir+"/blkio.throttle."+f.name+"_recursive", &devices, f.set)
		if isGone(err) {
			err = readBlkio(g.blkioDir+"/blkio.throttle."+f.name, &devices, f.set)
		}
		if err != nil {
			return nil, unlessAbsent(err)
		}
	}
	return devices, nil
}

// readBlkio reads lines of the form "major:minor operation value".
func readBlkio(name string, to *devices, set func(d *deviceIO, operation string, v uint64)) error {
	return withFile(unix.AT_FDCWD, name, func(content []byte) error {
		for line := range bytes.Lines(content) {
			fields := bytes.Fields(line)
			if len(fields) != 3 {
				continue // the total
			}
			d := to.get(fields[0])
			if v, ok := parseUint(fields[2]); ok && d != nil {
				set(d, string(fields[1]), v)
			}
		}
		return nil
	})
}

func (g *v1Group) hugePages(size string) (h hugePages, err error) {
	if g.hugetlbDir == "" {
		return h, nil
	}
	base := fmt.Sprintf("%s/hugetlb.%s.", g.hugetlbDir, size)
	if h.usage, err = readUint(base + "usage_in_bytes"); err != nil {
		return h, unlessAbsent(err)
	}
	h.present = true
	h.peak, err = readUint(base + "max_usage_in_bytes")
	h.peakPresent = err == nil
	return h, unlessAbsent(err)
}
