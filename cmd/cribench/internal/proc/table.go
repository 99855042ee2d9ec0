package proc

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// userHZ is the number of units per second of CPU times in /proc/PID/stat: USER_HZ,
// which is 100 on every architecture that Docker runs on (proc(5),
// sysconf(_SC_CLK_TCK)).
const userHZ = 100

// Process is one process at one moment.
type Process struct {
	PID, PPID int
	// Name is the base name of its executable, from the command line.
	Name string
	Args []string
	// Started is in ticks since boot; with the PID it identifies the process.
	Started uint64
	// CPU is its own CPU time, to a hundredth of a second, without its children's.
	CPU time.Duration
	// Reaped is the CPU time of its children that have exited, and of theirs.
	Reaped time.Duration
}

// snapshot reads all processes. Those that exit meanwhile are left out.
func snapshot() (map[int]Process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	all := make(map[int]Process, len(dirs))
	for _, dir := range dirs {
		if p, err := read(dir); err == nil {
			all[p.PID] = p
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no process in /proc")
	}
	return all, nil
}

func read(dir string) (Process, error) {
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Process{}, err
	}
	p, err := parseStat(stat)
	if err != nil {
		return Process{}, err
	}
	cmdline, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return Process{}, err
	}
	if args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00"); args[0] != "" {
		p.Args = args
		p.Name = filepath.Base(args[0])
	}
	return p, nil
}

// parseStat parses /proc/PID/stat, see proc(5). The second field is in parentheses
// and may itself contain spaces and parentheses.
func parseStat(b []byte) (Process, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return Process{}, fmt.Errorf("stat without a name: %q", b)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:open])))
	if err != nil {
		return Process{}, fmt.Errorf("stat: %w", err)
	}
	const ppid, utime, stime, cutime, cstime, starttime = 1, 11, 12, 13, 14, 19 // counted after the name
	f := strings.Fields(string(b[end+1:]))
	if len(f) <= starttime {
		return Process{}, fmt.Errorf("stat of %d fields", len(f))
	}
	p := Process{PID: pid, Name: string(b[open+1 : end])}
	var ticks [5]uint64
	for i, at := range []int{utime, stime, cutime, cstime, starttime} {
		if ticks[i], err = strconv.ParseUint(f[at], 10, 64); err != nil {
			return Process{}, fmt.Errorf("stat: %w", err)
		}
	}
	if p.PPID, err = strconv.Atoi(f[ppid]); err != nil {
		return Process{}, fmt.Errorf("stat: %w", err)
	}
	p.CPU = time.Duration(ticks[0]+ticks[1]) * time.Second / userHZ
	p.Reaped = time.Duration(ticks[2]+ticks[3]) * time.Second / userHZ
	p.Started = ticks[4]
	return p, nil
}

// Memory returns the proportional set size of a process in bytes: its own pages and
// its share of pages shared with others, so that the sum over processes is their
// total. Other users' processes need root.
func Memory(pid int) (uint64, error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "Pss:" {
			kib, err := strconv.ParseUint(f[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s: no Pss", path)
}
