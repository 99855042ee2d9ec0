package stats

import (
	"bytes"
	"fmt"
	"math"
	"path"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// unifiedGroup is a control group of version 2. Its files depend on the
// controllers that its parent has enabled; cpu.stat always exists.
type unifiedGroup struct{ name, dir string }

func (g *unifiedGroup) path() string { return g.name }
func (g *unifiedGroup) exists() bool { return isDirectory(g.dir) }
func (g *unifiedGroup) parent() cgroup {
	return &unifiedGroup{name: path.Dir(g.name), dir: filepath.Dir(g.dir)}
}

func (g *unifiedGroup) cpuNanos() (nanos uint64, err error) {
	err = readKeys(g.dir+"/cpu.stat", func(key []byte, v uint64) {
		if string(key) == "usage_usec" {
			nanos = v * 1000
		}
	})
	return nanos, err
}

func (g *unifiedGroup) cpu() (c cpu, err error) {
	c.quota = none
	err = readKeys(g.dir+"/cpu.stat", func(key []byte, v uint64) {
		switch string(key) {
		case "usage_usec":
			c.usage = v * 1000
		case "user_usec":
			c.user, c.userSystemKnown = v*1000, true
		case "system_usec":
			c.system = v * 1000
		case "nr_periods":
			c.periods, c.hasPeriods = v, true
		case "nr_throttled":
			c.throttled = v
		case "throttled_usec":
			c.throttledNanos = v * 1000
		}
	})
	if err != nil {
		return c, err
	}
	err = withFile(unix.AT_FDCWD, g.dir+"/cpu.max", func(content []byte) error {
		quota, period, _ := bytes.Cut(bytes.TrimSpace(content), []byte(" "))
		var ok bool
		if c.quota, ok = parseUint(quota); !ok {
			c.quota = none
		}
		c.period, _ = parseUint(period)
		return nil
	})
	if err != nil {
		return c, unlessAbsent(err)
	}
	weight, err := optional(readUint(g.dir + "/cpu.weight"))
	c.shares = cpuShares(weight)
	return c, err
}

// cpuShares converts a version 2 weight [1, 10000] to version 1 shares
// [2, 262144]. It inverts the linear conversion of KEP 2254, as cAdvisor does. No
// weight, 0, is 0.
func cpuShares(weight uint64) uint64 {
	if weight == 0 {
		return 0
	}
	return (weight-1)*262142/9999 + 2
}

func (g *unifiedGroup) memory() (m memory, err error) {
	m.limit, m.swapLimit, m.memoryAndSwapCombined = none, none, none
	if m.usage, err = readUint(g.dir + "/memory.current"); err != nil {
		return m, unlessAbsent(err)
	}
	m.present = true
	if m.limit, err = readLimit(g.dir + "/memory.max"); err != nil {
		return m, err
	}
	if err = readKeys(g.dir+"/memory.stat", m.setV2()); err != nil {
		return m, err
	}
	m.ownFaults, m.ownMajor = m.faults, m.majorFaults
	// The swap files are absent where the kernel does not account swap.
	if m.swapUsage, err = readUint(g.dir + "/memory.swap.current"); err != nil {
		return m, unlessAbsent(err)
	}
	m.swapPresent = true
	m.swapLimit, err = readLimit(g.dir + "/memory.swap.max")
	return m, err
}

// setV2 returns a function that takes the lines of version 2's memory.stat.
// Kernel memory has its own line since Linux 5.18; before, it is the sum of its
// parts.
func (m *memory) setV2() func(key []byte, v uint64) {
	total := false
	return func(key []byte, v uint64) {
		switch string(key) {
		case "anon":
			m.rss = v
		case "file":
			m.cache = v
		case "kernel":
			m.kernel, total = v, true
		case "kernel_stack", "pagetables", "percpu", "slab":
			if !total {
				m.kernel += v
			}
		case "file_mapped":
			m.mapped = v
		case "inactive_file":
			m.inactiveFile = v
		case "pgfault":
			m.faults = v
		case "pgmajfault":
			m.majorFaults = v
		}
	}
}

func (g *unifiedGroup) memoryEvents() (e memoryEvents, err error) {
	err = readKeys(g.dir+"/memory.events", func(key []byte, v uint64) {
		switch string(key) {
		case "max":
			e.limitHits = v
		case "oom_kill":
			e.oomKills = v
		}
	})
	if err != nil {
		return e, unlessAbsent(err)
	}
	e.present = true
	e.peak, err = optional(readUint(g.dir + "/memory.peak")) // Linux 5.19
	return e, err
}

func (g *unifiedGroup) limits() (limits, error) {
	reservation, err := optional(readLimit(g.dir + "/memory.min"))
	return limits{memoryReservation: reservation}, err
}

// pressure returns nil where PSI is off in the kernel: then the file is missing or
// cannot be read.
func (g *unifiedGroup) pressure(resource string) (*runtimeapi.PsiStats, error) {
	psi := &runtimeapi.PsiStats{Full: &runtimeapi.PsiData{}, Some: &runtimeapi.PsiData{}}
	err := withFile(unix.AT_FDCWD, g.dir+"/"+resource+".pressure", func(content []byte) error {
		for line := range bytes.Lines(content) {
			kind, rest, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
			switch string(kind) {
			case "some":
				setPSI(psi.Some, rest)
			case "full":
				setPSI(psi.Full, rest)
			}
		}
		return nil
	})
	if err != nil {
		return nil, unlessAbsent(err)
	}
	return psi, nil
}

// setPSI parses "avg10=0.00 avg60=0.00 avg300=0.00 total=0". The kernel's total
// is in microseconds, CRI's in nanoseconds.
func setPSI(to *runtimeapi.PsiData, line []byte) {
	for field := range bytes.FieldsSeq(line) {
		key, value, _ := bytes.Cut(field, []byte("="))
		if string(key) == "total" {
			micros, _ := parseUint(value)
			to.Total = micros * 1000
			continue
		}
		avg, err := strconv.ParseFloat(string(value), 64)
		if err != nil || math.IsNaN(avg) || math.IsInf(avg, 0) {
			continue
		}
		switch string(key) {
		case "avg10":
			to.Avg10 = avg
		case "avg60":
			to.Avg60 = avg
		case "avg300":
			to.Avg300 = avg
		}
	}
}

func (g *unifiedGroup) tasks() (tasks, error) { return readTasks(g.dir) }

func (g *unifiedGroup) processes() ([]int, error) { return readProcesses(g.dir, 0) }

func (g *unifiedGroup) io() ([]deviceIO, error) {
	devices := devices{}
	err := withFile(unix.AT_FDCWD, g.dir+"/io.stat", func(content []byte) error {
		for line := range bytes.Lines(content) {
			name, rest, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
			d := devices.get(name)
			if d == nil {
				continue
			}
			for field := range bytes.FieldsSeq(rest) {
				d.setV2(field)
			}
		}
		return nil
	})
	return devices, unlessAbsent(err)
}

func (d *deviceIO) setV2(field []byte) {
	key, value, _ := bytes.Cut(field, []byte("="))
	v, ok := parseUint(value)
	if !ok {
		return
	}
	switch string(key) {
	case "rbytes":
		d.readBytes = v
	case "wbytes":
		d.writeBytes = v
	case "rios":
		d.readCount = v
	case "wios":
		d.writeCount = v
	}
}

// hugePages have no peak in version 2.
func (g *unifiedGroup) hugePages(size string) (h hugePages, err error) {
	if h.usage, err = readUint(fmt.Sprintf("%s/hugetlb.%s.current", g.dir, size)); err != nil {
		return h, unlessAbsent(err)
	}
	h.present = true
	return h, nil
}
