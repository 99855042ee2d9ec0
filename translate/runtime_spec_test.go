package translate

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestDescribeSpec(t *testing.T) {
	old, shares, limit := int64(1), uint64(512), int64(1<<20)
	spec := &specs.Spec{
		Process: &specs.Process{Args: []string{"a"}, Env: []string{"TOKEN=secret=1", "EMPTY=", "BARE"}},
		Hooks:   &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/h", Env: []string{"TOKEN=secret"}}}},
		Linux: &specs.Linux{
			MaskedPaths: []string{"/proc/keys"},
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace, Path: "/proc/1/ns/ipc"}},
			Resources:   &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &old, Swap: &old, Reservation: &old}, Pids: &specs.LinuxPids{Limit: &old}},
		},
	}
	DescribeSpec(spec, "/run/netns/x", &runtimeapi.LinuxContainerResources{CpuShares: 512, MemoryLimitInBytes: 1 << 20, CpusetCpus: "0"})
	want := &specs.Spec{
		Process: &specs.Process{Args: []string{"a"}, Env: []string{"TOKEN", "EMPTY", "BARE"}},
		Hooks:   &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/h", Env: []string{"TOKEN"}}}},
		Linux: &specs.Linux{
			MaskedPaths: []string{"/proc/keys"},
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: "/run/netns/x"}, {Type: specs.IPCNamespace, Path: "/proc/1/ns/ipc"}},
			Resources: &specs.LinuxResources{
				CPU:    &specs.LinuxCPU{Shares: &shares, Cpus: "0"},
				Memory: &specs.LinuxMemory{Limit: &limit, Reservation: &old}, Pids: &specs.LinuxPids{Limit: &old},
			},
		},
	}
	if diff := cmp.Diff(want, spec); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// A joined namespace keeps its path, and nothing else changes.
	joined := &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/proc/1/ns/net"}}}}
	DescribeSpec(joined, "/run/netns/x", nil)
	if diff := cmp.Diff(&specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/proc/1/ns/net"}}}}, joined); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	DescribeSpec(&specs.Spec{}, "", &runtimeapi.LinuxContainerResources{}) // nothing to do, and no panic
}
