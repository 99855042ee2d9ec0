package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/needs"
	"github.com/cridock/cridock/internal/ocifeatures"
	"github.com/cridock/cridock/internal/seam"
)

// TestOCISeam runs containers with what Docker's API cannot ask for, besides user
// namespaces, through cridock-runtime.
func TestOCISeam(t *testing.T) {
	t.Parallel()
	u := newUsernsTest(t, "--default-ulimits=nofile=1000:2000", "--pod-annotations=e2e.test.*", "--device-ownership-from-security-context",
		"--privileged-without-host-devices=bounded", "--writable-cgroups=bounded", "--rdt-classes="+noRDTGroup, "--exec-cpu-affinity=first")
	disk := u.useBlockIO(t)
	_, bounded, _ := strings.Cut(boundedRuntime(t, "bounded"), "=bounded=")
	if err := os.WriteFile(filepath.Join(u.node.dir, "daemon.json"), fmt.Appendf(nil, `{"runtimes": {"bounded": {"path": %q}}}`, bounded), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := u.start(); err != nil {
		t.Fatal(err)
	}
	u.mustRegister(t)
	u.restart(t, nil)
	for name, test := range map[string]func(*testing.T){
		"little memory": u.littleMemory, "unified": u.unifiedBeforeStart, "mounts": u.seamMounts, "CDI hooks": u.cdiHooks, "not needed": u.notNeeded,
		"annotations": u.seamAnnotations, "device owners": u.deviceOwners, "privileged": u.withoutHostDevices, "cgroups": u.writableCgroups,
		"RDT": u.rdtClass, "exec CPU": u.execCPU, "huge pages": func(t *testing.T) { u.runPod(t).hugePages() },
	} {
		t.Run(name, test)
	}
	t.Run("block I/O", func(t *testing.T) { u.blockIO(t, disk) })
	u.flags = append(u.flags, "--shared-uts-namespace", "--base-runtime-spec="+u.writeBaseSpec(t))
	u.restart(t, nil)
	t.Run("host name", u.sharedHostName)
	t.Run("base", u.baseSpec)
	if left := u.records(t); len(left) > 0 {
		t.Errorf("records left behind: %v", left)
	}
}

func limited(r *runtimeapi.LinuxContainerResources) ctrOption {
	return func(cfg *runtimeapi.ContainerConfig) { cfg.Linux.Resources = r }
}

// ownMemoryLimit prints a container's limit as its kernel has it, on either cgroup
// version.
const ownMemoryLimit = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || true"

// runtimeKilled are in the errors of runc when a container's memory limit has killed its
// own process: first that on any node, then that with systemd's driver and cgroup v2.
var runtimeKilled = []string{"cannot start a stopped process", "cgroup.controllers: no such file or directory"}

// littleMemory: a limit that Docker refuses holds, exactly, and survives updates of
// other resources.
func (u *usernsTest) littleMemory(t *testing.T) {
	limit := int64(6<<20 - os.Getpagesize()) // the most that Docker refuses: the runtime's own process needs room
	p := u.runPod(t)
	start := func(name, script string, created func(*ctr)) (c *ctr, err error) {
		for attempt := range 10 {
			c = p.create(fmt.Sprint(name, attempt), script, limited(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: limit}))
			created(c)
			_, err = try(u.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: c.id})
			if err == nil || !slices.ContainsFunc(runtimeKilled, func(text string) bool { return strings.Contains(err.Error(), text) }) {
				break
			}
		}
		return c, err
	}
	c, err := start("main", ownMemoryLimit+"; sleep 1000", func(*ctr) {})
	if err != nil && strings.Contains(err.Error(), fmt.Sprintf("unable to set memory limit to %d", limit)) {
		t.Logf("the engine's runtime needs more memory itself: %v", err)
		return // it got the exact limit
	}
	if err != nil {
		t.Fatal(err)
	}
	eventuallyLog(t, c, fmt.Sprint(limit))
	check := func(when string, want int64) {
		t.Helper()
		if got := c.sh(ownMemoryLimit); got != fmt.Sprint(want) {
			t.Errorf("%s the kernel has the limit %s, want %d", when, got, want)
		}
		if got := c.status().Resources.Linux.MemoryLimitInBytes; got != want {
			t.Errorf("%s the status has the limit %d, want %d", when, got, want)
		}
	}
	check("at first", limit)
	update := func(r *runtimeapi.LinuxContainerResources) error {
		_, err := try(u.runtime.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.id, Linux: r})
		return err
	}
	if err := update(&runtimeapi.LinuxContainerResources{CpuShares: 256, MemoryLimitInBytes: limit}); err != nil {
		t.Error(err)
	}
	check("after an update of the CPU", limit)
	wantCode(t, update(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: limit - 4096}), codes.InvalidArgument, "6 MiB")
	for _, want := range []int64{6 << 20, 16 << 20} {
		if err := update(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: want}); err != nil {
			t.Error(err)
		}
		check("after an update", want)
	}
	// The record has what was updated before the start.
	early, err := start("early", ownMemoryLimit, func(c *ctr) {
		rpc(t, u.runtime.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.id, Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 6 << 20}})
	})
	if err != nil {
		t.Fatal(err)
	}
	if early.exited(); strings.TrimSpace(early.logText()) != fmt.Sprint(6<<20) {
		t.Errorf("updated before its start, a container has the limit %s", early.logText())
	}
}

