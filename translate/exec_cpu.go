package translate

import (
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// startExecsOnFirstCPU has cridock-runtime start the processes of exec sessions on the
// first CPU of the container's cpuset, if it has one and the settings say so.
func (c *Create) startExecsOnFirstCPU(req ContainerRequest, host Host) error {
	const field = "linux.resources.cpuset_cpus"
	handler, cpus := req.runtimeHandler(), c.HostConfig.CpusetCpus
	if !host.Settings.ExecOnFirstCPU || cpus == "" {
		return nil
	}
	cpu, ok := firstCPU(cpus)
	if !ok {
		return invalid(field, "%q is not a list of CPUs", cpus)
	}
	if why := host.seamUnmet(handler); why != "" {
		return unmet(field, "exec-cpu-affinity is set, and needs %s", why)
	}
	if !runtimeFeatures(handler, host).SeamExecCPU {
		return unmet(field, "exec-cpu-affinity is set, and needs an OCI runtime that knows process.execCPUAffinity, such as runc 1.3 or crun 1.19; %q does not say that it does", runtimeName(handler, host))
	}
	c.useSeam(handler, host).ExecCPU = &cpu
	return nil
}

// ExecCPU returns the first CPU of the cpuset in r; false if r has none. r may be nil.
func ExecCPU(r *runtimeapi.LinuxContainerResources) (int, bool) {
	cpus := r.GetCpusetCpus()
	if unified, ok := r.GetUnified()["cpuset.cpus"]; ok {
		cpus = unified
	}
	return firstCPU(cpus)
}

// firstCPU returns the lowest number in a list such as 0-2,7.
func firstCPU(cpus string) (first int, ok bool) {
	first = -1
	for part := range strings.SplitSeq(cpus, ",") {
		low, _, _ := strings.Cut(strings.TrimSpace(part), "-")
		n, err := strconv.ParseUint(low, 10, 16)
		if err != nil {
			return 0, false
		}
		if first < 0 || int(n) < first {
			first = int(n)
		}
	}
	return first, true
}
