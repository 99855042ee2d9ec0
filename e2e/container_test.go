package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestExit(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	// With the pod's PID namespace the container's process is not PID 1, which
	// signals of its own namespace cannot kill.
	p := c.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
		cfg.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	})
	for _, tc := range []struct {
		name, script, reason string
		code                 int32
	}{
		{"zero", "exit 0", "Completed", 0},
		{"three", "exit 3", "Error", 3},
		{"killed", "kill -KILL $$", "Error", 137},
		{"segfault", "kill -SEGV $$", "Error", 139},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := p.in(t).start(tc.name, tc.script).exited()
			if s.ExitCode != tc.code || s.Reason != tc.reason {
				t.Errorf("exit code %d, reason %q; want %d, %s", s.ExitCode, s.Reason, tc.code, tc.reason)
			}
			checkTimes(t, s)
		})
	}
}

func checkTimes(t *testing.T, s *runtimeapi.ContainerStatus) {
	t.Helper()
	now := time.Now().UnixNano()
	times := []int64{now - int64(time.Hour), s.CreatedAt, s.StartedAt, s.FinishedAt, now}
	if !slices.IsSorted(times) {
		t.Errorf("created %d, started %d, finished %d, now %d: not in order, or not in nanoseconds", s.CreatedAt, s.StartedAt, s.FinishedAt, now)
	}
	if s.StartedAt%int64(time.Second) == 0 && s.FinishedAt%int64(time.Second) == 0 {
		t.Errorf("started %d, finished %d: the fractions of seconds are lost", s.StartedAt, s.FinishedAt)
	}
}

func TestFailedStart(t *testing.T) {
	t.Parallel()
	p := sharedCridock(t, "cni").runPod(t)
	for _, tc := range []struct {
		name, command string
		code          int32
	}{
		{"missing", "/no/such/binary", 127},
		{"not-in-path", "no-such-binary", 127},
		{"not-executable", "/etc/passwd", 126},
		{"directory", "/etc", 126},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := p.in(t).create(tc.name, "", func(cfg *runtimeapi.ContainerConfig) { cfg.Command = []string{tc.command} })
			_, err := try(p.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: c.id})
			wantCode(t, err, codes.Unknown, tc.command)
			s := c.status()
			if s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != tc.code || !strings.Contains(s.Message, tc.command) {
				t.Errorf("it is %v, exit code %d, message %q; want EXITED, %d, and its command named", s.State, s.ExitCode, s.Message, tc.code)
			}
			_, err = try(p.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: c.id})
			wantCode(t, err, codes.FailedPrecondition, c.id)
		})
	}
}

func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	p := sharedCridock(t, "cni").runPod(t)
	limited, release := waitingGlutton(t)
	c := p.start("glutton", glutton, limited)
	release()
	s := c.exited()
	if s.Reason != "OOMKilled" || s.ExitCode != 137 {
		t.Errorf("reason %q, exit code %d; want OOMKilled, 137", s.Reason, s.ExitCode)
	}
}

