package translate

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/proto"

	"github.com/cridock/cridock/internal/seam"
)

const (
	minMemory    = 6 << 20 // Docker's minimum memory limit
	minCPUPeriod = 1000
	maxCPUPeriod = 1000000
	minCPUQuota  = 1000

	unlimited = -1

	// The kernel's values for a new cgroup.
	defaultCPUPeriod = 100000
	defaultCPUShares = 1024
)

// CgroupFile is a file to write in a container's cgroup directory after the
// container has started, for a limit that Docker has no field for.
type CgroupFile struct {
	Name, Value string
	// Optional: a missing file (the controller is off) is not an error, as it has the
	// same effect as the value.
	Optional bool
}

// validateResources checks ranges. field has no trailing dot; r may be nil.
func validateResources(field string, r *runtimeapi.LinuxContainerResources) error {
	switch {
	case r.GetCpuPeriod() != 0 && (r.GetCpuPeriod() < minCPUPeriod || r.GetCpuPeriod() > maxCPUPeriod):
		return invalid(field+".cpu_period", "%d is not in %d..%d", r.GetCpuPeriod(), minCPUPeriod, maxCPUPeriod)
	case r.GetCpuQuota() > 0 && r.GetCpuQuota() < minCPUQuota:
		return invalid(field+".cpu_quota", "%d is below %d", r.GetCpuQuota(), minCPUQuota)
	case r.GetCpuShares() < 0:
		return invalid(field+".cpu_shares", "%d is negative", r.GetCpuShares())
	case r.GetOomScoreAdj() < -1000 || r.GetOomScoreAdj() > 1000:
		return invalid(field+".oom_score_adj", "%d is not in -1000..1000", r.GetOomScoreAdj())
	}
	return ValidateCgroupFiles(field, r)
}

// ValidateCgroupFiles checks the resources that become file names in a cgroup:
// unified and hugepages. It is for stored resources as well as for those of a
// request. field names r in errors, without a trailing dot; r may be nil. An error
// is ErrInvalidArgument.
func ValidateCgroupFiles(field string, r *runtimeapi.LinuxContainerResources) error {
	if err := validateHugepages(field, r.GetHugepageLimits()); err != nil {
		return err
	}
	return validateUnified(field, r.GetUnified())
}

func validateHugepages(field string, limits []*runtimeapi.HugepageLimit) error {
	for i, limit := range limits {
		if err := seam.ValidatePageSize(limit.GetPageSize()); err != nil {
			return invalid(fmt.Sprintf("%s.hugepage_limits[%d].page_size", field, i), "%v", err)
		}
	}
	return nil
}

func validateUnified(field string, unified map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(unified)) {
		if err := seam.ValidateUnified(key, unified[key]); err != nil {
			return invalid(field+".unified", "%v", err)
		}
	}
	return nil
}

// dockerResources returns the limits of a container to create, and annotations
// for the OCI runtime with those that only systemd can set. A memory limit below
// Docker's minimum is raised to it; see [SeamResources].
func dockerResources(field string, r *runtimeapi.LinuxContainerResources, host Host) (container.Resources, map[string]string, error) {
	if err := validateResources(field, r); err != nil {
		return container.Resources{}, nil, err
	}
	if len(r.GetUnified()) > 0 && !host.CgroupV2 {
		return container.Resources{}, nil, unmet(field+".unified", "this node has cgroup v1")
	}
	out := container.Resources{
		CPUPeriod:  r.GetCpuPeriod(),
		CPUQuota:   max(r.GetCpuQuota(), unlimited),
		CPUShares:  r.GetCpuShares(),
		Memory:     max(r.GetMemoryLimitInBytes(), 0),
		CpusetCpus: r.GetCpusetCpus(),
		CpusetMems: r.GetCpusetMems(),
	}
	swap, err := memorySwap(field, r, out.Memory)
	if err != nil {
		return container.Resources{}, nil, err
	}
	out.Memory, out.MemorySwap = inDocker(out.Memory, swap)
	annotations, err := applyUnified(field, &out, r.GetUnified(), host)
	return out, annotations, err
}

