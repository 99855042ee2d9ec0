package stats

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The container and the sandbox of testdata/v1 and testdata/v2. v1 is a machine
// with the cgroupfs driver; v2 has the systemd driver, and an init in the
// container.
const (
	appID   = "3f1c9d0a7be24f58a6c1e0d2b4937f6e8a5d4c3b2a19087f6e5d4c3b2a190876"
	pauseID = "a0b1c2d3e4f5061728394a5b6c7d8e9f00112233445566778899aabbccddeeff"
)

// fixtureTime is when fixtures are read.
var fixtureTime = time.Unix(1700000000, 0)

func fixture(t testing.TB, version string) *Collector {
	t.Helper()
	c := New(Options{
		CgroupRoot: filepath.Join("testdata", version, "cgroup"),
		ProcRoot:   filepath.Join("testdata", version, "proc"),
		SysRoot:    filepath.Join("testdata", "sys"),
	})
	c.now = func() time.Time { return fixtureTime }
	return c
}

func fixtureContainer() Container {
	return Container{
		ID: appID, Pid: 4242, Image: "registry.example/app:1", StartedAt: 1690000000_000000000,
		Attributes: &runtimeapi.ContainerAttributes{Id: appID, Metadata: &runtimeapi.ContainerMetadata{Name: "app", Attempt: 2}},
	}
}

func fixturePod(version string) Pod {
	parent := "/kubepods/besteffort/pod6f0c2d1e-9a3b-4c58-8d77-0e1f2a3b4c5d"
	if version == "v2" {
		parent = "kubepods-burstable-pod6f0c2d1e_9a3b_4c58_8d77_0e1f2a3b4c5d.slice"
	}
	return Pod{
		ID: pauseID, Pid: 4100, Image: "pause:3", CgroupParent: parent, Containers: []Container{fixtureContainer()},
		Attributes: &runtimeapi.PodSandboxAttributes{Id: pauseID, Metadata: &runtimeapi.PodSandboxMetadata{Name: "web-0", Namespace: "shop"}},
	}
}

func decimal(v uint64) string { return strconv.FormatUint(v, 10) }

func u64(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }

func wantPSI(total, fullTotal uint64, avg ...float64) *runtimeapi.PsiStats {
	return &runtimeapi.PsiStats{
		Some: &runtimeapi.PsiData{Total: total, Avg10: avg[0], Avg60: avg[1], Avg300: avg[2]},
		Full: &runtimeapi.PsiData{Total: fullTotal, Avg10: avg[3], Avg60: avg[4], Avg300: avg[5]},
	}
}

func diff(want, got proto.Message) string { return cmp.Diff(want, got, protocmp.Transform()) }

func wantContainer(version string) *runtimeapi.ContainerStats {
	at := fixtureTime.UnixNano()
	s := &runtimeapi.ContainerStats{
		Attributes: fixtureContainer().Attributes,
		Cpu:        &runtimeapi.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: u64(12345678000)},
		Memory: &runtimeapi.MemoryUsage{
			Timestamp: at, UsageBytes: u64(104857600), WorkingSetBytes: u64(104857600 - 20971520),
			AvailableBytes: u64(268435456 - (104857600 - 20971520)), RssBytes: u64(62914560),
			PageFaults: u64(54321), MajorPageFaults: u64(21),
		},
		Swap: &runtimeapi.SwapUsage{Timestamp: at, SwapUsageBytes: u64(1048576), SwapAvailableBytes: u64(67108864 - 1048576)},
	}
	if version == "v2" {
		s.Cpu.Psi = wantPSI(4500000_000, 0, 1.5, 0.75, 0.25, 0, 0, 0)
		s.Memory.Psi = wantPSI(2000100_000, 1000050_000, 0.1, 0.02, 0.01, 0.05, 0.01, 0)
		s.Io = &runtimeapi.IoUsage{Timestamp: at, Psi: wantPSI(9876543_000, 8765432_000, 3, 2, 1, 2.5, 1.5, 0.5)}
	}
	return s
}

