package stats

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/mountinfo"
)

// cgroup reads one control group. Values are hierarchical: they include child
// groups. When the group was removed, methods return an error for which [isGone]
// is true. Without its controller a method returns zero values, with present
// false where the result has that field.
type cgroup interface {
	// path is the group's path as in /proc/<pid>/cgroup.
	path() string
	parent() cgroup
	// exists reports whether the group still exists.
	exists() bool

	// cpuNanos returns the CPU time used, in nanoseconds.
	cpuNanos() (uint64, error)
	cpu() (cpu, error)
	memory() (memory, error)
	memoryEvents() (memoryEvents, error)
	limits() (limits, error)
	// pressure returns the PSI of cpu, memory or io; nil where the kernel has none.
	pressure(resource string) (*runtimeapi.PsiStats, error)
	tasks() (tasks, error)
	// processes returns the pids of the group and its child groups.
	processes() ([]int, error)
	io() ([]deviceIO, error)
	// hugePages returns the usage of one page size, such as 2MB.
	hugePages(size string) (hugePages, error)
}

// cpu times in nanoseconds, and the CFS bandwidth counters.
type cpu struct {
	usage, user, system         uint64
	periods, throttled          uint64
	throttledNanos              uint64
	quota, period, shares       uint64 // quota is [none] without a limit
	userSystemKnown, hasPeriods bool
}

// memory in bytes; a limit that is not set is [none].
type memory struct {
	present               bool
	usage, limit          uint64
	rss, cache, mapped    uint64
	kernel, inactiveFile  uint64
	faults, majorFaults   uint64
	ownFaults, ownMajor   uint64 // without child groups
	swapPresent           bool
	swapUsage, swapLimit  uint64
	memoryAndSwapCombined uint64 // version 1's limit on memory plus swap; [none] if not set
}

// workingSet is the memory that the kernel cannot easily reclaim: usage less
// inactive_file, never below 0.
func (m *memory) workingSet() uint64 { return floored(m.usage, m.inactiveFile) }

// floored is a−b, or 0 where that is negative.
func floored(a, b uint64) uint64 {
	if a < b {
		return 0
	}
	return a - b
}

// memoryEvents are counters that only metrics report.
type memoryEvents struct {
	present             bool
	peak                uint64 // 0: not reported by the kernel
	limitHits, oomKills uint64
	kernel              uint64 // version 1 only
}

// limits that only metrics report; [none] if not set.
type limits struct {
	memoryReservation uint64
}

type tasks struct {
	present        bool
	current, limit uint64 // limit is [none] if not set
}

// deviceIO holds the I/O counters of one block device.
type deviceIO struct {
	major, minor                                 uint64
	readBytes, writeBytes, readCount, writeCount uint64
}

type hugePages struct {
	present, peakPresent bool
	usage, peak          uint64
}

// hierarchies records where control groups are mounted.
type hierarchies struct {
	root string
	// unified is true on cgroup v2. Hybrid machines count as v1, because their
	// controllers are in v1 hierarchies.
	unified bool
	// controllers maps version 1's controllers to their mount points.
	controllers map[string]string
	// mountRoots maps a mount point to the group mounted there, which is not "/"
	// inside a container on a cgroup v1 host.
	mountRoots map[string]string
}

// newHierarchies reads the machine's cgroup mounts. It never fails: without
// mounts, no container will be found.
func newHierarchies(root, procRoot string) *hierarchies {
	h := &hierarchies{root: root, controllers: map[string]string{}, mountRoots: map[string]string{}}
	h.unified = withFile(unix.AT_FDCWD, root+"/cgroup.controllers", func([]byte) error { return nil }) == nil
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		// Controllers that share a hierarchy are mounted at "cpu,cpuacct", and
		// links named cpu and cpuacct point there. mountinfo lists only the former.
		if dir := filepath.Join(root, e.Name()); e.IsDir() {
			for controller := range strings.SplitSeq(e.Name(), ",") {
				h.controllers[controller] = dir
			}
		}
	}
	// Without mountinfo, assume that whole hierarchies are mounted.
	_ = withFile(unix.AT_FDCWD, procRoot+"/self/mountinfo", func(content []byte) error {
		for line := range bytes.Lines(content) {
			if m, ok := mountinfo.Parse(string(line)); ok && strings.HasPrefix(m.FSType, "cgroup") {
				h.mountRoots[m.Point] = m.Root
			}
		}
		return nil
	})
	return h
}