// unifiedBeforeStart: the first instruction finds the limits set.
func (u *usernsTest) unifiedBeforeStart(t *testing.T) {
	p := u.runPod(t)
	with := limited(&runtimeapi.LinuxContainerResources{Unified: map[string]string{"memory.low": "4096", "memory.high": "33554432"}})
	if !u.cgroupV2() {
		_, err := p.tryCreate(p.ctrConfig("main", "true", with))
		wantCode(t, err, codes.FailedPrecondition, "cgroup v1")
		return
	}
	for i := range 5 {
		if got := p.output(fmt.Sprint("main", i), "cat /sys/fs/cgroup/memory.low /sys/fs/cgroup/memory.high", with); got != "4096\n33554432\n" {
			t.Errorf("at its start a container has %q", got)
		}
	}
}

// cgroupV2 reports whether this machine has cgroup v2 alone.
func (u *usernsTest) cgroupV2() bool {
	_, err := u.command("test", "-e", "/sys/fs/cgroup/cgroup.controllers").CombinedOutput()
	return err == nil
}

// seamMounts: options and recursive read-only of bind mounts, on every engine whose
// runtime knows them.
func (u *usernsTest) seamMounts(t *testing.T) {
	dir := filepath.Join(u.node.dir, "mounts")
	u.run(t, "sh", "-ec", "mkdir -p "+dir+"/below; mount -t tmpfs none "+dir+"/below")
	t.Cleanup(func() { u.run(t, "umount", dir+"/below") })
	if !rpc(t, u.runtime.Status, &runtimeapi.StatusRequest{}).GetFeatures().GetMountOptions() || !u.handler(t, "").GetFeatures().GetRecursiveReadOnlyMounts() {
		t.Fatal("mount_options and recursive read-only mounts are not offered")
	}
	p := u.runPod(t)
	c := p.start("main", "sleep 1000", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Mounts = []*runtimeapi.Mount{
			{HostPath: dir, ContainerPath: "/options", MountOptions: []string{"noexec", "nosuid"}},
			{HostPath: dir, ContainerPath: "/rro", Readonly: true, RecursiveReadOnly: true, MountOptions: []string{"nodev"}},
			{HostPath: dir, ContainerPath: "/ro", Readonly: true},
		}
	})
	if got := c.sh("cp /bin/busybox /options/x && /options/x true 2>/dev/null || echo noexec; for d in ro rro; do touch /$d/y 2>/dev/null || echo $d; touch /$d/below/y 2>/dev/null || echo $d/below; done"); got != "noexec\nro\nrro\nrro/below" {
		t.Errorf("%q", got)
	}
	for line := range strings.Lines(c.sh("cat /proc/mounts")) {
		f := strings.Fields(line)
		want := map[string][]string{"/options": {"rw", "noexec", "nosuid"}, "/rro": {"ro", "nodev"}}[f[1]]
		for _, option := range want {
			if !slices.Contains(strings.Split(f[3], ","), option) {
				t.Errorf("%s is mounted with %s, want %v", f[1], f[3], want)
			}
		}
	}
}