// memorySwap returns Docker's MemorySwap, the sum of memory and swap, for a given
// memory limit. If the CRI sets no swap limit there is no swap; Docker's zero
// would allow as much swap as memory. unified["memory.swap.max"] is the kubelet's
// form on cgroup v2 and counts swap only.
func memorySwap(field string, r *runtimeapi.LinuxContainerResources, memory int64) (int64, error) {
	total := r.GetMemorySwapLimitInBytes()
	value, given := r.GetUnified()["memory.swap.max"]
	switch {
	case given && strings.TrimSpace(value) == "max":
		total = unlimited
	case given:
		swap, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		if err != nil || swap < 0 {
			return 0, invalid(field+".unified", "memory.swap.max: %q is neither a number of bytes nor max", value)
		}
		if memory == 0 {
			// Docker has no swap limit without a memory limit; see swapWithoutMemory.
			return 0, nil
		}
		if total = memory + swap; total < memory {
			total = unlimited
		}
	}
	switch {
	case total < 0:
		return unlimited, nil
	case total == 0:
		return memory, nil
	case memory == 0:
		return 0, invalid(field+".memory_swap_limit_in_bytes", "%d set without memory_limit_in_bytes", total)
	case total < memory:
		return 0, invalid(field+".memory_swap_limit_in_bytes", "%d is below memory_limit_in_bytes %d; it must include memory and swap", total, memory)
	}
	return total, nil
}

// applyUnified sets Docker's fields where one means exactly the same, and returns
// annotations that make runc have systemd set a property at the start. The rest
// is in CgroupFiles.
func applyUnified(field string, out *container.Resources, unified map[string]string, host Host) (map[string]string, error) {
	if v, ok := unified["cpuset.cpus"]; ok {
		out.CpusetCpus = v
	}
	if v, ok := unified["cpuset.mems"]; ok {
		out.CpusetMems = v
	}
	if v, ok := unified["pids.max"]; ok {
		limit, err := cgroupLimit(v)
		if err != nil {
			return nil, invalid(field+".unified", "pids.max: %v", err)
		}
		out.PidsLimit = &limit
	}
	annotations := map[string]string{}
	for key, property := range systemdProperties {
		value, ok := unified[key]
		if !ok || !useSystemd(key, unified, out.Memory, host) || isCgroupDefault(key, value) {
			continue
		}
		limit, err := cgroupLimit(value)
		if err != nil {
			return nil, invalid(field+".unified", "%s: %v", key, err)
		}
		annotations[systemdPropertyPrefix+property] = "uint64 " + strconv.FormatUint(uint64(limit), 10)
	}
	return annotations, nil
}

const systemdPropertyPrefix = "org.systemd.property."

// systemdProperties are the properties that annotations can make runc set on a
// container's scope.
var systemdProperties = map[string]string{
	"memory.high":     "MemoryHigh",
	"memory.low":      "MemoryLow",
	"memory.min":      "MemoryMin",
	"memory.swap.max": "MemorySwapMax",
}

// useSystemd reports whether systemd sets a unified key.
func useSystemd(key string, unified map[string]string, memory int64, host Host) bool {
	if host.CgroupDriver != "systemd" || !host.Annotations || !host.CgroupV2 {
		return false
	}
	if key == "memory.swap.max" {
		return swapWithoutMemory(unified, memory)
	}
	_, ok := systemdProperties[key]
	return ok
}

// swapWithoutMemory reports whether there is a swap limit without a memory limit,
// which Docker's MemorySwap can't express.
func swapWithoutMemory(unified map[string]string, memory int64) bool {
	_, ok := unified["memory.swap.max"]
	return ok && memory == 0
}

// isCgroupDefault reports whether a new cgroup has this value anyway.
func isCgroupDefault(key, value string) bool {
	value = strings.TrimSpace(value)
	switch key {
	case "memory.high", "memory.max", "memory.swap.max", "memory.swap.high", "pids.max":
		return value == "max"
	case "memory.min", "memory.low", "memory.oom.group":
		return value == "0"
	}
	return false
}

// cgroupLimit parses a cgroup v2 limit; "max" is -1, which as an unsigned number
// is systemd's infinity.
func cgroupLimit(value string) (int64, error) {
	value = strings.TrimSpace(value)
	if value == "max" {
		return unlimited, nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is neither a number nor max", value)
	}
	return n, nil
}

// inDocker returns the limits of memory, and of memory and swap together, that Docker
// accepts.
func inDocker(memory, swap int64) (int64, int64) {
	if memory > 0 {
		memory = max(memory, minMemory)
	}
	if swap > 0 {
		swap = max(swap, minMemory)
	}
	return memory, swap
}