func TestContainerStatsOfFixtures(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			got, err := fixture(t, version).Container(t.Context(), fixtureContainer())
			if err != nil {
				t.Fatal(err)
			}
			if d := diff(wantContainer(version), got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func TestPodStatsOfFixtures(t *testing.T) {
	at := fixtureTime.UnixNano()
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			faults := uint64(54321)
			eth0 := &runtimeapi.NetworkInterfaceUsage{Name: "eth0", RxBytes: u64(123456789), RxErrors: u64(3), TxBytes: u64(987654), TxErrors: u64(5)}
			want := &runtimeapi.PodSandboxStats{Attributes: fixturePod(version).Attributes, Linux: &runtimeapi.LinuxPodSandboxStats{
				Cpu: &runtimeapi.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: u64(12400000000)},
				Network: &runtimeapi.NetworkUsage{
					Timestamp:        at,
					DefaultInterface: eth0,
					Interfaces:       []*runtimeapi.NetworkInterfaceUsage{{Name: "net1", RxBytes: u64(500), RxErrors: u64(0), TxBytes: u64(600), TxErrors: u64(0)}, eth0},
				},
				Process:    &runtimeapi.ProcessUsage{Timestamp: at, ProcessCount: u64(18)},
				Containers: []*runtimeapi.ContainerStats{wantContainer(version)},
			}}
			if version == "v2" {
				faults = 55021
				want.Linux.Cpu.Psi = wantPSI(4600000_000, 100000_000, 1.5, 0.75, 0.25, 1, 0.5, 0.1)
				want.Linux.Io = wantContainer(version).Io
			}
			want.Linux.Memory = &runtimeapi.MemoryUsage{
				Timestamp: at, UsageBytes: u64(105906176), WorkingSetBytes: u64(105906176 - 20971520),
				AvailableBytes: u64(536870912 - (105906176 - 20971520)), RssBytes: u64(63045632),
				PageFaults: u64(faults), MajorPageFaults: u64(21), Psi: wantContainer(version).Memory.Psi,
			}
			got, err := fixture(t, version).Pod(t.Context(), fixturePod(version))
			if err != nil {
				t.Fatal(err)
			}
			if d := diff(want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// Docker's default parent group holds containers of all pods: its numbers are
// not one pod's.
func TestPodWithoutCgroupOfItsOwnIsTheSumOfItsContainers(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		for _, parent := range []string{"", "/docker"} {
			pod := fixturePod(version)
			pod.CgroupParent, pod.HostNetwork = parent, true
			got, err := fixture(t, version).Pod(t.Context(), pod)
			if err != nil {
				t.Fatal(err)
			}
			l := got.Linux
			if cpu := l.Cpu.UsageCoreNanoSeconds.Value; cpu != 12345678000+20000000 {
				t.Errorf("%s %q: cpu = %d", version, parent, cpu)
			}
			if mem := l.Memory.UsageBytes.Value; mem != 104857600+524288 || l.Memory.AvailableBytes != nil {
				t.Errorf("%s %q: memory = %v", version, parent, l.Memory)
			}
			if n := l.Process.ProcessCount.Value; n != 18 {
				t.Errorf("%s %q: processes = %d", version, parent, n)
			}
			if l.Network != nil || l.Cpu.Psi != nil {
				t.Errorf("%s %q: network = %v, psi = %v, want none", version, parent, l.Network, l.Cpu.Psi)
			}
		}
	}
}

// edit copies testdata/<version> and applies changes: file name to content,
// "-" removes.
func edit(t *testing.T, version string, changes map[string]string) *Collector {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", version))); err != nil {
		t.Fatal(err)
	}
	for pattern, content := range changes {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: no such file: %v", pattern, err)
		}
		for _, name := range names {
			err := os.WriteFile(name, []byte(content), 0o600)
			if content == "-" {
				err = os.RemoveAll(name)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return New(Options{CgroupRoot: dir + "/cgroup", ProcRoot: dir + "/proc", SysRoot: "testdata/sys"})
}

func TestWhatTheKernelLacksIsAbsent(t *testing.T) {
	scope := "cgroup/kubepods.slice/*/*/docker-3f1c*"
	c := edit(t, "v2", map[string]string{
		scope + "/*.pressure":     "-",
		scope + "/memory.swap.*":  "-",
		scope + "/memory.max":     "max\n",
		scope + "/memory.stat":    "anon 1\ninactive_file 999999999999\n",
		scope + "/memory.current": "4096\n",
	})
	got, err := c.Container(t.Context(), fixtureContainer())
	if err != nil {
		t.Fatal(err)
	}
	if got.Cpu.Psi != nil || got.Memory.Psi != nil || got.Io != nil {
		t.Errorf("pressure of a kernel without: %v", got)
	}
	if got.Swap != nil {
		t.Errorf("swap = %v, want none", got.Swap)
	}
	if got.Memory.AvailableBytes != nil {
		t.Errorf("available = %v without a limit", got.Memory.AvailableBytes)
	}
	if ws := got.Memory.WorkingSetBytes.Value; ws != 0 {
		t.Errorf("working set = %d, want the floor 0", ws)
	}
}

func TestUnlimitedVersion1HasNeitherAvailableNorSwapAvailable(t *testing.T) {
	c := edit(t, "v1", map[string]string{
		"cgroup/memory/kubepods/*/*/3f1c*/memory.*limit_in_bytes": "9223372036854771712\n",
	})
	got, err := c.Container(t.Context(), fixtureContainer())
	if err != nil {
		t.Fatal(err)
	}
	if got.Memory.AvailableBytes != nil || got.Swap.SwapAvailableBytes != nil {
		t.Errorf("available = %v, swap available = %v", got.Memory.AvailableBytes, got.Swap.SwapAvailableBytes)
	}
}

func TestMemoryControllerOff(t *testing.T) {
	c := edit(t, "v2", map[string]string{"cgroup/kubepods.slice/*/*/docker-3f1c*/memory.*": "-"})
	got, err := c.Container(t.Context(), fixtureContainer())
	if err != nil {
		t.Fatal(err)
	}
	if got.Memory != nil || got.Swap != nil || got.Cpu == nil {
		t.Errorf("stats = %v", got)
	}
}

func TestGoneAndForeignProcesses(t *testing.T) {
	group := map[string]string{"v1": "cgroup/*/kubepods/*/*/3f1c*", "v2": "cgroup/kubepods.slice/*/*/docker-3f1c*"}
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			c := edit(t, version, map[string]string{"proc/4242": "-"})
			if _, err := c.Container(t.Context(), fixtureContainer()); !errdefs.IsNotFound(err) {
				t.Errorf("no process: %v, want NotFound", err)
			}
			if len(c.targets) != 0 {
				t.Errorf("%d containers remembered that were never there", len(c.targets))
			}

			c = edit(t, version, map[string]string{group[version]: "-"})
			if _, err := c.Container(t.Context(), fixtureContainer()); !errdefs.IsNotFound(err) {
				t.Errorf("no cgroup: %v, want NotFound", err)
			}

			// The PID was reused by a process of another container.
			ctr := fixtureContainer()
			ctr.Pid = 4100
			if _, err := c.Container(t.Context(), ctr); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("another's process: %v, want FailedPrecondition", err)
			}
			c.opts.Fallback = func(_ context.Context, got Container) (*runtimeapi.ContainerStats, error) {
				return &runtimeapi.ContainerStats{Attributes: got.Attributes}, nil
			}
			if s, err := c.Container(t.Context(), ctr); err != nil || s.Attributes.Id != appID {
				t.Errorf("fallback: %v, %v", s, err)
			}

			pod := fixturePod(version)
			pod.Pid = 4242
			if _, err := c.PodMetrics(t.Context(), pod); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("another's sandbox process: %v, want FailedPrecondition", err)
			}
		})
	}
}

