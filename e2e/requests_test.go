package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// profiles forbid chmod, in Docker's and in the OCI's format.
var profiles = map[string]string{
	"docker": `{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},{"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}],
 "syscalls":[{"names":["chmod","fchmod","fchmodat"],"action":"SCMP_ACT_ERRNO","args":[],"includes":{},"excludes":{}}]}`,
	"oci": `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmod","fchmodat"],"action":"SCMP_ACT_ERRNO"}]}`,
}

func localhost(file string) *runtimeapi.SecurityProfile {
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: file}
}

func TestSeccompProfiles(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	p := c.runPod(t)
	dir := t.TempDir()
	for name, profile := range profiles {
		file := filepath.Join(dir, name+".json")
		if err := os.WriteFile(file, []byte(profile), 0o600); err != nil {
			t.Fatal(err)
		}
		for form, set := range map[string]func(*runtimeapi.LinuxContainerSecurityContext){
			"new": func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.Seccomp = localhost(file) },
			"old": func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.SeccompProfilePath = "localhost/" + file },
		} {
			t.Run(name+" "+form, func(t *testing.T) {
				got := p.in(t).output(name+"-"+form, "touch /x; chmod 600 /x 2>/dev/null || echo refused; grep Seccomp: /proc/self/status",
					func(cfg *runtimeapi.ContainerConfig) { set(cfg.Linux.SecurityContext) })
				if strings.TrimSpace(got) != "refused\nSeccomp:\t2" {
					t.Errorf("got %q", got)
				}
			})
		}
	}
	broken := filepath.Join(dir, "broken.json")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, code := range map[string]codes.Code{filepath.Join(dir, "absent.json"): codes.FailedPrecondition, broken: codes.InvalidArgument} {
		_, err := p.tryCreate(p.ctrConfig("bad", "true", func(cfg *runtimeapi.ContainerConfig) { cfg.Linux.SecurityContext.Seccomp = localhost(file) }))
		wantCode(t, err, code, file)
		_, err = try(c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: c.podConfig(t, func(cfg *runtimeapi.PodSandboxConfig) {
			cfg.Linux.SecurityContext.Seccomp = localhost(file)
		})})
		wantCode(t, err, code, file)
	}
	// For the sandbox's own process.
	for want, profile := range map[string]*runtimeapi.SecurityProfile{
		"Seccomp:\t0": {ProfileType: runtimeapi.SecurityProfile_Unconfined}, "Seccomp:\t2": {ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	} {
		p := c.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) { cfg.Linux.SecurityContext.Seccomp = profile })
		if got := c.run(t, "cat", fmt.Sprintf("/proc/%d/status", c.docker.inspect(t, p.id).State.Pid)); !strings.Contains(got, want+"\n") {
			t.Errorf("the sandbox with %v has not %q:\n%s", profile, want, got)
		}
	}
}

// TestPaths: an empty list means none, not Docker's default.
func TestPaths(t *testing.T) {
	t.Parallel()
	p := sharedCridock(t, "cni").runPod(t)
	const script = `grep -c . /proc/version; grep -q ' /proc/sys proc ro' /proc/mounts && echo "read-only"; grep -c ' /proc/' /proc/mounts; grep NoNewPrivs /proc/self/status`
	none := p.output("none", script)
	if strings.TrimSpace(none) != "1\n0\nNoNewPrivs:\t0" {
		t.Errorf("without paths: %q", none)
	}
	some := p.output("some", script, func(cfg *runtimeapi.ContainerConfig) {
		cfg.Linux.SecurityContext.MaskedPaths, cfg.Linux.SecurityContext.ReadonlyPaths = []string{"/proc/version"}, []string{"/proc/sys"}
	})
	if strings.TrimSpace(some) != "0\nread-only\n2\nNoNewPrivs:\t0" {
		t.Errorf("with one of each: %q", some)
	}
}