// TestImageDefaults runs an image that sets everything it can, with none, some
// and all of it overridden.
func TestImageDefaults(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	const image = "localhost/e2e/defaults:1"
	c.docker.build(t, image, "FROM "+c.image+`
RUN mkdir /image /asked && echo "reader:x:1234:55::/:/bin/sh" >>/etc/passwd && printf 'readers:x:55:\nmore:x:77:reader\n' >>/etc/group
ENV ONE=image TWO=image
WORKDIR /image
USER reader
ENTRYPOINT ["sh", "-c", "echo \"$(pwd) $ONE $TWO $(id -u):$(id -g):$(id -G | tr ' ' '\n' | sort -n | xargs) $0 $*\""]
CMD ["zero", "one"]
`)
	t.Cleanup(func() { c.docker.removeImage(t, image) })
	p := c.runPod(t)
	for _, tc := range []struct {
		name, want string
		option     ctrOption
	}{
		{"nothing", "/image image image 1234:55:55 77 zero one", func(*runtimeapi.ContainerConfig) {}},
		{"args", "/image image image 1234:55:55 77 a b", func(cfg *runtimeapi.ContainerConfig) { cfg.Args = []string{"a", "b"} }},
		{"command", "ran", func(cfg *runtimeapi.ContainerConfig) { cfg.Command = []string{"echo", "ran"} }},
		{"env", "/image image asked 1234:55:55 77 zero one", func(cfg *runtimeapi.ContainerConfig) {
			cfg.Envs = []*runtimeapi.KeyValue{{Key: "TWO", Value: []byte("asked")}}
		}},
		{"directory", "/asked image image 1234:55:55 77 zero one", func(cfg *runtimeapi.ContainerConfig) { cfg.WorkingDir = "/asked" }},
		{"user", "/image image image 7:8:8 9 zero one", func(cfg *runtimeapi.ContainerConfig) {
			cfg.Linux.SecurityContext.RunAsUser, cfg.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 7}, &runtimeapi.Int64Value{Value: 8}
			cfg.Linux.SecurityContext.SupplementalGroups = []int64{9}
		}},
		{"name", "/image image image 0:0:0 zero one", func(cfg *runtimeapi.ContainerConfig) { cfg.Linux.SecurityContext.RunAsUsername = "root" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := p.in(t).output(tc.name, "", func(cfg *runtimeapi.ContainerConfig) { cfg.Image.Image, cfg.Command = image, nil }, tc.option)
			if strings.TrimSpace(got) != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestMounts(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	p := c.runPod(t)
	dir := t.TempDir()
	for _, name := range []string{"rw", "ro", "real"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "file"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	main := p.start("main", "sleep 1000", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Mounts = []*runtimeapi.Mount{
			{HostPath: filepath.Join(dir, "rw"), ContainerPath: "/rw"},
			{HostPath: filepath.Join(dir, "ro"), ContainerPath: "/ro", Readonly: true},
			{HostPath: filepath.Join(dir, "link"), ContainerPath: "/link"}, // follows the link
			{HostPath: filepath.Join(dir, "rw", "file"), ContainerPath: "/etc/one-file", Readonly: true},
		}
	})
	if got := main.sh("cat /rw/file /ro/file /link/file /etc/one-file"); got != "rwrorealrw" {
		t.Errorf("the container reads %q", got)
	}
	main.sh("echo written >/rw/new; ! touch /ro/new; ! touch /etc/one-file")
	if b, err := os.ReadFile(filepath.Join(dir, "rw", "new")); err != nil || string(b) != "written\n" {
		t.Errorf("on the host: %q, %v", b, err)
	}
	wantMounts := main.cfg.Mounts
	wantMounts[2].HostPath = filepath.Join(dir, "real")
	for i, m := range main.status().Mounts {
		if m.ContainerPath != wantMounts[i].ContainerPath || m.HostPath != wantMounts[i].HostPath || m.Readonly != wantMounts[i].Readonly {
			t.Errorf("status has mount %v, want %v", m, wantMounts[i])
		}
	}
}

func TestMountPropagation(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	p := c.runPod(t)
	dir := c.path("propagation")
	for _, sub := range []string{"host", "guest"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	with := func(mode runtimeapi.MountPropagation) ctrOption {
		return func(cfg *runtimeapi.ContainerConfig) {
			cfg.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/dir", Propagation: mode}}
			cfg.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
			cfg.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
		}
	}
	private := p.start("private", "sleep 1000", with(runtimeapi.MountPropagation_PROPAGATION_PRIVATE))
	slave := p.start("slave", "sleep 1000", with(runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER))
	shared := p.start("shared", "sleep 1000", with(runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL))
	has := func(ctr *ctr, sub string) bool { return strings.Contains(ctr.sh("cat /proc/mounts"), " /dir/"+sub+" ") }

	c.run(t, "mount", "-t", "tmpfs", "none", filepath.Join(dir, "host"))
	got := map[string]bool{"private": has(private, "host"), "slave": has(slave, "host"), "shared": has(shared, "host")}
	if diff := cmp.Diff(map[string]bool{"private": false, "slave": true, "shared": true}, got); diff != "" {
		t.Errorf("who sees the host's mount: %s", diff)
	}
	c.run(t, "umount", filepath.Join(dir, "host"))

	shared.sh("mount -t tmpfs none /dir/guest")
	mounts, err := c.mounts()
	if err != nil || len(containing(mounts, filepath.Join(dir, "guest"))) != 1 {
		t.Errorf("the host does not see the container's mount: %v", err)
	}
	if !has(slave, "guest") || has(private, "guest") {
		t.Error("want the container's mount in the slave and not in the private one")
	}
	shared.sh("umount /dir/guest")
	for _, ctr := range []*ctr{private, slave, shared} {
		if s := ctr.status(); len(s.Mounts) != 1 || s.Mounts[0].Propagation != ctr.cfg.Mounts[0].Propagation {
			t.Errorf("status of %s has mounts %v", ctr.cfg.Metadata.Name, s.Mounts)
		}
	}
}

func TestDevices(t *testing.T) {
	t.Parallel()
	p := sharedCridock(t, "cni").runPod(t)
	// By default, Docker does not let containers use loop devices.
	main := p.start("main", "sleep 1000", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Devices = []*runtimeapi.Device{
			{HostPath: "/dev/loop-control", ContainerPath: "/dev/readable", Permissions: "r"},
			{HostPath: "/dev/loop-control", ContainerPath: "/dev/writable", Permissions: "rw"},
		}
	})
	main.sh("test -c /dev/readable && test -c /dev/writable && : <>/dev/writable")
	dir := p.path("devices")
	p.run(t, "mkdir", "-p", dir+"/below")
	p.run(t, "mknod", dir+"/one", "c", "1", "3")
	p.run(t, "mknod", dir+"/below/two", "c", "1", "5")
	of := p.start("directory", "sleep 1000", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Devices = []*runtimeapi.Device{{HostPath: dir, ContainerPath: "/dev/all"}}
	})
	of.sh("test -c /dev/all/one && echo x >/dev/all/one && test -c /dev/all/below/two && head -c 1 /dev/all/below/two")
	other := p.start("other", "sleep 1000", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Devices = []*runtimeapi.Device{{HostPath: "/dev/loop-control", ContainerPath: "/dev/readable", Permissions: "r"}}
	})
	other.sh(": </dev/readable")
	if r, err := other.exec(longTimeout, "sh", "-c", ": <>/dev/readable"); err != nil || r.ExitCode == 0 {
		t.Errorf("a device that is mapped for reading can be written to: %v", err)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	sharedCridock(t, "cni").limits(t)
}

// limits starts a container with limits, and changes them.
func (c *cridock) limits(t *testing.T, options ...podOption) {
	p := c.runPod(t, options...)
	cpus := "0"
	if !hasController(t, "cpuset") {
		cpus = "" // Docker would discard it
	}
	main := p.start("main", "sleep 1000", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{
			MemoryLimitInBytes: 64 << 20, CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000, CpusetCpus: cpus, OomScoreAdj: 500,
		}
	})
	pid := c.docker.inspect(t, main.id).State.Pid
	checkLimits(t, c, pid, 64<<20, 512, 50000)
	if got := strings.TrimSpace(c.run(t, "cat", fmt.Sprintf("/proc/%d/oom_score_adj", pid))); got != "500" {
		t.Errorf("oom_score_adj is %s, want 500", got)
	}
	if r := main.status().GetResources().GetLinux(); r.GetMemoryLimitInBytes() != 64<<20 || r.GetCpuShares() != 512 || r.GetCpuQuota() != 50000 || r.GetCpusetCpus() != cpus {
		t.Errorf("status has resources %v", r)
	}
	rpc(t, c.runtime.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: main.id, Linux: &runtimeapi.LinuxContainerResources{
		MemoryLimitInBytes: 48 << 20, CpuShares: 256, CpuQuota: 20000, CpuPeriod: 100000,
	}})
	checkLimits(t, c, pid, 48<<20, 256, 20000)
	if r := main.status().GetResources().GetLinux(); r.GetMemoryLimitInBytes() != 48<<20 || r.GetCpuShares() != 256 || r.GetCpuQuota() != 20000 {
		t.Errorf("after the update status has resources %v", r)
	}
}