// directory returns the directory of a group in the hierarchy mounted at
// mountPoint.
func (h *hierarchies) directory(mountPoint, name string) string {
	if root := h.mountRoots[mountPoint]; root != "" && root != "/" {
		if rest, ok := strings.CutPrefix(name, root); ok && (rest == "" || rest[0] == '/') {
			name = rest
		}
	}
	return filepath.Join(mountPoint, name)
}

// find returns the control group of the container id, given the content of its
// process's /proc/<pid>/cgroup. The error is errdefs.ErrFailedPrecondition if the
// process is in no group of the container: another process has the pid now, or
// the container does not run in this kernel's groups.
func (h *hierarchies) find(id string, content []byte) (cgroup, error) {
	v1 := map[string]string{}
	for line := range bytes.Lines(content) {
		// hierarchy-ID:controller-list:cgroup-path, see cgroups(7).
		parts := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		name, ok := containerGroup(id, parts[2])
		if !ok {
			continue
		}
		if h.unified {
			if parts[1] == "" {
				return &unifiedGroup{name: name, dir: h.directory(h.root, name)}, nil
			}
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			if m, ok := h.controllers[controller]; ok {
				v1[controller] = h.directory(m, name)
			}
			if controller == "memory" {
				v1[""] = name
			}
		}
	}
	if v1["memory"] == "" || v1["cpuacct"] == "" {
		return nil, fmt.Errorf("%w: its process is in no control group named after it", errdefs.ErrFailedPrecondition)
	}
	return newV1Group(v1), nil
}

// containerGroup cuts a group's path after the element with the container's ID:
// "<id>" with the cgroupfs driver, "docker-<id>.scope" with systemd's. Groups
// below it were made by the container itself.
func containerGroup(id, name string) (string, bool) {
	i := strings.Index(name, id)
	if id == "" || i < 0 {
		return "", false
	}
	if end := strings.IndexByte(name[i:], '/'); end >= 0 {
		name = name[:i+end]
	}
	// A path that leads out of this process's cgroup namespace begins with "..".
	return path.Clean("/" + name), true
}

// readTasks reads the pids controller's files in dir.
func readTasks(dir string) (t tasks, err error) {
	if t.current, err = readUint(dir + "/pids.current"); err != nil {
		return t, unlessAbsent(err)
	}
	t.present = true
	t.limit, err = readUint(dir + "/pids.max")
	return t, err
}

// deepest is how many levels of child groups are read. Both versions let a
// container with write access make as many as it likes.
const deepest = 8

// readProcesses lists the processes of the group dir and its child groups.
func readProcesses(dir string, depth int) ([]int, error) {
	var pids []int
	err := withFile(unix.AT_FDCWD, dir+"/cgroup.procs", func(content []byte) error {
		for line := range bytes.Lines(content) {
			if pid, ok := parseUint(bytes.TrimSpace(line)); ok && pid <= math.MaxInt32 {
				pids = append(pids, int(pid))
			}
		}
		return nil
	})
	// A threaded group of version 2 cannot be read: the root group of its domain
	// lists its processes.
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return nil, err
	}
	var st unix.Stat_t
	// The kernel counts child groups as links, so most groups need not be listed.
	if depth == deepest || unix.Stat(dir, &st) != nil || st.Nlink == 2 {
		return pids, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		below, err := readProcesses(filepath.Join(dir, e.Name()), depth+1)
		if err != nil && !isGone(err) {
			return nil, err
		}
		pids = append(pids, below...)
	}
	return pids, nil
}

// devices collects counters of block devices from several files, in the order in
// which the devices first appear.
type devices []deviceIO

// get finds or adds the device "major:minor"; nil if name has another form.
func (d *devices) get(name []byte) *deviceIO {
	left, right, ok := bytes.Cut(name, []byte(":"))
	major, ok1 := parseUint(left)
	minor, ok2 := parseUint(right)
	if !ok || !ok1 || !ok2 {
		return nil
	}
	for i := range *d {
		if (*d)[i].major == major && (*d)[i].minor == minor {
			return &(*d)[i]
		}
	}
	*d = append(*d, deviceIO{major: major, minor: minor})
	return &(*d)[len(*d)-1]
}