// CgroupFilesToSave returns the files, without values, of limits that [DockerRevert]
// can't restore: those of memory and swap below Docker's minimum.
func CgroupFilesToSave(had *runtimeapi.LinuxContainerResources, host Host) []CgroupFile {
	switch {
	case smallMemory(had) == nil:
		return nil
	case host.CgroupV2:
		return []CgroupFile{{Name: "memory.max"}}
	}
	// In the order in which they can be lowered.
	return []CgroupFile{{Name: "memory.limit_in_bytes"}, {Name: "memory.memsw.limit_in_bytes"}}
}

// CgroupFiles lists the limits of r that neither Docker nor, through runc,
// systemd can set when the container is created: hugepages and the rest of
// unified. The caller writes them right after the start, in this order, also if
// cridock-runtime has set some of them before (see [SeamResources]). r may be nil. The values were checked when the container was created.
func CgroupFiles(r *runtimeapi.LinuxContainerResources, host Host) []CgroupFile {
	return cgroupFiles(r, host, false)
}

// CgroupFilesForUpdate is [CgroupFiles] for a running container. It adds what
// systemd set at the start, and default values, as they may undo an earlier value.
// It also adds the swap limit: Docker's update cannot lift one, and runc does not
// pass one of zero to systemd.
func CgroupFilesForUpdate(r *runtimeapi.LinuxContainerResources, host Host) []CgroupFile {
	return append(swapFiles(r, host), cgroupFiles(r, host, true)...)
}

// LimitsOverwritten reports whether systemd, when it reloads its units, overwrites
// limits of running containers. On cgroup v1 it leaves limits alone that it did
// not set itself.
func LimitsOverwritten(host Host) bool { return host.CgroupDriver == "systemd" && host.CgroupV2 }

// CgroupFilesToKeep returns those of [CgroupFilesForUpdate] that systemd
// overwrites if [LimitsOverwritten]: it does not manage the other controllers.
func CgroupFilesToKeep(r *runtimeapi.LinuxContainerResources, host Host) []CgroupFile {
	return slices.DeleteFunc(CgroupFilesForUpdate(r, host), func(f CgroupFile) bool {
		controller, _, _ := strings.Cut(f.Name, ".")
		return !slices.Contains([]string{"cpu", "cpuset", "io", "memory", "pids"}, controller)
	})
}

// swapFiles returns the swap limit of a container that has a memory limit.
func swapFiles(r *runtimeapi.LinuxContainerResources, host Host) []CgroupFile {
	memory, total := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes()
	if memory <= 0 || total == 0 {
		return nil
	}
	if !host.CgroupV2 {
		if total > 0 {
			return nil // Docker's update sets it
		}
		return []CgroupFile{{Name: "memory.memsw.limit_in_bytes", Value: strconv.Itoa(unlimited), Optional: true}}
	}
	value := "max"
	if total > 0 {
		value = strconv.FormatInt(max(total-memory, 0), 10)
	}
	// Without swap accounting in the kernel there is no file.
	return []CgroupFile{{Name: "memory.swap.max", Value: value, Optional: true}}
}

func cgroupFiles(r *runtimeapi.LinuxContainerResources, host Host, update bool) []CgroupFile {
	files := unifiedFiles(r, host, update)
	for _, limit := range hugepageLimits(r, host) {
		files = append(files, hugepageFiles(limit, host)...)
	}
	return files
}

// hugepageLimits are those that the node can enforce. Without the controller there are
// none, as with other runtimes: the kubelet counts the pages that pods request, and
// containers with huge pages must start.
func hugepageLimits(r *runtimeapi.LinuxContainerResources, host Host) []*runtimeapi.HugepageLimit {
	if host.NoHugetlb {
		return nil
	}
	return r.GetHugepageLimits()
}

func unifiedFiles(r *runtimeapi.LinuxContainerResources, host Host, update bool) []CgroupFile {
	var files []CgroupFile
	for _, key := range slices.Sorted(maps.Keys(r.GetUnified())) {
		switch key {
		case "cpuset.cpus", "cpuset.mems", "pids.max":
			continue
		case "memory.swap.max":
			if !swapWithoutMemory(r.GetUnified(), r.GetMemoryLimitInBytes()) {
				continue
			}
		}
		value := r.GetUnified()[key]
		atDefault := isCgroupDefault(key, value)
		if !update && (atDefault || useSystemd(key, r.GetUnified(), r.GetMemoryLimitInBytes(), host)) {
			continue
		}
		files = append(files, CgroupFile{Name: key, Value: value, Optional: atDefault})
	}
	return files
}

