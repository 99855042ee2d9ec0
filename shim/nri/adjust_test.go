package nri

import (
	"errors"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/docker/docker/api/types/mount"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/seam"
	"github.com/cridock/cridock/translate"
)

const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// TestRemovedAnnotations: where cridock-runtime passes annotations on, it removes them.
func TestRemovedAnnotations(t *testing.T) {
	for _, seamUnmet := range []string{"", "the seam"} {
		node := able()
		node.Annotations, node.SeamUnmet = false, seamUnmet
		a := &api.ContainerAdjustment{}
		a.RemoveAnnotation("gone")
		_, out, err := adjust(a, node)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		if out.Spec != nil {
			got = out.Spec.RemoveAnnotations
		}
		if want := seamUnmet == ""; want != slices.Equal(got, []string{"gone"}) || len(out.RemoveAnnotations) > 0 {
			t.Errorf("without %q: %+v, %+v", seamUnmet, out, out.Spec)
		}
	}
}

// able is a node on which everything is possible.
func able() Node {
	return Node{
		Annotations: true,
		Device: func(p string) (DeviceNode, error) {
			if p != "/dev/null" {
				return DeviceNode{}, os.ErrNotExist
			}
			return DeviceNode{Type: "c", Major: 1, Minor: 3, Mode: 0o666}, nil
		},
		SpecVersion: func() string { return "1.3.0" },
	}
}

func described() *api.Container {
	return &api.Container{Id: id, Env: []string{"A=1", "B=2"}, Linux: &api.LinuxContainer{CgroupsPath: "/pods/" + id, Sysctl: map[string]string{"net.x": "1"}}}
}

func adjust(a *api.ContainerAdjustment, node Node) (*runtimeapi.ContainerConfig, *translate.Adjustment, error) {
	answer, err := newAnswer(described(), described(), a, nil)
	if err != nil {
		return nil, nil, err
	}
	return answer.Adjust(&runtimeapi.ContainerConfig{}, described(), node)
}

func TestAdjust(t *testing.T) {
	a := &api.ContainerAdjustment{}
	a.AddAnnotation("k", "v")
	a.RemoveAnnotation("gone")
	a.AddMount(&api.Mount{Type: "tmpfs", Destination: "/scratch", Options: []string{"size=1m", "mode=1777", "nosuid"}})
	a.RemoveMount("/data/")
	a.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: "/bin/h", Args: []string{"h"}, Timeout: api.Int(3)}}})
	a.AddDevice(&api.LinuxDevice{Path: "/dev/null", Type: "c", Major: 1, Minor: 3})
	a.AddDevice(&api.LinuxDevice{Path: "/dev/made", Type: "b", Major: 8, Minor: 1})
	a.AddCDIDevice(&api.CDIDevice{Name: "vendor.com/class=one"})
	a.SetLinuxMemoryLimit(64 << 20)
	a.SetLinuxCgroupsPath("/other/" + id)
	a.SetLinuxSysctl("net.y", "2")
	a.SetLinuxScheduler(&api.LinuxScheduler{Policy: api.LinuxSchedulerPolicy_SCHED_BATCH, Nice: 5})
	a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "cgroup"})
	a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW"})
	a.SetLinuxRDTClass("gold")
	cfg, out, err := adjust(a, able())
	if err != nil {
		t.Fatal(err)
	}
	if r := cfg.Linux.Resources; r.MemoryLimitInBytes != 64<<20 || r.MemorySwapLimitInBytes != 64<<20 || cfg.CDIDevices[0].Name != "vendor.com/class=one" {
		t.Errorf("the configuration is %v", cfg)
	}
	m := out.Mounts[0]
	if m.Type != mount.TypeTmpfs || m.TmpfsOptions.SizeBytes != 1<<20 || m.TmpfsOptions.Mode != 0o1777 {
		t.Errorf("the mount is %+v", m)
	}
	got := []any{out.Annotations, out.RemoveAnnotations, out.Unmount, out.Hooks, out.Devices[0].PathOnHost, len(out.Devices), out.CgroupParent, out.Sysctls}
	want := []any{map[string]string{"k": "v"}, []string{"gone"}, []string{"/data"}, []seam.Hook{{Name: "createRuntime", Path: "/bin/h", Args: []string{"h"}, Timeout: 3}}, "/dev/null", 1, "/other", map[string]string{"net.y": "2"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	spec := &seam.Spec{
		Devices: []specs.LinuxDevice{{Path: "/dev/made", Type: "b", Major: 8, Minor: 1}}, Namespaces: []specs.LinuxNamespace{{Type: "cgroup"}},
		Scheduler: &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5}, IntelRdt: &specs.LinuxIntelRdt{ClosID: "gold"},
		Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{}},
	}
	spec.Scheduler.Flags = out.Spec.Scheduler.Flags // nil or empty
	if diff := cmp.Diff(spec, out.Spec); diff != "" {
		t.Error(diff)
	}
}