// TestHugePages: see [pod.hugePages].
func TestHugePages(t *testing.T) {
	t.Parallel()
	sharedCridock(t, "cni").runPod(t).hugePages()
}

// hugePages starts a container with a limit of huge pages, and changes it. On a node
// whose cgroups cannot limit them it runs all the same.
func (p *pod) hugePages() {
	p.t.Helper()
	limit := func(bytes uint64) *runtimeapi.LinuxContainerResources {
		return &runtimeapi.LinuxContainerResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: bytes}}}
	}
	c := p.start("huge", "sleep 1000", limited(limit(4<<20)))
	check := func(want string) {
		p.t.Helper()
		if !hasController(p.t, "hugetlb") {
			want = ""
		}
		if got := c.sh("cat /sys/fs/cgroup/hugetlb.2MB.max /sys/fs/cgroup/hugetlb/hugetlb.2MB.limit_in_bytes 2>/dev/null || true"); got != want {
			p.t.Errorf("the limit is %q, want %q", got, want)
		}
	}
	check("4194304")
	rpc(p.t, p.runtime.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c.id, Linux: limit(8 << 20)})
	check("8388608")
}

// hasController reports whether the kernel has a controller.
func hasController(t *testing.T, name string) bool {
	t.Helper()
	if b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return slices.Contains(strings.Fields(string(b)), name)
	}
	_, err := os.Stat(filepath.Join("/sys/fs/cgroup", name))
	return err == nil
}