// hugepageFiles limits use and reservation of one page size. The kubelet sends a
// limit of zero for sizes that a pod did not request.
func hugepageFiles(limit *runtimeapi.HugepageLimit, host Host) []CgroupFile {
	suffix := "limit_in_bytes"
	if host.CgroupV2 {
		suffix = "max"
	}
	prefix := "hugetlb." + limit.GetPageSize() + "."
	value := strconv.FormatUint(limit.GetLimit(), 10)
	return []CgroupFile{
		{Name: prefix + suffix, Value: value, Optional: limit.GetLimit() == 0},
		{Name: prefix + "rsvd." + suffix, Value: value, Optional: true},
	}
}

// DockerUpdate returns the Docker update that brings a container to the wanted
// limits. Zero values mean "unchanged", in the CRI as in Docker; limits already in
// force are left out, so that an update with nothing to do is the zero value (see
// [EmptyUpdate]). A container that is neither created nor running is
// ErrFailedPrecondition. Hugepages and most of unified are in
// [CgroupFilesForUpdate]; Docker's update has no field for oom_score_adj.
func DockerUpdate(want *runtimeapi.LinuxContainerResources, current *Container, host Host) (container.UpdateConfig, error) {
	const field = "linux"
	var update container.UpdateConfig
	if s := current.State; s != runtimeapi.ContainerState_CONTAINER_CREATED && s != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return update, unmet("container_id", "container %s is %s; only created or running containers can be updated", current.ID, s)
	}
	if want.GetMemoryLimitInBytes() < 0 {
		return update, invalid(field+".memory_limit_in_bytes", "Docker can't remove a container's memory limit")
	}
	if want == nil {
		return update, nil
	}
	has := current.Resources
	merged := withMemory(want, has)
	resources, _, err := dockerResources(field, merged, host)
	if err != nil {
		return update, err
	}
	if small := smallMemory(merged); small != nil {
		if small.Limit != has.GetMemoryLimitInBytes() || small.Swap != has.GetMemorySwapLimitInBytes() {
			return update, invalid(field+".memory_limit_in_bytes", "a limit of %d, below Docker's minimum of %d (6 MiB), can only be set when the container is created", small.Limit, minMemory)
		}
		resources.Memory, resources.MemorySwap = 0, 0
	}
	if want.GetMemoryLimitInBytes() == 0 && want.GetMemorySwapLimitInBytes() == 0 && !hasSwap(want) {
		resources.Memory, resources.MemorySwap = 0, 0
	}
	update.Resources = withoutUnchanged(resources, has)
	return update, nil
}

// withMemory returns a copy of update that sets the memory and swap limits which
// update leaves out, from those the container has.
func withMemory(update, has *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	out := proto.CloneOf(update)
	if out.MemoryLimitInBytes == 0 {
		// A swap limit alone is relative to the unchanged memory limit.
		out.MemoryLimitInBytes = has.GetMemoryLimitInBytes()
	}
	if out.MemorySwapLimitInBytes == 0 && !hasSwap(out) {
		out.MemorySwapLimitInBytes = keepSwap(out.MemoryLimitInBytes, has)
	}
	return out
}

// keepSwap returns the sum of memory and swap that keeps a container's amount of
// swap when only its memory limit changes.
func keepSwap(memory int64, has *runtimeapi.LinuxContainerResources) int64 {
	old, total := has.GetMemoryLimitInBytes(), has.GetMemorySwapLimitInBytes()
	switch {
	case old <= 0 || memory <= 0:
		return 0
	case total < 0:
		return unlimited
	}
	return memory + max(total-old, 0)
}

func hasSwap(r *runtimeapi.LinuxContainerResources) bool {
	_, ok := r.GetUnified()["memory.swap.max"]
	return ok
}

// withoutUnchanged clears the limits that a container already has. Memory and swap
// go together: Docker refuses a memory limit above the swap limit in force.
func withoutUnchanged(want container.Resources, has *runtimeapi.LinuxContainerResources) container.Resources {
	if want.CPUPeriod == has.GetCpuPeriod() {
		want.CPUPeriod = 0
	}
	if want.CPUQuota == has.GetCpuQuota() {
		want.CPUQuota = 0
	}
	if want.CPUShares == has.GetCpuShares() {
		want.CPUShares = 0
	}
	if want.CpusetCpus == has.GetCpusetCpus() {
		want.CpusetCpus = ""
	}
	if want.CpusetMems == has.GetCpusetMems() {
		want.CpusetMems = ""
	}
	if want.Memory == has.GetMemoryLimitInBytes() && want.MemorySwap == has.GetMemorySwapLimitInBytes() {
		want.Memory, want.MemorySwap = 0, 0
	}
	return want
}