// TestAdjustRDT: plugins can replace the class of annotations, remove it, and add to it.
func TestAdjustRDT(t *testing.T) {
	for name, tc := range map[string]struct {
		ask     func(*api.ContainerAdjustment)
		without bool
		want    *specs.LinuxIntelRdt
	}{
		"nothing":    {func(*api.ContainerAdjustment) {}, false, nil},
		"a class":    {func(a *api.ContainerAdjustment) { a.SetLinuxRDTClass("gold") }, true, &specs.LinuxIntelRdt{ClosID: "gold"}},
		"no class":   {func(a *api.ContainerAdjustment) { a.SetLinuxRDTClass("") }, true, nil},
		"removed":    {func(a *api.ContainerAdjustment) { a.RemoveLinuxRDT() }, true, nil},
		"a group":    {func(a *api.ContainerAdjustment) { a.SetLinuxRDTClosID("gold") }, true, &specs.LinuxIntelRdt{ClosID: "gold"}},
		"no group":   {func(a *api.ContainerAdjustment) { a.SetLinuxRDTClosID("") }, true, &specs.LinuxIntelRdt{}},
		"monitoring": {func(a *api.ContainerAdjustment) { a.SetLinuxRDTEnableMonitoring(true) }, false, &specs.LinuxIntelRdt{EnableMonitoring: true}},
	} {
		a := &api.ContainerAdjustment{}
		tc.ask(a)
		_, out, err := adjust(a, able())
		if err != nil {
			t.Fatal(name, err)
		}
		var got *specs.LinuxIntelRdt
		if out.Spec != nil {
			got = out.Spec.IntelRdt
		}
		if diff := cmp.Diff(tc.want, got); diff != "" || out.NoRDTClass != tc.without {
			t.Errorf("%s: without the annotations' class: %t; %s", name, out.NoRDTClass, diff)
		}
	}
}

