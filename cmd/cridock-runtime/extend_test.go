package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
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

// TestExtendIsChecked: what an extension makes of the namespaces and devices is checked
// and changed as the engine's are.
func TestExtendIsChecked(t *testing.T) {
	for name, tc := range map[string]struct {
		spec      seam.Spec
		writable  bool
		devices   *seam.Devices
		wantFails string
	}{
		"network":         {seam.Spec{RemoveNamespaces: []specs.LinuxNamespaceType{"network"}}, false, nil, "host's network"},
		"pid":             {seam.Spec{RemoveNamespaces: []specs.LinuxNamespaceType{"pid"}}, false, nil, "host's pid"},
		"host's cgroups":  {seam.Spec{RemoveNamespaces: []specs.LinuxNamespaceType{"cgroup"}}, true, nil, "cgroup namespace of the container's own"},
		"other's cgroups": {seam.Spec{Namespaces: []specs.LinuxNamespace{{Type: "cgroup", Path: "/x"}}}, true, nil, "cgroup namespace of the container's own"},
		"another ipc":     {seam.Spec{Namespaces: []specs.LinuxNamespace{{Type: "ipc"}}}, true, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t)
			text := b.readSpec(t)
			text = strings.Replace(text, `{"type": "uts"}`, `{"type": "uts"}, {"type": "cgroup"}`, 1)
			text = strings.Replace(text, `"mounts": [`, `"mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},`, 1)
			b.writeFile(t, filepath.Join(b.bundle, specName), text, 0o644)
			b.record.Spec, b.record.WritableCgroups = &tc.spec, tc.writable
			b.writeRecord(t)
			out, message, err := b.create(t)
			if (err == nil) != (tc.wantFails == "") || !strings.Contains(message, tc.wantFails) {
				t.Errorf("%v, %s: %s; want %q", err, message, out, tc.wantFails)
			}
		})
	}
}

// TestExtendWithDevices: in a user namespace the devices of an extension become nodes as
// well, even one that differs from the host's only in its owner. Exclusive devices do
// not exclude them.
func TestExtendWithDevices(t *testing.T) {
	b := newBundle(t)
	uid := uint32(1000)
	b.record.Devices = &seam.Devices{Exclusive: true, Rules: []specs.LinuxDeviceCgroup{{Allow: true, Type: "b", Access: "r"}}}
	b.record.Spec = &seam.Spec{Devices: []specs.LinuxDevice{{Path: "/dev/made", Type: "c", Major: 1, Minor: 5}, {Path: "/dev/null", Type: "c", Major: 1, Minor: 3, UID: &uid}}}
	text := strings.Replace(b.readSpec(t), `"linux": {`, `"linux": {"devices": [{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}],`, 1)
	b.writeFile(t, filepath.Join(b.bundle, specName), text, 0o644)
	b.writeFile(t, b.record.Runtime.Path, "#!/bin/sh\ncd "+b.dir.Mounts()+"/devices && stat -c '%n %t:%T %u' *\n", 0o755)
	b.writeRecord(t)
	out, message, err := b.create(t)
	if err != nil || out != "0 1:5 100000\n1 1:3 101000\n" {
		t.Fatalf("%v, %s: %s", err, message, out)
	}
	s, err := readSpec(b.bundle)
	if err != nil {
		t.Fatal(err)
	}
	linux := object(s, "linux")
	rules, err := objects(object(linux, "resources"), "devices")
	if left, _ := objects(linux, "devices"); err != nil || len(left) > 0 {
		t.Errorf("the real runtime has the devices %v, %v", left, err)
	}
	encoded, err := json.Marshal(rules)
	const want = `[{"access":"rwm","allow":false},{"access":"r","allow":true,"type":"b"},` +
		`{"access":"rwm","allow":true,"major":1,"minor":5,"type":"c"},{"access":"rwm","allow":true,"major":1,"minor":3,"type":"c"}]`
	if err != nil || string(encoded) != want {
		t.Errorf("the rules are %s, %v; want %s", encoded, err, want)
	}
}

func (b *bundleTest) readSpec(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.bundle, specName))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