// cdiHooks: the hooks of a CDI device run as root of the node.
func (u *usernsTest) cdiHooks(t *testing.T) {
	var info struct{ CDISpecDirs []string }
	u.docker.must(t, "GET", "/info", nil, &info)
	hook, ran := filepath.Join(u.node.dir, "hook"), filepath.Join(u.node.dir, "hook-ran")
	spec := fmt.Sprintf(`{"cdiVersion":"0.5.0","kind":"e2e.test/hook","devices":[{"name":"one","containerEdits":{"hooks":[{"hookName":"createRuntime","path":%q,"args":["hook","arg"],"env":["WHO=cdi"]}]}}]}`, hook)
	u.run(t, "sh", "-ec", `mkdir -p /var/run/cdi; printf '#!/bin/sh\necho "$1 $WHO $(id -u)" >`+ran+`\n' >`+hook+`; chmod 755 `+hook+`; echo "$0" >/var/run/cdi/hook.tmp; mv /var/run/cdi/hook.tmp /var/run/cdi/hook.json`, spec)
	with := func(cfg *runtimeapi.ContainerConfig) {
		cfg.CDIDevices = []*runtimeapi.CDIDevice{{Name: "e2e.test/hook=one"}}
	}
	p := u.runPod(t)
	if got := p.output("main", "echo works", with); got != "works\n" {
		t.Errorf("%q", got)
	}
	if got := strings.TrimSpace(u.run(t, "cat", ran)); got != "arg cdi 0" {
		t.Errorf("the hook printed %q", got)
	}
	if len(info.CDISpecDirs) > 0 {
		return // it is the engine's business
	}
	u.run(t, "chmod", "777", hook)
	_, err := p.tryCreate(p.ctrConfig("writable", "true", with))
	wantCode(t, err, codes.FailedPrecondition, hook+" is writable")
}

// notNeeded: other containers do without cridock-runtime, even with the settings and
// annotations that Docker has a field for.
func (u *usernsTest) notNeeded(t *testing.T) {
	p := u.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
		cfg.Annotations = map[string]string{"shm-size.crio.io": "8Mi"}
	})
	c := p.start("main", "sleep 1000", limited(&runtimeapi.LinuxContainerResources{
		MemoryLimitInBytes: 32 << 20, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}},
	}))
	// Not those of the exec: runc raises its soft limit.
	if got := c.sh("df -k /dev/shm | awk 'NR==2 {print $2}'; awk '/^Max open files/ {print $4, $5}' /proc/1/limits"); got != "8192\n1000 2000" {
		t.Errorf("/dev/shm in KiB, and the limits of open files: %q", got)
	}
	if left := u.records(t); len(left) > 0 {
		t.Errorf("there are the records %v", left)
	}
}

// seamAnnotations: the runtime gets those of the pod that the settings select, on every
// engine.
func (u *usernsTest) seamAnnotations(t *testing.T) {
	p := u.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
		cfg.Annotations = map[string]string{"e2e.test.a": "selected", "other": "not"}
	})
	for who, info := range map[string]runtimeInfo{"sandbox": p.info(), "container": p.start("main", "sleep 1000").info()} {
		if info.RuntimeSpec == nil || info.RuntimeSpec.Annotations["e2e.test.a"] != "selected" || info.RuntimeSpec.Annotations["other"] != "" {
			t.Errorf("the runtime of the %s has %+v", who, info.RuntimeSpec)
		}
	}
}

func runAs(uid, gid int64) ctrOption {
	return func(cfg *runtimeapi.ContainerConfig) {
		cfg.Linux.SecurityContext.RunAsUser, cfg.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: uid}, &runtimeapi.Int64Value{Value: gid}
	}
}

func withDevice(host, path, permissions string) ctrOption {
	return func(cfg *runtimeapi.ContainerConfig) {
		cfg.Devices = append(cfg.Devices, &runtimeapi.Device{HostPath: host, ContainerPath: path, Permissions: permissions})
	}
}

// deviceOwners: the container's user owns the devices that it requests.
func (u *usernsTest) deviceOwners(t *testing.T) {
	p := u.runPod(t)
	node := filepath.Join(u.node.dir, "device")
	u.run(t, "mknod", "-m", "600", node, "c", "1", "5")
	if got := p.output("main", "stat -c %u:%g /dev/own /dev/full | xargs; head -c1 /dev/own | wc -c", runAs(1000, 2000), withDevice(node, "/dev/own", "r")); got != "1000:2000 0:0\n1\n" {
		t.Errorf("%q", got)
	}
	if got := p.output("root", "stat -c %u:%g /dev/own", withDevice(node, "/dev/own", "r")); got != "0:0\n" {
		t.Errorf("without a user: %q", got)
	}
	if got := u.onHost(t, "%u", node); got != "0" {
		t.Errorf("on the node it belongs to %s", got)
	}
}