func TestSupplementalGroupsPolicy(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	const image = "localhost/e2e/groups:1"
	c.docker.build(t, image, "FROM "+c.image+`
RUN echo "member:x:1000:1000::/:/bin/sh" >>/etc/passwd && printf 'member:x:1000:\nextra:x:50000:member\n' >>/etc/group
`)
	t.Cleanup(func() { c.docker.removeImage(t, image) })
	p := c.runPod(t)
	for _, tc := range []struct {
		name   string
		policy runtimeapi.SupplementalGroupsPolicy
		group  bool // run_as_group is set too
		want   []int64
	}{
		{"merge", runtimeapi.SupplementalGroupsPolicy_Merge, false, []int64{1000, 50000, 60000}},
		{"merge-with-a-group", runtimeapi.SupplementalGroupsPolicy_Merge, true, []int64{1000, 50000, 60000}},
		{"strict", runtimeapi.SupplementalGroupsPolicy_Strict, false, []int64{1000, 60000}},
		{"strict-with-a-group", runtimeapi.SupplementalGroupsPolicy_Strict, true, []int64{1000, 60000}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			main := p.in(t).start(tc.name, "id -G | tr ' ' '\n' | sort -n -u | xargs; sleep 1000", func(cfg *runtimeapi.ContainerConfig) {
				sc := cfg.Linux.SecurityContext
				cfg.Image.Image, sc.RunAsUser = image, &runtimeapi.Int64Value{Value: 1000}
				sc.SupplementalGroups, sc.SupplementalGroupsPolicy = []int64{60000}, tc.policy
				if tc.group {
					sc.RunAsGroup = &runtimeapi.Int64Value{Value: 1000}
				}
			})
			u := main.status().GetUser().GetLinux()
			if diff := cmp.Diff(tc.want, u.GetSupplementalGroups()); diff != "" || u.GetUid() != 1000 || u.GetGid() != 1000 {
				t.Errorf("the status has user %v: %s", u, diff)
			}
			want := strings.Trim(fmt.Sprint(tc.want), "[]")
			if got := strings.TrimSpace(main.sh("id -G | tr ' ' '\n' | sort -n -u | xargs")); got != want {
				t.Errorf("an exec has groups %q, want %q", got, want)
			}
			eventuallyLog(t, main, want)
		})
	}
	_, err := p.tryCreate(p.ctrConfig("nobody", "true", func(cfg *runtimeapi.ContainerConfig) { cfg.Linux.SecurityContext.RunAsUsername = "no-such-user" }))
	wantCode(t, err, codes.InvalidArgument, "no-such-user")
}

