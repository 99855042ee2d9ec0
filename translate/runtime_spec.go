package translate

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// DescribeSpec prepares the OCI specification that Docker made of a container to
// be shown: in place, and without what cannot be shown.
//
//   - Environment variables keep their names only, as their values may be
//     secrets and answers to tools end up in support bundles.
//   - A network namespace that the runtime made gets the path netns; "" changes
//     nothing. One without a path would be no use to those who look for it.
//   - resources are in force now and replace what the container was created with;
//     nil keeps it. Docker does not update the specification.
func DescribeSpec(spec *specs.Spec, netns string, resources *runtimeapi.LinuxContainerResources) {
	if spec.Process != nil {
		spec.Process.Env = envNames(spec.Process.Env)
	}
	if h := spec.Hooks; h != nil {
		for _, hooks := range [][]specs.Hook{h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop} { //nolint:staticcheck // Docker still sets Prestart
			for i := range hooks {
				hooks[i].Env = envNames(hooks[i].Env)
			}
		}
	}
	if spec.Linux == nil {
		return
	}
	for i, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace && ns.Path == "" {
			spec.Linux.Namespaces[i].Path = netns
		}
	}
	if resources != nil {
		if spec.Linux.Resources == nil {
			spec.Linux.Resources = &specs.LinuxResources{}
		}
		describeResources(spec.Linux.Resources, resources)
	}
}

// envNames cuts the values off.
func envNames(env []string) []string {
	names := make([]string, 0, len(env))
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		names = append(names, name)
	}
	return names
}

// describeResources sets the limits that can change during a container's life.
func describeResources(out *specs.LinuxResources, r *runtimeapi.LinuxContainerResources) {
	if out.CPU == nil {
		out.CPU = &specs.LinuxCPU{}
	}
	if out.Memory == nil {
		out.Memory = &specs.LinuxMemory{}
	}
	cpu, memory := out.CPU, out.Memory
	cpu.Shares, cpu.Quota, cpu.Period = optional(uint64(max(r.GetCpuShares(), 0))), optional(r.GetCpuQuota()), optional(uint64(max(r.GetCpuPeriod(), 0)))
	cpu.Cpus, cpu.Mems = r.GetCpusetCpus(), r.GetCpusetMems()
	memory.Limit, memory.Swap = optional(r.GetMemoryLimitInBytes()), optional(r.GetMemorySwapLimitInBytes())
}

// optional is nil for zero, which means no limit in the CRI.
func optional[T int64 | uint64](v T) *T {
	if v == 0 {
		return nil
	}
	return &v
}
