package result

import (
	"bufio"
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine describes the machine of a run, as far as it affects the numbers. It has
// no host name.
type Machine struct {
	OS           string  `json:"os"`
	Kernel       string  `json:"kernel"`
	Architecture string  `json:"architecture"`
	CPU          string  `json:"cpu"`
	CPUs         int     `json:"cpus"`
	MemoryMiB    uint64  `json:"memoryMiB"`
	Cgroup       string  `json:"cgroup"`
	LoadBefore   float64 `json:"loadBefore"`
	LoadAfter    float64 `json:"loadAfter"`
}

// ThisMachine describes the current machine. Fields that cannot be determined are
// empty.
func ThisMachine() Machine {
	m := Machine{Architecture: runtime.GOARCH, CPUs: runtime.NumCPU(), Cgroup: "v1", LoadBefore: Load()}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		m.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryMiB = uint64(info.Totalram) * uint64(info.Unit) >> 20 //nolint:unconvert // uint32 on 32-bit architectures
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		m.Cgroup = "v2"
	}
	m.OS = strings.Trim(valueIn("/etc/os-release", "PRETTY_NAME", "="), `"`)
	m.CPU = valueIn("/proc/cpuinfo", "model name", ":")
	return m
}

// Load returns the load average of the last minute; 0 if unknown.
func Load() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := bytes.Cut(b, []byte(" "))
	load, _ := strconv.ParseFloat(string(first), 64) // 0: unknown
	return load
}

// valueIn returns the first value of a key in a file with lines of key, separator and
// value.
func valueIn(path, key, separator string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if k, v, ok := strings.Cut(lines.Text(), separator); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