// A sandbox's process may exit and its PID be reused after its cgroup was
// found: another pod's network must not be reported.
func TestNetworkIsNotReadOfAnotherProcess(t *testing.T) {
	c := fixture(t, "v2")
	pod := fixturePod("v2")
	if _, err := c.Pod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	c.opts.ProcRoot = t.TempDir()
	other := filepath.Join(c.opts.ProcRoot, "4100")
	for name, content := range map[string]string{"cgroup": "0::/system.slice/sshd.service\n", "net/dev": " eth0: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(other, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(other, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := c.Pod(t.Context(), pod); !errdefs.IsNotFound(err) {
		t.Errorf("got %v, %v, want NotFound", got.GetLinux().GetNetwork(), err)
	}
}

func TestListsLeaveOutWhatIsGone(t *testing.T) {
	c := fixture(t, "v2")
	dead := fixtureContainer()
	dead.ID, dead.Pid = strings.Repeat("0", 64), 9999
	list, err := c.Containers(t.Context(), []Container{dead, fixtureContainer(), dead})
	if err != nil || len(list) != 1 || list[0].Attributes.Id != appID {
		t.Errorf("containers = %v, %v", list, err)
	}
	deadPod := fixturePod("v2")
	deadPod.ID, deadPod.Pid = strings.Repeat("1", 64), 9999
	pods, err := c.Pods(t.Context(), []Pod{deadPod, fixturePod("v2")})
	if err != nil || len(pods) != 1 || pods[0].Attributes.Id != pauseID {
		t.Errorf("pods = %v, %v", pods, err)
	}
	metrics, err := c.PodsMetrics(t.Context(), []Pod{deadPod, fixturePod("v2")})
	if err != nil || len(metrics) != 1 || metrics[0].PodSandboxId != pauseID {
		t.Errorf("metrics = %v, %v", metrics, err)
	}
}

