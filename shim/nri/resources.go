package nri

import (
	"fmt"
	"maps"
	"math"

	"github.com/containerd/nri/pkg/api"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FromCRI returns resources in the form that plugins get; nil for nil.
func FromCRI(r *runtimeapi.LinuxContainerResources) *api.LinuxResources {
	if r == nil {
		return nil
	}
	out := &api.LinuxResources{
		Cpu: &api.LinuxCPU{
			Shares: api.UInt64(max(r.GetCpuShares(), 0)), Quota: api.Int64(r.GetCpuQuota()), Period: api.UInt64(max(r.GetCpuPeriod(), 0)),
			Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems(),
		},
		Memory:  &api.LinuxMemory{Limit: api.Int64(r.GetMemoryLimitInBytes())},
		Unified: maps.Clone(r.GetUnified()),
	}
	if swap := r.GetMemorySwapLimitInBytes(); swap != 0 {
		out.Memory.Swap = api.Int64(swap)
	}
	for _, l := range r.GetHugepageLimits() {
		out.HugepageLimits = append(out.HugepageLimits, &api.HugepageLimit{PageSize: l.GetPageSize(), Limit: l.GetLimit()})
	}
	return out
}

// ToCRI returns the resources of an update by plugins. It refuses those that only a
// container's creation can set.
func ToCRI(r *api.LinuxResources) (*runtimeapi.LinuxContainerResources, error) {
	x := &adjuster{
		cfg:  &runtimeapi.ContainerConfig{Linux: &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{}}},
		in:   &api.ContainerAdjustment{Linux: &api.LinuxContainerAdjustment{Resources: r}},
		only: true,
	}
	for _, step := range []func() error{x.cpu, x.memory, x.otherResources} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("resources: %w", err)
		}
	}
	return x.cfg.Linux.Resources, nil
}

// limits returns the configuration's resources, to change.
func (x *adjuster) limits() *runtimeapi.LinuxContainerResources {
	if x.cfg.Linux == nil {
		x.cfg.Linux = &runtimeapi.LinuxContainerConfig{}
	}
	if x.cfg.Linux.Resources == nil {
		x.cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{}
	}
	return x.cfg.Linux.Resources
}

// onlyAtCreation refuses a field in an update.
func (x *adjuster) onlyAtCreation(field api.Field) error {
	if x.only {
		return refuse(field, "", "%s can only be set when a container is created", fieldName(field))
	}
	return nil
}

func signed(field api.Field, v uint64) (int64, error) {
	if v > math.MaxInt64 {
		return 0, refuse(field, "", "%d is too large", v)
	}
	return int64(v), nil
}

func (x *adjuster) cpu() error {
	c := x.linux().GetResources().GetCpu()
	if c == nil || proto.Equal(c, &api.LinuxCPU{}) {
		return nil
	}
	r := x.limits()
	var err error
	if c.Shares != nil {
		if r.CpuShares, err = signed(api.Field_CPUShares, c.Shares.GetValue()); err != nil {
			return err
		}
	}
	if c.Quota != nil {
		r.CpuQuota = c.Quota.GetValue()
	}
	if c.Period != nil {
		if r.CpuPeriod, err = signed(api.Field_CPUPeriod, c.Period.GetValue()); err != nil {
			return err
		}
	}
	if c.GetCpus() != "" {
		r.CpusetCpus = c.GetCpus()
	}
	if c.GetMems() != "" {
		r.CpusetMems = c.GetMems()
	}
	if c.RealtimeRuntime != nil {
		if err := x.onlyAtCreation(api.Field_CPURealtimeRuntime); err != nil {
			return err
		}
		x.out.Limits.RealtimeRuntime = c.RealtimeRuntime.GetValue()
	}
	if c.RealtimePeriod != nil {
		if err := x.onlyAtCreation(api.Field_CPURealtimePeriod); err != nil {
			return err
		}
		if x.out.Limits.RealtimePeriod, err = signed(api.Field_CPURealtimePeriod, c.RealtimePeriod.GetValue()); err != nil {
			return err
		}
	}
	return nil
}

func (x *adjuster) memory() error {
	m := x.linux().GetResources().GetMemory()
	if m == nil {
		return nil
	}
	if limit := m.GetLimit().GetValue(); limit != 0 {
		r := x.limits()
		r.MemoryLimitInBytes = limit
		if !x.only {
			// As in other runtimes, the container then has no swap.
			r.MemorySwapLimitInBytes = limit
			delete(r.Unified, "memory.swap.max")
		}
	}
	if m.Swap != nil {
		x.limits().MemorySwapLimitInBytes = m.Swap.GetValue()
	}
	for field, set := range map[api.Field]bool{
		api.Field_MemKernelLimit: m.Kernel != nil, api.Field_MemTCPLimit: m.KernelTcp != nil, api.Field_MemUseHierarchy: m.UseHierarchy != nil,
	} {
		if set {
			return refuse(field, "", "Linux no longer has this setting")
		}
	}
	for field, set := range map[api.Field]bool{
		api.Field_MemReservation: m.Reservation != nil, api.Field_MemSwappiness: m.Swappiness != nil, api.Field_MemDisableOomKiller: m.DisableOomKiller != nil,
	} {
		if set {
			if err := x.onlyAtCreation(field); err != nil {
				return err
			}
		}
	}
	if x.node.CgroupV2 {
		// Docker would leave them out with a warning.
		if m.Swappiness != nil {
			return refuse(api.Field_MemSwappiness, "", "cgroup v2 has no such setting")
		}
		if m.GetDisableOomKiller().GetValue() {
			return refuse(api.Field_MemDisableOomKiller, "", "cgroup v2 has no such setting")
		}
	}
	if m.Reservation != nil {
		x.out.Limits.MemoryReservation = m.Reservation.GetValue()
	}
	if m.Swappiness != nil {
		v, err := signed(api.Field_MemSwappiness, m.Swappiness.GetValue())
		if err != nil {
			return err
		}
		x.out.Limits.Swappiness = &v
	}
	if m.DisableOomKiller != nil {
		v := m.DisableOomKiller.GetValue()
		x.out.Limits.OOMKillDisable = &v
	}
	return nil
}

func (x *adjuster) otherResources() error {
	in := x.linux().GetResources()
	for _, l := range in.GetHugepageLimits() {
		r := x.limits()
		r.HugepageLimits = append(r.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: l.GetPageSize(), Limit: l.GetLimit()})
	}
	if len(in.GetUnified()) > 0 {
		r := x.limits()
		if r.Unified == nil {
			r.Unified = map[string]string{}
		}
		maps.Copy(r.Unified, in.GetUnified())
	}
	if class := in.GetBlockioClass(); class != nil {
		if err := x.onlyAtCreation(api.Field_BlockioClass); err != nil {
			return err
		}
		name := class.GetValue()
		x.out.BlockIOClass = &name
	}
	if p := in.GetPids(); p != nil {
		if err := x.onlyAtCreation(api.Field_PidsLimit); err != nil {
			return err
		}
		limit := p.GetLimit()
		x.out.Limits.Pids = &limit
	}
	if in.GetRdtClass() != nil {
		if err := x.onlyAtCreation(api.Field_RdtClass); err != nil {
			return err
		}
	}
	if adj := x.linux().GetOomScoreAdj(); adj != nil {
		x.limits().OomScoreAdj = adj.GetValue()
	}
	return x.deviceRules(in.GetDevices())
}