// EmptyUpdate reports whether an update changes nothing and need not be sent.
func EmptyUpdate(u container.UpdateConfig) bool {
	r := u.Resources
	return r.CPUPeriod == 0 && r.CPUQuota == 0 && r.CPUShares == 0 && r.CpusetCpus == "" && r.CpusetMems == "" &&
		r.Memory == 0 && r.MemorySwap == 0 && r.PidsLimit == nil
}

// DockerRevert returns the update that undoes update, for a container that had
// these resources before. Docker can remove any limit but memory and cpusets: if
// the container had none of these, they stay as update set them.
func DockerRevert(update container.UpdateConfig, had *runtimeapi.LinuxContainerResources) container.UpdateConfig {
	var back container.UpdateConfig
	restore := func(to *int64, changed, old, none int64) {
		switch {
		case changed == 0:
		case old != 0:
			*to = old
		default:
			*to = none
		}
	}
	restore(&back.CPUPeriod, update.CPUPeriod, had.GetCpuPeriod(), defaultCPUPeriod)
	restore(&back.CPUQuota, update.CPUQuota, had.GetCpuQuota(), unlimited)
	restore(&back.CPUShares, update.CPUShares, had.GetCpuShares(), defaultCPUShares)
	memory, swap := inDocker(had.GetMemoryLimitInBytes(), had.GetMemorySwapLimitInBytes())
	restore(&back.Memory, update.Memory, memory, 0)
	restore(&back.MemorySwap, update.MemorySwap, swap, unlimited)
	if update.CpusetCpus != "" {
		back.CpusetCpus = had.GetCpusetCpus()
	}
	if update.CpusetMems != "" {
		back.CpusetMems = had.GetCpusetMems()
	}
	if update.PidsLimit != nil {
		limit := int64(unlimited)
		if old, err := cgroupLimit(had.GetUnified()["pids.max"]); err == nil {
			limit = old
		}
		back.PidsLimit = &limit
	}
	return back
}

// MergeResources returns a copy of base with update applied: zero values of update
// change nothing, unified and hugepages are merged by key, and the amount of swap
// stays if only the memory limit changes.
func MergeResources(base, update *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	out := proto.CloneOf(base)
	if out == nil {
		out = &runtimeapi.LinuxContainerResources{}
	}
	if update == nil {
		return out
	}
	change := withMemory(update, base)
	if total, err := memorySwap("linux", change, change.MemoryLimitInBytes); err == nil {
		change.MemorySwapLimitInBytes = total // DockerUpdate refuses an invalid one
	}
	for _, limit := range change.GetHugepageLimits() {
		out.HugepageLimits = slices.DeleteFunc(out.HugepageLimits, func(l *runtimeapi.HugepageLimit) bool {
			return l.GetPageSize() == limit.GetPageSize()
		})
	}
	// Merge appends lists, and replaces map entries and scalars that are set.
	proto.Merge(out, change)
	return out
}

// currentResources returns a container's current limits: those requested at its
// creation, overridden by those Docker has in force.
func currentResources(requested *runtimeapi.LinuxContainerResources, hc *container.HostConfig) *runtimeapi.LinuxContainerResources {
	out := proto.CloneOf(requested)
	if out == nil {
		out = &runtimeapi.LinuxContainerResources{OomScoreAdj: int64(hc.OomScoreAdj)}
	}
	out.CpuPeriod = hc.CPUPeriod
	out.CpuQuota = hc.CPUQuota
	out.CpuShares = hc.CPUShares
	out.MemoryLimitInBytes = hc.Memory
	out.MemorySwapLimitInBytes = hc.MemorySwap
	out.CpusetCpus = hc.CpusetCpus
	out.CpusetMems = hc.CpusetMems
	if small := smallMemory(requested); small != nil && hc.Memory == minMemory {
		// cridock-runtime has set these; see dockerResources.
		out.MemoryLimitInBytes = small.Limit
		if hc.MemorySwap > 0 { // otherwise Docker found no swap accounting
			out.MemorySwapLimitInBytes = small.Swap
		}
	}
	return out
}