// checkLimits checks the limits that the kernel supports.
func checkLimits(t *testing.T, c *cridock, pid, memory, shares, quota int) {
	t.Helper()
	files := map[string]string{"memory/memory.limit_in_bytes": fmt.Sprint(memory), "cpu/cpu.shares": fmt.Sprint(shares), "cpu/cpu.cfs_quota_us": fmt.Sprint(quota)}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		files = map[string]string{"/memory.max": fmt.Sprint(memory), "/cpu.max": fmt.Sprint(quota) + " 100000"}
	}
	for name, want := range files {
		controller, file, _ := strings.Cut(name, "/")
		path := filepath.Join("/sys/fs/cgroup", controller, cgroupPath(t, c, pid, controller), file)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(string(b)); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// cgroupPath finds a process's cgroup of a controller; "" means the unified
// hierarchy.
func cgroupPath(t *testing.T, c *cridock, pid int, controller string) string {
	t.Helper()
	for line := range strings.Lines(c.run(t, "cat", fmt.Sprintf("/proc/%d/cgroup", pid))) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && strings.Contains(","+f[1]+",", ","+controller+",") {
			return f[2]
		}
	}
	t.Fatalf("process %d is in no cgroup of %q", pid, controller)
	return ""
}

func TestSecurity(t *testing.T) {
	t.Parallel()
	p := sharedCridock(t, "cni").runPod(t)
	for _, tc := range []struct {
		name, script, want string
		option             func(*runtimeapi.LinuxContainerSecurityContext)
	}{
		{"user", "id -u; id -g; id -G", "1000\n0\n0 2000", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.RunAsUser, sc.SupplementalGroups = &runtimeapi.Int64Value{Value: 1000}, []int64{2000}
		}},
		{"readonly", "touch /file 2>/dev/null || echo refused", "refused", func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.ReadonlyRootfs = true }},
		{"no-caps", "grep CapEff /proc/self/status", "CapEff:\t0000000000000000", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}
		}},
		{"one-cap", "grep CapEff /proc/self/status", "CapEff:\t0000000000001000", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_ADMIN"}}
		}},
		{"no-new-privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1", func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.NoNewPrivs = true }},
		{"seccomp", "grep Seccomp: /proc/self/status", "Seccomp:\t2", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		}},
		{"unconfined", "grep Seccomp: /proc/self/status", "Seccomp:\t0", func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := p.in(t).output(tc.name, tc.script, func(cfg *runtimeapi.ContainerConfig) { tc.option(cfg.Linux.SecurityContext) })
			if strings.TrimSpace(got) != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestStopContainer(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	const image = "localhost/e2e/stopsignal:1"
	c.docker.build(t, image, "FROM "+c.image+"\nSTOPSIGNAL SIGUSR1\n")
	t.Cleanup(func() { c.docker.removeImage(t, image) })
	p := c.runPod(t)
	const traps = "trap 'echo term; exit 1' TERM; trap 'echo usr1; exit 2' USR1; trap 'echo usr2; exit 3' USR2; echo up; while :; do sleep 0.1; done"

	t.Run("the stop signal is obeyed", func(t *testing.T) {
		for _, tc := range []struct {
			name   string
			code   int32
			option ctrOption
		}{
			{"term", 1, func(*runtimeapi.ContainerConfig) {}},
			{"usr1", 2, func(cfg *runtimeapi.ContainerConfig) { cfg.Image.Image = image }},
			{"usr2", 3, func(cfg *runtimeapi.ContainerConfig) {
				cfg.Image.Image, cfg.StopSignal = image, runtimeapi.Signal_SIGNAL_SIGUSR2
			}},
		} {
			main := p.in(t).start(tc.name, traps, tc.option)
			eventually(t, "it is up", time.Minute, func() bool { return strings.Contains(main.logText(), "up") })
			main.stop(longTimeout)
			if s := main.status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != tc.code {
				t.Errorf("%s: %v, exit code %d, want %d", tc.name, s.State, s.ExitCode, tc.code)
			}
			if got := main.logText(); !strings.Contains(got, tc.name) {
				t.Errorf("%s: the log is %q", tc.name, got)
			}
			main.stop(longTimeout)
		}
	})
	t.Run("what ignores it is killed after the grace period", func(t *testing.T) {
		main := p.in(t).start("deaf", "trap '' TERM; echo up; while :; do sleep 0.1; done")
		eventually(t, "it is up", time.Minute, func() bool { return strings.Contains(main.logText(), "up") })
		start := time.Now()
		main.stop(1)
		if s, took := main.status(), time.Since(start); s.ExitCode != 137 || took < time.Second {
			t.Errorf("exit code %d after %v, want 137 after a second", s.ExitCode, took)
		}
	})
	t.Run("a shorter second grace period wins", func(t *testing.T) {
		main := p.in(t).start("deafer", "trap 'echo term' TERM; echo up; while :; do sleep 0.1; done")
		eventually(t, "it is up", time.Minute, func() bool { return strings.Contains(main.logText(), "up") })
		start, first := time.Now(), make(chan error, 1)
		go func() {
			_, err := try(c.runtime.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: main.id, Timeout: 100})
			first <- err
		}()
		eventually(t, "the signal arrives", time.Minute, func() bool { return strings.Contains(main.logText(), "term") })
		main.stop(0)
		if err := <-first; err != nil || time.Since(start) > 90*time.Second {
			t.Errorf("the first stop ends with %v after %v", err, time.Since(start))
		}
		if n := strings.Count(main.logText(), "term"); n != 1 {
			t.Errorf("the signal was sent %d times", n)
		}
	})
}