// withoutHostDevices: a privileged container has the devices that it requests, and can
// use no others.
func (u *usernsTest) withoutHostDevices(t *testing.T) {
	p := u.runPodWith(t, "bounded", privilegedPod)
	const script = "ls /dev | grep -c -e loop-control -e kmsg; mknod /tmp/zero c 1 5 && head -c1 /tmp/zero | wc -c; mknod /tmp/loop c 10 237 && (: </tmp/loop) 2>/dev/null || echo denied; ls /dev/asked 2>/dev/null; mount -t tmpfs none /mnt && echo privileged"
	if got := p.output("none", "mkdir -p /mnt; "+script, privileged); got != "0\n1\ndenied\nprivileged\n" {
		t.Errorf("without devices: %q", got)
	}
	if got := p.output("asked", "mkdir -p /mnt; : </dev/asked && "+script, privileged, withDevice("/dev/loop-control", "/dev/asked", "r")); got != "0\n1\n/dev/asked\nprivileged\n" {
		t.Errorf("with a device: %q", got)
	}
	// Another handler's have all.
	if got := u.run(t, "sh", "-c", "ls -d /run/cridock/oci/* | wc -l"); strings.TrimSpace(got) != "2" {
		t.Errorf("there are %s records", got)
	}
}

// writableCgroups: a container can limit its own processes, with cgroup v2.
func (u *usernsTest) writableCgroups(t *testing.T) {
	p := u.runPodWith(t, "bounded")
	if !u.cgroupV2() {
		_, err := p.tryCreate(p.ctrConfig("main", "true"))
		wantCode(t, err, codes.FailedPrecondition, "cgroup v2")
		return
	}
	if got := p.output("main", "mkdir /sys/fs/cgroup/own && echo $$ >/sys/fs/cgroup/own/cgroup.procs && cat /proc/self/cgroup; ! ls -d /sys/fs/cgroup/../cgroup/docker 2>/dev/null"); got != "0::/own\n" {
		t.Errorf("%q", got)
	}
}

// sharedHostName: with the setting, the containers of a pod without a user namespace
// share its host name, too.
func (u *usernsTest) sharedHostName(t *testing.T) {
	p := u.runPod(t)
	first, admin := p.start("first", "sleep 1000"), p.start("admin", "sleep 1000", capability("SYS_ADMIN"))
	if got := admin.sh("hostname changed; hostname"); got != "changed" {
		t.Errorf("where it was changed it is %q", got)
	}
	later := p.start("later", "sleep 1000")
	for _, c := range []*ctr{first, later} {
		if got := c.sh("hostname"); got != "changed" {
			t.Errorf("in %s it is %q", c.cfg.Metadata.Name, got)
		}
	}
	if got := u.run(t, "hostname"); strings.TrimSpace(got) == "changed" {
		t.Error("the node has it")
	}
	host := u.runPod(t, hostNetwork)
	if got := host.output("host", "hostname"); got != u.run(t, "hostname") {
		t.Errorf("a pod with the host's network has the name %q", got)
	}
}