func TestNanoCoresNeedTwoReadingsASecondApart(t *testing.T) {
	var r rate
	at := time.Unix(1000, 0)
	for _, step := range []struct {
		after time.Duration
		usage uint64
		want  *runtimeapi.UInt64Value
	}{
		{0, 100, nil},
		{500 * time.Millisecond, 1e9, nil},       // too soon
		{time.Second, 1e9 + 100, u64(1e9)},       // one core
		{1500 * time.Millisecond, 5e9, u64(1e9)}, // too soon: the last rate
		{3 * time.Second, 2e9 + 100, u64(5e8)},   // half a core
		{5 * time.Second, 10, nil},               // restarted
		{6 * time.Second, 10 + 2e9, u64(2e9)},
	} {
		if d := cmp.Diff(step.want, r.update(at.Add(step.after), step.usage), protocmp.Transform()); d != "" {
			t.Errorf("after %v: -want +got:\n%s", step.after, d)
		}
	}
}

func TestForgetAndNewProcess(t *testing.T) {
	c := fixture(t, "v2")
	if _, err := c.Container(t.Context(), fixtureContainer()); err != nil {
		t.Fatal(err)
	}
	c.now = func() time.Time { return fixtureTime.Add(10 * time.Second) }
	if s, err := c.Container(t.Context(), fixtureContainer()); err != nil || s.Cpu.UsageNanoCores == nil {
		t.Errorf("second reading: %v, %v, want nano cores", s, err)
	}
	c.Forget(appID)
	if s, err := c.Container(t.Context(), fixtureContainer()); err != nil || s.Cpu.UsageNanoCores != nil {
		t.Errorf("after Forget: %v, %v, want no nano cores", s, err)
	}
	c.now = func() time.Time { return fixtureTime.Add(time.Hour) }
	c.forgetUnasked()
	if len(c.targets) != 0 {
		t.Errorf("%d containers remembered that nobody asked for in an hour", len(c.targets))
	}
	c.Forget("unknown")
}

func TestMountRootOfVersion1InsideAContainer(t *testing.T) {
	h := &hierarchies{
		root:        "/sys/fs/cgroup",
		controllers: map[string]string{"memory": "/sys/fs/cgroup/memory", "cpuacct": "/sys/fs/cgroup/cpuacct"},
		mountRoots:  map[string]string{"/sys/fs/cgroup/memory": "/docker/outer"},
	}
	g, err := h.find("inner", []byte("4:memory:/docker/outer/docker/inner\n3:cpuacct:/docker/inner\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := g.(*v1Group); got.memoryDir != "/sys/fs/cgroup/memory/docker/inner" || got.cpuacctDir != "/sys/fs/cgroup/cpuacct/docker/inner" {
		t.Errorf("group = %+v", got)
	}
}

func TestContainerGroup(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{"/kubepods/pod1/abc", "/kubepods/pod1/abc"},
		{"/x.slice/docker-abc.scope", "/x.slice/docker-abc.scope"},
		{"/x.slice/docker-abc.scope/init.scope/a", "/x.slice/docker-abc.scope"},
		{"/../../pod1/abc/sub", "/pod1/abc"},
		{"/kubepods/pod1/ab", ""},
		{"/", ""},
	} {
		if got, _ := containerGroup("abc", c.name); got != c.want {
			t.Errorf("containerGroup(%q) = %q, want %q", c.name, got, c.want)
		}
	}
}