func TestTTYAndStdin(t *testing.T) {
	t.Parallel()
	p := sharedCridock(t, "cni").runPod(t)
	const script = "test -t 0 && test -t 1 && echo terminal; cat; echo end"
	if got := strings.TrimSpace(p.output("plain", script)); got != "end" {
		t.Errorf("without TTY and stdin: %q", got)
	}
	tty := p.start("tty", script, func(cfg *runtimeapi.ContainerConfig) { cfg.Tty, cfg.Stdin = true, true })
	eventually(t, "the terminal is seen", time.Minute, func() bool { return strings.Contains(tty.logText(), "terminal") })
	open := p.start("stdin", "echo up; cat; echo end", func(cfg *runtimeapi.ContainerConfig) { cfg.Stdin = true })
	eventually(t, "it is up", time.Minute, func() bool { return strings.Contains(open.logText(), "up") })
	for _, c := range []*ctr{tty, open} {
		if s := c.status(); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("%s, with stdin open, is %v", c.cfg.Metadata.Name, s.State)
		}
	}
}

// TestListAgreesWithStatus compares lists with statuses in every state.
func TestListAgreesWithStatus(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	p := c.runPod(t)
	mark := func(cfg *runtimeapi.ContainerConfig) {
		cfg.Labels, cfg.Annotations = map[string]string{"state": cfg.Metadata.Name}, map[string]string{"a": "b"}
	}
	created, running, exited := p.create("created", "true", mark), p.start("running", "sleep 1000", mark), p.start("exited", "true", mark)
	exited.exited()
	for want, ctr := range map[runtimeapi.ContainerState]*ctr{
		runtimeapi.ContainerState_CONTAINER_CREATED: created, runtimeapi.ContainerState_CONTAINER_RUNNING: running, runtimeapi.ContainerState_CONTAINER_EXITED: exited,
	} {
		s := ctr.status()
		list := rpc(t, c.runtime.ListContainers, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
			PodSandboxId: p.id, State: &runtimeapi.ContainerStateValue{State: want},
		}}).Containers
		if s.State != want || len(list) != 1 {
			t.Fatalf("%v is %v, and the filter finds %d", want, s.State, len(list))
		}
		l := list[0]
		if l.Id != s.Id || l.State != s.State || l.CreatedAt != s.CreatedAt || l.ImageRef != s.ImageRef || l.Metadata.Name != s.Metadata.Name ||
			l.Image.Image != s.Image.Image || !cmp.Equal(l.Labels, s.Labels) || !cmp.Equal(l.Annotations, s.Annotations) || l.PodSandboxId != p.id {
			t.Errorf("listed as\n%v\nand with the status\n%v", l, s)
		}
		if !cmp.Equal(s.Labels, ctr.cfg.Labels) || !cmp.Equal(s.Annotations, ctr.cfg.Annotations) || s.LogPath != ctr.logPath() {
			t.Errorf("status is %v, asked was %v", s, ctr.cfg)
		}
	}
}

