package translate

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// DescribeSpec prepares the OCI specification of a container, as Docker made it,
// for display. It changes spec in place.
//
//   - Environment variables keep only their names, as their values may be
//     secrets and tools' output ends up in support bundles.
//   - A network namespace that the runtime made gets the path netns, which tools
//     look for; "" changes nothing.
//   - resources are the limits in force and replace those the container was
//     created with; nil keeps them. Docker does not update the specification.
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

// envNames returns the names of environment variables without their values.
func envNames(env []string) []string {
	names := make([]string, 0, len(env))
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		names = append(names, name)
	}
	return names
}

// describeResources sets the limits that can change during a container's lifetime.
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

// optional returns nil for zero, which means no limit in the CRI.
func optional[T int64 | uint64](v T) *T {
	if v == 0 {
		return nil
	}
	return &v
}