func TestRecursiveReadOnly(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	p := c.runPod(t)
	dir := c.path("rro")
	if err := os.MkdirAll(filepath.Join(dir, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	c.run(t, "mount", "-t", "tmpfs", "none", filepath.Join(dir, "below"))
	t.Cleanup(func() { c.run(t, "umount", filepath.Join(dir, "below")) })
	with := func(recursive bool) ctrOption {
		return func(cfg *runtimeapi.ContainerConfig) {
			cfg.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/dir", Readonly: true, RecursiveReadOnly: recursive}}
		}
	}
	const script = "touch /dir/x 2>/dev/null && echo above; touch /dir/below/x 2>/dev/null && echo below; echo end"
	if got := p.output("plain", script, with(false)); strings.TrimSpace(got) != "below\nend" {
		t.Errorf("read-only, not recursively: %q", got)
	}
	if !c.handler(t, "").GetFeatures().GetRecursiveReadOnlyMounts() {
		_, err := p.tryCreate(p.ctrConfig("recursive", script, with(true)))
		wantCode(t, err, codes.FailedPrecondition, "RROUnsupported: ")
		if message := status.Convert(err).Message(); !strings.HasPrefix(message, "RROUnsupported: ") {
			t.Errorf("%q does not begin with the reason", message)
		}
		return
	}
	main := p.start("recursive", script, with(true))
	eventuallyLog(t, main, "end")
	if got := main.logText(); strings.Contains(got, "above") || strings.Contains(got, "below") {
		t.Errorf("read-only with all below: %q", got)
	}
	if s := main.status(); !s.Mounts[0].RecursiveReadOnly {
		t.Errorf("the status has %v", s.Mounts[0])
	}
}

// handler returns what the runtime's status says about a handler.
func (c *cridock) handler(t *testing.T, name string) *runtimeapi.RuntimeHandler {
	t.Helper()
	for _, h := range rpc(t, c.runtime.Status, &runtimeapi.StatusRequest{}).RuntimeHandlers {
		if h.Name == name {
			return h
		}
	}
	t.Fatalf("there is no handler %q", name)
	return nil
}

func TestMountOptions(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	p := c.runPod(t)
	dir := t.TempDir()
	with := func(cfg *runtimeapi.ContainerConfig) {
		cfg.Mounts = []*runtimeapi.Mount{
			{HostPath: dir, ContainerPath: "/all", MountOptions: []string{"noexec", "nodev", "nosuid"}},
			{HostPath: dir, ContainerPath: "/ro", MountOptions: []string{"nodev"}, Readonly: true},
		}
	}
	const script = "grep -E ' /(all|ro) ' /proc/mounts; sleep 1000"
	if !rpc(t, c.runtime.Status, &runtimeapi.StatusRequest{}).GetFeatures().GetMountOptions() {
		_, err := p.tryCreate(p.ctrConfig("main", script, with))
		wantCode(t, err, codes.FailedPrecondition, "mounts[0].mount_options: failed precondition: needs the engine's CDI support (on by default from Docker 28.2)")
		return
	}
	main := p.start("main", script, with)
	options := map[string]string{}
	for line := range strings.Lines(main.sh("cat /proc/mounts")) {
		if f := strings.Fields(line); len(f) > 3 {
			options[f[1]] = "," + f[3] + ","
		}
	}
	for path, words := range map[string][]string{"/all": {"rw", "noexec", "nodev", "nosuid"}, "/ro": {"ro", "nodev"}} {
		for _, word := range words {
			if !strings.Contains(options[path], ","+word+",") {
				t.Errorf("%s is mounted with %s, want %v", path, options[path], words)
			}
		}
	}
	if strings.Contains(options["/ro"], "noexec") {
		t.Errorf("/ro is mounted with %s", options["/ro"])
	}
	if diff := cmp.Diff([]string{"noexec", "nodev", "nosuid"}, main.status().Mounts[0].MountOptions); diff != "" {
		t.Errorf("options in the status: %s", diff)
	}
}

// TestCDIDevices requests a device both by the field and by the older
// annotation.
func TestCDIDevices(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	p := c.runPod(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("mounted"), 0o644); err != nil {
		t.Fatal(err)
	}
	spec := fmt.Sprintf(`{"cdiVersion":"0.5.0","kind":"e2e.test/device","devices":[
 {"name":"node","containerEdits":{"env":["NODE=yes"],"deviceNodes":[{"path":"/dev/of-cdi","hostPath":"/dev/zero"}]}},
 {"name":"mount","containerEdits":{"mounts":[{"hostPath":%q,"containerPath":"/of-cdi","options":["ro","rbind"]}]}}]}`, dir)
	// Atomically, as dockerd may read it at any time.
	c.run(t, "sh", "-c", `mkdir -p /var/run/cdi && echo "$0" >/var/run/cdi/e2e.tmp && mv /var/run/cdi/e2e.tmp /var/run/cdi/e2e.json`, spec)
	got := p.output("main", "test -c /dev/of-cdi && head -c 3 /dev/of-cdi | wc -c; echo $NODE; cat /of-cdi/file; touch /of-cdi/x 2>/dev/null || echo; echo end", func(cfg *runtimeapi.ContainerConfig) {
		cfg.CDIDevices = []*runtimeapi.CDIDevice{{Name: "e2e.test/device=node"}}
		cfg.Annotations = map[string]string{"cdi.k8s.io/e2e": "e2e.test/device=mount"}
	})
	if strings.TrimSpace(got) != "3\nyes\nmounted\nend" {
		t.Errorf("got %q", got)
	}
}

func TestImageVolume(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	const image = "localhost/e2e/volume:1"
	c.docker.build(t, image, "FROM "+c.image+"\nRUN mkdir -p /data/inner && echo content >/data/inner/file\n")
	t.Cleanup(func() { c.docker.removeImage(t, image) })
	p := c.runPod(t)
	volume := func(sub string) ctrOption {
		return func(cfg *runtimeapi.ContainerConfig) {
			cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/volume", Readonly: true, Image: &runtimeapi.ImageSpec{Image: image}, ImageSubPath: sub}}
		}
	}
	for sub, file := range map[string]string{"": "/volume/data/inner/file", "data": "/volume/inner/file"} {
		got := p.output("sub-"+sub+"x", "cat "+file+"; touch /volume/x 2>/dev/null || echo read-only", volume(sub))
		if strings.TrimSpace(got) != "content\nread-only" {
			t.Errorf("sub-path %q: %q", sub, got)
		}
	}
	for sub, words := range map[string]string{"no/such": "not in image", "data/inner/file": "not a directory"} {
		_, err := p.tryCreate(p.ctrConfig("absent", "true", volume(sub)))
		wantCode(t, err, codes.FailedPrecondition, sub)
		if message := status.Convert(err).Message(); !strings.HasPrefix(message, "ImageVolumeMountFailed: ") || !strings.Contains(message, words) {
			t.Errorf("%q does not begin with the reason, or lacks %q", message, words)
		}
	}
	p.remove() // the image is in use until then
}

// TestInterfaceSysctls sets sysctls that exist only once the pod has its
// interface.
func TestInterfaceSysctls(t *testing.T) {
	onBothNetworks(t, func(t *testing.T, c *cridock) {
		p := c.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
			cfg.Linux.Sysctls = map[string]string{"net.ipv4.conf.eth0.rp_filter": "2", "net/ipv4/conf/eth0/accept_redirects": "0", "net.core.somaxconn": "77"}
			cfg.DnsConfig = nil
		})
		got := p.output("main", "cat /proc/sys/net/ipv4/conf/eth0/rp_filter /proc/sys/net/ipv4/conf/eth0/accept_redirects /proc/sys/net/core/somaxconn; grep ^nameserver /etc/resolv.conf")
		own := c.run(t, "grep", "^nameserver", "/etc/resolv.conf")
		if want := "2\n0\n77\n" + own; strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

const logLimit = time.Minute

// eventuallyLog waits for a line in a container's log.
func eventuallyLog(t *testing.T, c *ctr, line string) {
	t.Helper()
	eventually(t, "the log has "+line, logLimit, func() bool { return strings.Contains(c.logText(), line) })
}