// TestForeignContainer leaves alone a container that does not belong to
// Kubernetes.
func TestForeignContainer(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	var foreign struct {
		ID string `json:"Id"`
	}
	c.docker.must(t, http.MethodPost, "/containers/create", map[string]any{
		"Image": c.image, "Cmd": []string{"sleep", "1000"}, "HostConfig": map[string]any{"NetworkMode": "none"},
	}, &foreign)
	t.Cleanup(func() { c.docker.must(t, http.MethodDelete, "/containers/"+foreign.ID+"?force=1", nil, nil) })
	c.docker.must(t, http.MethodPost, "/containers/"+foreign.ID+"/start", nil, nil)

	rpc(t, c.runtime.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: foreign.ID})
	rpc(t, c.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: foreign.ID})
	rpc(t, c.runtime.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: foreign.ID})
	rpc(t, c.runtime.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: foreign.ID})
	_, err := try(c.runtime.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: foreign.ID, Cmd: []string{"true"}})
	wantCode(t, err, codes.NotFound, foreign.ID)
	_, err = try(c.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: foreign.ID})
	wantCode(t, err, codes.NotFound, foreign.ID)
	for _, l := range rpc(t, c.runtime.ListContainers, &runtimeapi.ListContainersRequest{}).Containers {
		if l.Id == foreign.ID {
			t.Error("it is listed")
		}
	}
	if pid := c.docker.inspect(t, foreign.ID).State.Pid; pid == 0 {
		t.Error("it does not run any more")
	}
}
