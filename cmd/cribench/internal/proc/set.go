package proc

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Set finds a runtime's processes. It searches each time, as shims come and go.
type Set struct {
	// Sockets are paths of unix sockets; the processes that serve them belong to
	// the set.
	Sockets []string
	// Names match the names of further processes, which cannot be found otherwise.
	Names []*regexp.Regexp
}

// Usage is the memory of a set of processes at one moment.
type Usage struct {
	// Memory is the proportional set size in bytes by process name.
	Memory map[string]uint64
	// Count is the number of processes by name.
	Count map[string]int
}

// Find returns the processes of the set by PID.
func (s Set) Find() (map[int]Process, error) {
	all, err := snapshot()
	if err != nil {
		return nil, err
	}
	roots, err := s.roots(all)
	if err != nil {
		return nil, err
	}
	found := descendants(all, roots)
	addShims(found, all, Peer)
	return found, nil
}

func (s Set) roots(all map[int]Process) ([]int, error) {
	var roots []int
	for _, path := range s.Sockets {
		pid, err := Peer(path)
		if err != nil {
			return nil, fmt.Errorf("processes of %s: %w", path, err)
		}
		roots = append(roots, pid)
	}
	for pid, p := range all {
		if slices.ContainsFunc(s.Names, func(n *regexp.Regexp) bool { return n.MatchString(p.Name) }) {
			roots = append(roots, pid)
		}
	}
	return roots, nil
}

// isShim reports whether a process is a containerd shim, whose children are
// containers.
func isShim(p Process) bool { return strings.HasPrefix(p.Name, "containerd-shim") }

// descendants returns the roots and all processes below them, without those below a
// shim, which are containers.
func descendants(all map[int]Process, roots []int) map[int]Process {
	children := map[int][]int{}
	for pid, p := range all {
		children[p.PPID] = append(children[p.PPID], pid)
	}
	found := map[int]Process{}
	for queue := roots; len(queue) > 0; {
		pid := queue[0]
		queue = queue[1:]
		p, ok := all[pid]
		if _, seen := found[pid]; seen || !ok {
			continue
		}
		found[pid] = p
		if !isShim(p) {
			queue = append(queue[:len(queue):len(queue)], children[pid]...)
		}
	}
	return found
}

// addShims adds the shims whose daemon is in found. It looks up the daemon's socket
// in the shim's mount namespace, which may be another one.
func addShims(found, all map[int]Process, peer func(string) (int, error)) {
	daemons := map[string]int{}
	for pid, p := range all {
		address := shimAddress(p)
		if address == "" {
			continue
		}
		daemon, known := daemons[address]
		if !known {
			var err error
			if daemon, err = peer(fmt.Sprintf("/proc/%d/root%s", pid, address)); err != nil {
				continue // it may be exiting; another shim of the daemon may work
			}
			daemons[address] = daemon
		}
		if _, ours := found[daemon]; ours {
			found[pid] = p
		}
	}
}

// shimAddress returns the containerd socket on a shim's command line; "" for other
// processes.
func shimAddress(p Process) string {
	if !isShim(p) {
		return ""
	}
	at := slices.Index(p.Args, "-address")
	if at < 0 || at+1 == len(p.Args) {
		return ""
	}
	return strings.TrimPrefix(p.Args[at+1], "unix://")
}

// CPU returns the CPU time of each of the set's processes, by PID and start time; it is
// cheap compared to Usage.
func (s Set) CPU() (map[[2]uint64]time.Duration, error) {
	found, err := s.Find()
	if err != nil {
		return nil, err
	}
	cpu := make(map[[2]uint64]time.Duration, len(found))
	for _, p := range found {
		cpu[[2]uint64{uint64(p.PID), p.Started}] = p.CPU
	}
	return cpu, nil
}

// Usage reads the memory of the set.
func (s Set) Usage() (Usage, error) {
	found, err := s.Find()
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Memory: map[string]uint64{}, Count: map[string]int{}}
	for _, pid := range slices.Sorted(maps.Keys(found)) {
		m, err := Memory(pid)
		if err != nil {
			if _, gone := snapshotOf(pid); gone {
				continue
			}
			return Usage{}, err
		}
		u.Memory[found[pid].Name] += m
		u.Count[found[pid].Name]++
	}
	return u, nil
}

// snapshotOf reads one process and reports whether it is gone.
func snapshotOf(pid int) (Process, bool) {
	p, err := read(fmt.Sprintf("/proc/%d", pid))
	return p, err != nil
}

// Spent returns the CPU time between two readings of one set, of the processes in
// both and of those only in the second.
func Spent(before, after map[[2]uint64]time.Duration) time.Duration {
	var sum time.Duration
	for p, cpu := range after {
		sum += cpu - before[p]
	}
	return sum
}

// Tree returns the CPU time of the set's processes by name, with that of their children
// that have exited: of runc, and of commands in containers, which the shims reap.
func (s Set) Tree() (map[string]time.Duration, error) {
	found, err := s.Find()
	if err != nil {
		return nil, err
	}
	cpu := map[string]time.Duration{}
	for _, p := range found {
		cpu[p.Name] += p.CPU + p.Reaped
	}
	return cpu, nil
}

// SpentByName returns the CPU time between two readings of [Set.Tree]. A process that
// exits meanwhile must be reaped by one of the set, or what it had spent is lost.
func SpentByName(before, after map[string]time.Duration) map[string]time.Duration {
	spent := maps.Clone(after)
	for name, cpu := range before {
		spent[name] -= cpu
	}
	return spent
}

// Total returns the memory of all processes, in bytes.
func (u Usage) Total() uint64 {
	var sum uint64
	for _, m := range u.Memory {
		sum += m
	}
	return sum
}