// TestAdjustRefuses: each adjustment that needs what the node lacks is refused, and says
// what that is.
func TestAdjustRefuses(t *testing.T) {
	old := func(n *Node) { n.SpecVersion = func() string { return "1.0.2-dev" } }
	bare := func(n *Node) { n.SeamUnmet, n.Annotations = "the seam", false }
	for name, tc := range map[string]struct {
		node func(*Node)
		ask  func(*api.ContainerAdjustment)
		want string
	}{
		"annotation":       {bare, func(a *api.ContainerAdjustment) { a.AddAnnotation("k", "v") }, "annotations k: this needs Docker 24 (API 1.43), or the seam"},
		"namespace":        {bare, func(a *api.ContainerAdjustment) { a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "pid"}) }, "namespace pid: this needs the seam"},
		"seccomp":          {bare, func(a *api.ContainerAdjustment) { a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{}) }, "seccomp policy: this needs the seam"},
		"RDT":              {bare, func(a *api.ContainerAdjustment) { a.SetLinuxRDTClass("gold") }, "rdt class: this needs the seam"},
		"a user namespace": {nil, func(a *api.ContainerAdjustment) { a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "user"}) }, "is not one of"},
		"an old runtime":   {old, func(a *api.ContainerAdjustment) { a.SetLinuxIOPriority(&api.LinuxIOPriority{}) }, "version 1.2.0 of the specification; the container's knows 1.0.2-dev"},
		"a memory policy":  {old, func(a *api.ContainerAdjustment) { a.SetLinuxMemoryPolicy(api.MpolMode_MPOL_BIND, "0") }, "memory policy: this needs"},
		"a network device": {old, func(a *api.ContainerAdjustment) { a.AddLinuxNetDevice("eth1", &api.LinuxNetDevice{Name: "x"}) }, "linux net devices eth1"},
		"a group's name":   {nil, func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("/other/name") }, "/PARENT/" + id},
		"a pod's sysctl":   {nil, func(a *api.ContainerAdjustment) { a.SetLinuxSysctl(api.MarkForRemoval("net.x"), "") }, "other containers"},
		"a mount option": {nil, func(a *api.ContainerAdjustment) {
			a.AddMount(&api.Mount{Type: "bind", Source: "/x", Destination: "/y", Options: []string{"noexec"}})
		}, "noexec"},
		"a relative mount": {nil, func(a *api.ContainerAdjustment) { a.AddMount(&api.Mount{Type: "bind", Source: "/x", Destination: "y"}) }, "absolute"},
		"/proc":            {nil, func(a *api.ContainerAdjustment) { a.RemoveMount("/proc") }, "Docker makes this mount"},
		"a variable":       {nil, func(a *api.ContainerAdjustment) { a.AddEnv("A=B", "c") }, "not the name of a variable"},
		"denied devices": {nil, func(a *api.ContainerAdjustment) {
			a.Linux = &api.LinuxContainerAdjustment{Resources: &api.LinuxResources{Devices: []*api.LinuxDeviceCgroup{{Access: "r"}}}}
		}, "only allow"},
		"swappiness":         {func(n *Node) { n.CgroupV2 = true }, func(a *api.ContainerAdjustment) { a.SetLinuxMemorySwappiness(5) }, "cgroup v2 has no such"},
		"kernel memory":      {nil, func(a *api.ContainerAdjustment) { a.SetLinuxMemoryKernel(1) }, "no longer"},
		"a relative hook":    {nil, func(a *api.ContainerAdjustment) { a.AddHooks(&api.Hooks{Poststop: []*api.Hook{{Path: "x"}}}) }, "absolute path"},
		"a CDI device":       {nil, func(a *api.ContainerAdjustment) { a.AddCDIDevice(&api.CDIDevice{Name: "x"}) }, "vendor/class=device"},
		"a share beyond int": {nil, func(a *api.ContainerAdjustment) { a.SetLinuxCPUShares(1 << 63) }, "too large"},
		"too much":           {nil, func(a *api.ContainerAdjustment) { a.AddEnv("A", strings.Repeat("x", maxAnswer)) }, "the limit is"},
	} {
		t.Run(name, func(t *testing.T) {
			node := able()
			if tc.node != nil {
				tc.node(&node)
			}
			a := &api.ContainerAdjustment{}
			tc.ask(a)
			if _, _, err := adjust(a, node); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v; want %q", err, tc.want)
			}
		})
	}
}