// writeBaseSpec writes a base specification with a hook that records its containers.
func (u *usernsTest) writeBaseSpec(t *testing.T) string {
	t.Helper()
	hook, file := filepath.Join(u.node.dir, "base-hook"), filepath.Join(u.node.dir, "base.json")
	text := fmt.Sprintf(`{"process": {"env": ["BASE=set"], "rlimits": [{"type": "RLIMIT_CORE", "soft": 4096, "hard": 8192}]},
		"linux": {"sysctl": {"net.core.somaxconn": "99", "net.ipv6.conf.lo.disable_ipv6": "1"}}, "hooks": {"createRuntime": [{"path": %q}]}}`, hook)
	u.run(t, "sh", "-ec", "printf '#!/bin/sh\\ncat >>"+hook+".log\\n' >"+hook+"; chmod 755 "+hook)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// baseSpec: all containers have what the operator adds, besides what they and their
// images ask for.
func (u *usernsTest) baseSpec(t *testing.T) {
	p := u.runPod(t)
	c := p.start("main", "echo $BASE; cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv6/conf/lo/disable_ipv6; awk '/^Max core/ {print $5, $6}' /proc/self/limits; sleep 1000")
	eventuallyLog(t, c, "4096 8192")
	if got := c.logText(); got != "set\n99\n1\n4096 8192\n" {
		t.Errorf("%q", got)
	}
	log := u.run(t, "cat", filepath.Join(u.node.dir, "base-hook.log"))
	for _, id := range []string{p.id, c.id} {
		if !strings.Contains(log, id) {
			t.Errorf("the hook was not executed for %s", id)
		}
	}
}

// useBlockIO configures a class of block I/O that limits one of the machine's disks,
// and returns the disk's number; "" without disks.
func (u *usernsTest) useBlockIO(t *testing.T) string {
	t.Helper()
	disks, err := filepath.Glob("/sys/block/*/dev")
	if err != nil || len(disks) == 0 {
		return ""
	}
	number := strings.TrimSpace(read(t, disks[len(disks)-1]))
	major, minor, _ := strings.Cut(number, ":")
	node, file := filepath.Join(u.node.dir, "disk"), filepath.Join(u.node.dir, "blockio.yaml")
	u.run(t, "mknod", node, "b", major, minor)
	if err := os.WriteFile(file, fmt.Appendf(nil, "Classes: {low: [{Devices: [%s], ThrottleReadBps: 1M}]}\n", node), 0o644); err != nil {
		t.Fatal(err)
	}
	u.flags = append(u.flags, "--blockio-config-file="+file)
	return number
}

// blockIO: the class that an annotation of the pod names limits the container.
func (u *usernsTest) blockIO(t *testing.T, disk string) {
	needs.That(t, disk != "", "the machine has no block device to limit")
	p := u.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
		cfg.Annotations = map[string]string{"blockio.resources.beta.kubernetes.io/container.main": "low", "blockio.resources.beta.kubernetes.io/pod": "unknown"}
	})
	got := p.output("main", "cat /sys/fs/cgroup/blkio/blkio.throttle.read_bps_device /sys/fs/cgroup/io.max 2>/dev/null || true")
	if !strings.Contains(got, disk+" 1000000\n") && !strings.Contains(got, disk+" rbps=1000000 ") {
		t.Errorf("%q; want 1000000 for %s", got, disk)
	}
	_, err := p.tryCreate(p.ctrConfig("other", "true"))
	wantCode(t, err, codes.InvalidArgument, "unknown class")
	if left := u.records(t); len(left) > 0 {
		t.Errorf("there are the records %v", left)
	}
}

// noRDTGroup is an RDT class that pods may name, but no group of this machine.
const noRDTGroup = "cridock-e2e-no-such-group"

// rdtClass: a class is refused if the runtime would ignore it, and so is one that does
// not exist.
func (u *usernsTest) rdtClass(t *testing.T) {
	p := u.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
		cfg.Annotations = map[string]string{"rdt.resources.beta.kubernetes.io/pod": noRDTGroup, "rdt.resources.beta.kubernetes.io/container.other": "other"}
	})
	_, err := p.tryCreate(p.ctrConfig("other", "true"))
	wantCode(t, err, codes.InvalidArgument, "unknown class")
	id, err := p.tryCreate(p.ctrConfig("main", "true"))
	if err != nil {
		wantCode(t, err, codes.FailedPrecondition, "such as runc 1.2")
		return
	}
	_, err = try(u.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("RDT class %q", noRDTGroup)) {
		t.Errorf("a container in a group that does not exist: %v", err)
	}
}

// execCPU: an exec session starts on the first CPU of the cpuset, or the container is
// refused because the runtime would ignore that.
func (u *usernsTest) execCPU(t *testing.T) {
	needs.That(t, runtime.NumCPU() > 1, "the machine has one CPU")
	p := u.runPod(t)
	main := p.ctrConfig("main", "sleep 1000", limited(&runtimeapi.LinuxContainerResources{CpusetCpus: "0-1"}))
	id, err := p.tryCreate(main)
	if err != nil {
		wantCode(t, err, codes.FailedPrecondition, "process.execCPUAffinity")
		return
	}
	rpc(t, u.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
	c := &ctr{pod: p, cfg: main, id: id}
	const allowed = "grep Cpus_allowed_list /proc/self/status"
	want := "Cpus_allowed_list:\t0"
	if kernel := strings.TrimSpace(read(t, "/proc/sys/kernel/osrelease")); !ocifeatures.AtLeast(kernel, "6.2") {
		want += "-1" // it started there
	}
	if got := c.sh(allowed); got != want {
		t.Errorf("an exec session has %q; want %q", got, want)
	}
	rpc(t, u.runtime.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{CpusetCpus: "1"}})
	if got := c.sh(allowed); got != "Cpus_allowed_list:\t1" {
		t.Errorf("after an update it has %q", got)
	}
	if !strings.Contains(read(t, filepath.Join(u.runDir, seam.Records, seam.FileName(id))), `"execCPU":1`) {
		t.Error("the record has another CPU")
	}
}
