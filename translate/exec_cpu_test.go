package translate

import (
	"maps"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/seam"
)

func execHost() Host {
	h := exampleHost
	h.Settings.ExecOnFirstCPU = true
	h.Runtimes = maps.Clone(h.Runtimes)
	features := h.Runtimes["crun"]
	features.SeamExecCPU = true
	h.Runtimes["crun"] = features
	return h
}

// withCPUs is a request for a container of crun with these resources.
func withCPUs(t *testing.T, r *runtimeapi.LinuxContainerResources) ContainerRequest {
	t.Helper()
	req := settingsRequest(t, &runtimeapi.LinuxContainerSecurityContext{})
	req.Config.Linux.Resources = r
	return req
}

func TestExecOnFirstCPU(t *testing.T) {
	two := 2
	for name, tc := range map[string]struct {
		r    *runtimeapi.LinuxContainerResources
		host Host
		want *Seam
	}{
		"a cpuset":       {&runtimeapi.LinuxContainerResources{CpusetCpus: "7,2-3"}, execHost(), &Seam{RealRuntime: "crun", Record: seam.Record{ExecCPU: &two}}},
		"unified":        {&runtimeapi.LinuxContainerResources{Unified: map[string]string{"cpuset.cpus": "2"}}, execHost(), &Seam{RealRuntime: "crun", Record: seam.Record{ExecCPU: &two}}},
		"no cpuset":      {&runtimeapi.LinuxContainerResources{CpuShares: 2}, execHost(), nil},
		"only of memory": {&runtimeapi.LinuxContainerResources{CpusetMems: "0"}, execHost(), nil},
		"not set":        {&runtimeapi.LinuxContainerResources{CpusetCpus: "2-3"}, exampleHost, nil},
	} {
		t.Run(name, func(t *testing.T) {
			created, err := DockerContainer(withCPUs(t, tc.r), tc.host)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, created.Seam); diff != "" || (created.HostConfig.Runtime == "cridock") != (tc.want != nil) {
				t.Errorf("with runtime %q: %s", created.HostConfig.Runtime, diff)
			}
		})
	}
	for want, change := range map[string]func(*Host){
		"cridock runtime install": func(h *Host) { h.SeamRuntime = "" },
		"such as runc 1.3":        func(h *Host) { h.Runtimes = exampleHost.Runtimes },
	} {
		host := execHost()
		change(&host)
		if created, err := DockerContainer(withCPUs(t, &runtimeapi.LinuxContainerResources{CpusetCpus: "1"}), host); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v, %v; want %q", created, err, want)
		}
		if _, err := DockerContainer(withCPUs(t, nil), host); err != nil {
			t.Errorf("without a cpuset: %v", err)
		}
	}
	if created, err := DockerContainer(withCPUs(t, &runtimeapi.LinuxContainerResources{CpusetCpus: "x"}), execHost()); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%+v, %v", created, err)
	}
}

func TestExecCPU(t *testing.T) {
	for cpus, want := range map[string]int{"0": 0, "3": 3, "5,1-2": 1, "1-2,0": 0, "": -1, "a": -1, "1,": -1, "-1": -1, "65536": -1} {
		got, ok := ExecCPU(&runtimeapi.LinuxContainerResources{CpusetCpus: cpus})
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %d, %t", cpus, got, ok)
		}
	}
	if got, ok := ExecCPU(nil); ok {
		t.Error(got)
	}
}
