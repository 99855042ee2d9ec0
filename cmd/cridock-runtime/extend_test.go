package main

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cridock/cridock/internal/seam"
)

func TestExtend(t *testing.T) {
	s, err := decodeSpec([]byte(`{
		"annotations": {"keep": "1", "drop": "2"}, "process": {"args": ["x"]},
		"linux": {"namespaces": [{"type": "pid"}, {"type": "ipc", "path": "/proc/1/ns/ipc"}, {"type": "mount"}],
			"devices": [{"path": "/dev/old", "type": "c"}], "resources": {"devices": [{"allow": false, "access": "rwm"}]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	uid := uint32(7)
	if err := s.extend(&seam.Spec{
		Annotations: map[string]string{"new": "3"}, RemoveAnnotations: []string{"drop"},
		Devices:    []specs.LinuxDevice{{Path: "/dev/old", Type: "u", Major: 1, Minor: 3, UID: &uid}},
		Namespaces: []specs.LinuxNamespace{{Type: "ipc"}, {Type: "cgroup"}}, RemoveNamespaces: []specs.LinuxNamespaceType{"pid"},
		Scheduler: &specs.Scheduler{Policy: specs.SchedBatch}, IOPriority: &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE},
		Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, NetDevices: map[string]specs.LinuxNetDevice{"eth1": {Name: "net1"}},
		MemoryPolicy: &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}, IntelRdt: &specs.LinuxIntelRdt{ClosID: "gold"},
	}); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var got specs.Spec
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	major, minor := int64(1), int64(3)
	want := specs.Spec{
		Annotations: map[string]string{"keep": "1", "new": "3"},
		Process:     &specs.Process{Args: []string{"x"}, Scheduler: &specs.Scheduler{Policy: specs.SchedBatch}, IOPriority: &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE}},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: "mount"}, {Type: "ipc"}, {Type: "cgroup"}},
			Devices:    []specs.LinuxDevice{{Path: "/dev/old", Type: "u", Major: 1, Minor: 3, UID: &uid}},
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
				{Access: "rwm"}, {Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm"},
			}},
			Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, NetDevices: map[string]specs.LinuxNetDevice{"eth1": {Name: "net1"}},
			MemoryPolicy: &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}, IntelRdt: &specs.LinuxIntelRdt{ClosID: "gold"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