// TestBlame: an error names the plugin that asked for the field.
func TestBlame(t *testing.T) {
	owners := api.NewOwningPlugins()
	for _, err := range []error{owners.ClaimAnnotation(id, "k", "10-first"), owners.ClaimSeccompPolicy(id, "20-second")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	a := Answer{owners: owners.Owners[id]}
	for _, tc := range []struct {
		err  error
		want string
	}{
		{refuse(api.Field_Annotations, "k", "why"), `NRI plugin "10-first": annotations k: why`},
		{refuse(api.Field_SeccompPolicy, "", "why"), `NRI plugin "20-second": seccomp policy: why`},
		{refuse(api.Field_Mounts, "/x", "why"), `NRI plugins ["10-first" "20-second"]: mounts /x: why`},
	} {
		var r *refusal
		if !errors.As(tc.err, &r) {
			t.Fatal(tc.err)
		}
		if err := a.blame(r); !strings.HasPrefix(err.Error(), tc.want) || !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%v; want %s", err, tc.want)
		}
	}
}

// TestRemovedVariables: the library tells of removed variables only by their absence.
func TestRemovedVariables(t *testing.T) {
	after := described()
	after.Env = []string{"B=3"}
	a, err := newAnswer(described(), after, &api.ContainerAdjustment{Env: []*api.KeyValue{{Key: "B", Value: "3"}}}, nil)
	if err != nil || a.Empty() {
		t.Fatal(a, err)
	}
	cfg, out, err := a.Adjust(&runtimeapi.ContainerConfig{Envs: []*runtimeapi.KeyValue{{Key: "A"}, {Key: "B"}}}, described(), able())
	if err != nil || len(cfg.Envs) != 1 || !slices.Equal(out.UnsetEnv, []string{"A"}) || !slices.Equal(out.Env, []string{"B=3"}) {
		t.Errorf("%v, %+v, %v", cfg, out, err)
	}
}

// FuzzAdjust: whatever plugins want, what becomes of it is bounded, has clean paths,
// and what is for cridock-runtime is what it accepts.
func FuzzAdjust(f *testing.F) {
	seed := &api.ContainerAdjustment{Args: []string{"a"}, Env: []*api.KeyValue{{Key: "-A"}, {Key: "B", Value: "\x00"}}}
	seed.AddMount(&api.Mount{Type: "bind", Source: "/../x", Destination: "/a/../../etc", Options: []string{"rbind", "ro"}})
	seed.AddDevice(&api.LinuxDevice{Path: "/dev/../x", Type: "c"})
	seed.AddHooks(&api.Hooks{Prestart: []*api.Hook{{Path: "/x", Timeout: api.Int(-1)}}})
	seed.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "pid", Path: "x"})
	seed.SetLinuxCgroupsPath("/../x/" + id)
	for _, a := range []*api.ContainerAdjustment{seed, {}} {
		b, err := proto.Marshal(a)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, seamless bool) {
		a := &api.ContainerAdjustment{}
		if proto.Unmarshal(b, a) != nil {
			return
		}
		node := able()
		if seamless {
			node.SeamUnmet, node.Annotations = "the seam", false
		}
		_, out, err := adjust(a, node)
		if err != nil {
			if len(err.Error()) > 4*maxText {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		for _, m := range out.Mounts {
			if path.Clean(m.Target) != m.Target || !path.IsAbs(m.Target) || m.Target == "/" || m.Source != "" && path.Clean(m.Source) != m.Source {
				t.Errorf("mount %+v", m)
			}
		}
		for _, d := range out.Devices {
			if d.PathOnHost != "/dev/null" {
				t.Errorf("device %+v", d)
			}
		}
		if p := out.CgroupParent; p != "" && (path.Clean(p) != p || !path.IsAbs(p) || p == "/") {
			t.Errorf("parent %q", p)
		}
		if seamless && (out.Spec != nil || len(out.Hooks) > 0) {
			t.Errorf("cridock-runtime is needed for %+v", out)
		}
		record := seam.Record{ID: id, Runtime: seam.Runtime{Path: "runc"}, Hooks: out.Hooks, Spec: out.Spec}
		if out.Spec == nil && len(out.Hooks) == 0 {
			return
		}
		if _, err := record.Encode(); err != nil && !strings.Contains(err.Error(), "bytes long") {
			t.Errorf("cridock-runtime refuses what was accepted: %v", err)
		}
	})
}