func TestCPUShares(t *testing.T) {
	for weight, want := range map[uint64]uint64{0: 0, 1: 2, 39: 998, 10000: 262144} {
		if got := cpuShares(weight); got != want {
			t.Errorf("cpuShares(%d) = %d, want %d", weight, got, want)
		}
	}
}

func TestMetricsOfFixtures(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			c := fixture(t, version)
			got, err := c.PodMetrics(t.Context(), fixturePod(version))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", version, "metrics.golden"), flatten(t, c, got))
		})
	}
}

// flatten writes metrics as Prometheus would, sorted.
func flatten(t *testing.T, c *Collector, m *runtimeapi.PodSandboxMetrics) string {
	t.Helper()
	keys := map[string][]string{}
	for _, d := range c.Descriptors() {
		keys[d.Name] = d.LabelKeys
	}
	all := slices.Clone(m.Metrics)
	for _, ctr := range m.ContainerMetrics {
		all = append(all, ctr.Metrics...)
	}
	var lines []string
	for _, metric := range all {
		labels := keys[metric.Name]
		if len(labels) != len(metric.LabelValues) {
			t.Errorf("%s: labels %v, values %v", metric.Name, labels, metric.LabelValues)
			continue
		}
		var b strings.Builder
		b.WriteString(strings.ToLower(metric.MetricType.String()) + " " + metric.Name)
		for i, v := range metric.LabelValues {
			v = strings.NewReplacer(appID, "APP", pauseID, "PAUSE").Replace(v)
			if i := strings.LastIndex(v, "/"); strings.HasPrefix(v, "/kube") && i > 0 {
				v = "…" + v[i:]
			}
			b.WriteString(" " + labels[i] + "=" + v)
		}
		lines = append(lines, b.String()+" "+decimal(metric.Value.Value))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (UPDATE_GOLDEN=1 rewrites it): -want +got:\n%s", name, d)
	}
}

func TestBlockDeviceNames(t *testing.T) {
	root := t.TempDir()
	dir := root + "/dev/block/8:1"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/uevent", []byte("MAJOR=8\nMINOR=1\nDEVNAME=sda1\nDEVTYPE=partition\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &blockDevices{root: root}
	if got := b.name(8, 1); got != "/dev/sda1" {
		t.Errorf("8:1 is %q", got)
	}
	if got := b.name(0, 45); got != "0:45" {
		t.Errorf("0:45 is %q", got)
	}
}

func TestHugePageSizes(t *testing.T) {
	if d := cmp.Diff([]string{"1GB", "2MB"}, hugePageSizes("testdata/sys")); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if got := pageSize(64); got != "64KB" {
		t.Errorf("64 KiB are %q", got)
	}
}

func TestUpperDirOfMounts(t *testing.T) {
	p, err := openProcess("testdata/v2/proc", 4242)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if got := p.root().upper; got != "/var/lib/docker/overlay2/0c9f/diff" {
		t.Errorf("upper directory = %q", got)
	}
}

// Kernels before 5.19 do not keep cgroup v2's peak: then it is the highest
// value seen.
func TestPeakThatTheKernelDoesNotKeep(t *testing.T) {
	c := edit(t, "v2", map[string]string{"cgroup/kubepods.slice/*/*/docker-3f1c*/memory.peak": "-"})
	tg, g, err := c.target(appID, 4242, "")
	if err != nil {
		t.Fatal(err)
	}
	tg.highest(1 << 40)
	r := newRecorder(fixturePod("v2"), "", "", "", "")
	if err := r.container(c, tg, g); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(r.list, func(m *runtimeapi.Metric) bool { return m.Name == "container_memory_max_usage_bytes" })
	if i < 0 || r.list[i].Value.Value != 1<<40 {
		t.Errorf("peak is not the highest seen: %v", r.list)
	}
}
