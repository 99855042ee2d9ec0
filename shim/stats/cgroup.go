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
)

// cgroup reads one control group. Values are hierarchical: they include child
// groups. Methods fail with an error for which [isGone] is true when the group
// was removed. A controller that is not there gives zero values and, where the
// result has one, present false.
type cgroup interface {
	// path as /proc/<pid>/cgroup has it.
	path() string
	parent() cgroup
	// exists tells whether the group is still there.
	exists() bool

	// cpuNanos is the CPU time used, in nanoseconds.
	cpuNanos() (uint64, error)
	cpu() (cpu, error)
	memory() (memory, error)
	memoryEvents() (memoryEvents, error)
	limits() (limits, error)
	// pressure of cpu, memory or io; nil where the kernel has none.
	pressure(resource string) (*runtimeapi.PsiStats, error)
	tasks() (tasks, error)
	// processes are the pids of the group and of those below it.
	processes() ([]int, error)
	io() ([]deviceIO, error)
	// hugePages of one size, such as 2MB.
	hugePages(size string) (hugePages, error)
}

// cpu times in nanoseconds, and the CFS bandwidth counters.
type cpu struct {
	usage, user, system         uint64
	periods, throttled          uint64
	throttledNanos              uint64
	quota, period, shares       uint64 // quota is none without a limit
	userSystemKnown, hasPeriods bool
}

// memory in bytes; limits are [none] where there is none.
type memory struct {
	present               bool
	usage, limit          uint64
	rss, cache, mapped    uint64
	kernel, inactiveFile  uint64
	faults, majorFaults   uint64
	ownFaults, ownMajor   uint64 // without child groups
	swapPresent           bool
	swapUsage, swapLimit  uint64
	memoryAndSwapCombined uint64 // limit as version 1 has it, none without one
}

// workingSet is what the kernel cannot drop easily: usage less inactive_file,
// never below 0.
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
	peak                uint64 // 0: the kernel does not say
	limitHits, oomKills uint64
	kernel              uint64 // version 1 only
}

// limits that only metrics report; [none] where there is none.
type limits struct {
	memoryReservation uint64
}

type tasks struct {
	present        bool
	current, limit uint64 // limit is none without one
}

// deviceIO is what went to and came from one block device.
type deviceIO struct {
	major, minor                                 uint64
	readBytes, writeBytes, readCount, writeCount uint64
}

type hugePages struct {
	present, peakPresent bool
	usage, peak          uint64
}

// hierarchies says where control groups are mounted.
type hierarchies struct {
	root string
	// unified is true on cgroup v2; hybrid machines count as v1, because their
	// controllers are there.
	unified bool
	// controllers of version 1, with their mount points.
	controllers map[string]string
	// mountRoots gives for a mount point the group that is mounted there. It is
	// not "/" inside a container of a cgroup v1 host.
	mountRoots map[string]string
}

// newHierarchies looks at the mounts of the machine. It never fails: without
// mounts, no container will be found.
func newHierarchies(root, procRoot string) *hierarchies {
	h := &hierarchies{root: root, controllers: map[string]string{}, mountRoots: map[string]string{}}
	h.unified = withFile(unix.AT_FDCWD, root+"/cgroup.controllers", func([]byte) error { return nil }) == nil
	entries, _ := os.ReadDir(root)
	for _, e := range entries {
		// Controllers that share a hierarchy are mounted at "cpu,cpuacct", and
		// links named cpu and cpuacct point there. mountinfo has the former only.
		if dir := filepath.Join(root, e.Name()); e.IsDir() {
			for controller := range strings.SplitSeq(e.Name(), ",") {
				h.controllers[controller] = dir
			}
		}
	}
	// Without mountinfo, whole hierarchies are assumed to be mounted.
	_ = withFile(unix.AT_FDCWD, procRoot+"/self/mountinfo", func(content []byte) error {
		for line := range bytes.Lines(content) {
			if m, ok := parseMount(line); ok && strings.HasPrefix(m.fsType, "cgroup") {
				h.mountRoots[m.mountPoint] = m.root
			}
		}
		return nil
	})
	return h
}

// directory of the group name in the hierarchy mounted at mountPoint.
func (h *hierarchies) directory(mountPoint, name string) string {
	if root := h.mountRoots[mountPoint]; root != "" && root != "/" {
		if rest, ok := strings.CutPrefix(name, root); ok && (rest == "" || rest[0] == '/') {
			name = rest
		}
	}
	return filepath.Join(mountPoint, name)
}

// find gives the control group of the container id from the content of its
// process's /proc/<pid>/cgroup. It is errdefs.ErrFailedPrecondition if the
// process is not in a group of the container's: it is another process that got
// the same pid, or the container does not run in this kernel's groups.
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

// containerGroup cuts a group's path behind the element with the container's
// ID: "<id>" with the cgroupfs driver, "docker-<id>.scope" with systemd's. What
// comes below was made by the container itself.
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

// deepest is how many levels of groups below a container's are looked at. Both
// versions let a container with write access make as many as it likes.
const deepest = 8

// readProcesses lists the processes of the group dir and of those below it.
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
	// A threaded group of version 2 cannot be read: its processes are listed by
	// the group that is the root of its domain.
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

// devices collects what several files say about the same block devices, in the
// order in which they were first named.
type devices []deviceIO

// get finds or adds the device "major:minor"; nil if that is no device.
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
