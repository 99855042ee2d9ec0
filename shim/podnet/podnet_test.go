package podnet_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/netns"
	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/shim/podnet"
	"github.com/cridock/cridock/translate"
)

// docker knows one sandbox.
type docker struct{ state container.State }

func (d docker) ContainerInspect(context.Context, string) (container.InspectResponse, error) {
	return container.InspectResponse{ContainerJSONBase: &container.ContainerJSONBase{State: &d.state}}, nil
}

// pods is an index.
type pods []*translate.Sandbox

func (p pods) Sandboxes(context.Context) ([]*translate.Sandbox, error) { return p, nil }

func (p pods) Sandbox(_ context.Context, id string) (*translate.Sandbox, error) {
	for _, sb := range p {
		if sb.ID == id {
			return sb, nil
		}
	}
	return nil, errdefs.ErrNotFound
}

// newNetworks returns networks without CNI; change may add it.
func newNetworks(t *testing.T, d docker, change ...func(*podnet.Options)) (*podnet.Networks, podnet.Options) {
	t.Helper()
	o := podnet.Options{
		PinDir: filepath.Join(t.TempDir(), "netns"), Engine: d, Index: pods{},
		Bounded: context.WithCancel,
		Sysctls: func(cfg *runtimeapi.PodSandboxConfig) map[string]string { return cfg.GetLinux().GetSysctls() },
	}
	for _, c := range change {
		c(&o)
	}
	return podnet.New(o), o
}

// withCNI adds a CNI without configuration. It removes the pins when the test
// ends.
func withCNI(t *testing.T) func(*podnet.Options) {
	return func(o *podnet.Options) {
		dir := t.TempDir()
		cni, err := network.New(network.Config{
			ConfDir: filepath.Join(dir, "net.d"), BinDirs: []string{filepath.Join(dir, "bin")}, CacheDir: filepath.Join(dir, "cache"), NetNSDir: o.PinDir,
		})
		if err != nil {
			t.Fatal(err)
		}
		o.CNI = cni
		t.Cleanup(func() {
			for _, pin := range pins(t, *o) {
				if err := network.UnpinNetNS(filepath.Join(o.PinDir, pin)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func pins(t *testing.T, o podnet.Options) []string {
	t.Helper()
	entries, err := os.ReadDir(o.PinDir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestWithoutCNI: Docker's network is ready with the sandbox.
func TestWithoutCNI(t *testing.T) {
	n, _ := newNetworks(t, docker{})
	for name, tc := range map[string]struct {
		sandbox translate.Sandbox
		ready   bool
		ips     []string
		netns   string
	}{
		"running":      {translate.Sandbox{Running: true, Pid: 7, NetworkMode: "bridge", DockerIPs: []string{"172.17.0.2"}}, true, []string{"172.17.0.2"}, "/proc/7/ns/net"},
		"exited":       {translate.Sandbox{NetworkMode: "bridge", DockerIPs: []string{"172.17.0.2"}}, false, nil, ""},
		"host network": {translate.Sandbox{Running: true, Pid: 7, HostNetwork: true, NetworkMode: "host"}, true, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			sb := &tc.sandbox
			if got := n.Ready(sb); got != tc.ready || n.Complete(sb) != true {
				t.Errorf("Ready = %v, Complete = %v", got, n.Complete(sb))
			}
			if diff := cmp.Diff(tc.ips, n.IPs(sb)); diff != "" {
				t.Errorf("IPs (-want +got):\n%s", diff)
			}
			if got := n.NetNS(sb); got != tc.netns {
				t.Errorf("NetNS = %q, want %q", got, tc.netns)
			}
			if released, err := n.Undo(t.Context(), sb); !released || err != nil {
				t.Errorf("Undo = %v, %v", released, err)
			}
			for call, err := range map[string]error{
				"Pin": n.Pin(t.Context(), sb), "Release": n.Release(t.Context(), sb), "Forget": n.Forget(t.Context(), sb), "Sweep": n.Sweep(t.Context()),
				"HostPorts": n.HostPorts(), "Status": n.Status(t.Context()), "SetPodCIDRs": n.SetPodCIDRs("10.0.0.0/24"),
			} {
				if err != nil {
					t.Errorf("%s: %v", call, err)
				}
			}
		})
	}
}

// TestNotAttached: with CNI, a sandbox without a result is not ready; one that
// an earlier adapter had Docker connect is.
func TestNotAttached(t *testing.T) {
	n, _ := newNetworks(t, docker{}, withCNI(t))
	ours := &translate.Sandbox{ID: "ours", Running: true, Pid: os.Getpid(), NetworkMode: "none", Config: &runtimeapi.PodSandboxConfig{}}
	if n.Ready(ours) || n.Complete(ours) || n.IPs(ours) != nil {
		t.Errorf("without a CNI result: ready %v, complete %v, addresses %v", n.Ready(ours), n.Complete(ours), n.IPs(ours))
	}
	bridged := &translate.Sandbox{ID: "bridged", Running: true, NetworkMode: "bridge", DockerIPs: []string{"172.17.0.2"}}
	if !n.Ready(bridged) || len(n.IPs(bridged)) != 1 {
		t.Errorf("on Docker's bridge: ready %v, addresses %v", n.Ready(bridged), n.IPs(bridged))
	}
}

// TestPin: the namespace of a process that has reused an exited sandbox's PID
// is not kept.
func TestPin(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root: mounts a network namespace")
	}
	pid := os.Getpid()
	for name, tc := range map[string]struct {
		state  container.State
		pinned bool
	}{
		"runs":                  {container.State{Running: true, Pid: pid}, true},
		"has exited":            {container.State{}, false},
		"runs with another pid": {container.State{Running: true, Pid: pid + 1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			n, o := newNetworks(t, docker{tc.state}, withCNI(t))
			sb := &translate.Sandbox{ID: "sandbox", Running: true, Pid: pid, NetworkMode: "none", Config: &runtimeapi.PodSandboxConfig{}}
			for range 2 {
				if err := n.Pin(t.Context(), sb); err != nil {
					t.Fatal(err)
				}
			}
			if got := network.IsPinned(filepath.Join(o.PinDir, sb.ID)); got != tc.pinned {
				t.Errorf("pinned: %v, want %v", got, tc.pinned)
			}
			if got := n.LiveNetNS(sb); tc.pinned != (got == n.NetNS(sb)) || tc.pinned != (got != "") {
				t.Errorf("the namespace is at %q", got)
			}
		})
	}
}

// TestSysctls: interfaces are created with the defaults that the pod asks for, and what
// CNI resets is set again when they are there.
func TestSysctls(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes a network namespace")
	}
	const port, rpFilter, arp, ipv6, shm = "net.ipv4.ip_unprivileged_port_start", "net/ipv4/conf/default/rp_filter",
		"net.ipv4.conf.default.arp_ignore", "net.ipv6.conf.default.disable_ipv6", "kernel.shm_rmid_forced"
	n, o := newNetworks(t, docker{}, withCNI(t), func(o *podnet.Options) {
		requested := o.Sysctls
		o.Sysctls = func(cfg *runtimeapi.PodSandboxConfig) map[string]string {
			all := maps.Clone(requested(cfg))
			all[ipv6], all[arp] = "1", "2" // the node's
			return all
		}
	})
	sb := &translate.Sandbox{ID: "sandbox", NetworkMode: "none"}
	cfg := &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{Sysctls: map[string]string{
		port: "7", rpFilter: "2", "net.ipv4.conf.lo.arp_ignore": "2", "net.ipv4.conf.eth0.arp_ignore": "2", shm: "1",
	}}}
	namespace, err := n.Make(sb, cfg)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, want map[string]string) {
		t.Helper()
		err := netns.DoAt(namespace, func() error {
			for key, value := range want {
				got, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(key, ".", "/"))
				if err != nil || strings.TrimSpace(string(got)) != value {
					t.Errorf("%s, %s is %q, %v, want %s", when, key, got, err, value)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	check("before CNI runs", map[string]string{port: "7", rpFilter: "2", arp: "2", ipv6: "0", "net.ipv4.conf.lo.arp_ignore": "2"})
	if err := n.Finish(t.Context(), sb, cfg); !errors.Is(err, os.ErrNotExist) { // of eth0
		t.Errorf("without an interface: %v", err)
	}
	delete(cfg.Linux.Sysctls, "net.ipv4.conf.eth0.arp_ignore")
	if err := n.Finish(t.Context(), sb, cfg); err != nil {
		t.Fatal(err)
	}
	check("in the end", map[string]string{ipv6: "1"})
	cfg.Linux.Sysctls["net.no_such_thing"] = "1"
	if _, err := n.Make(sb, cfg); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an unknown sysctl: %v", err)
	}
	if released, err := n.Undo(t.Context(), sb); !released || err != nil || len(pins(t, o)) > 0 {
		t.Errorf("Undo = %v, %v; left: %v", released, err, pins(t, o))
	}
}

// TestSweepPins keeps the pins of existing sandboxes.
func TestSweepPins(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root: mounts a network namespace")
	}
	n, o := newNetworks(t, docker{}, withCNI(t), func(o *podnet.Options) { o.Index = pods{{ID: "live"}} })
	for _, id := range []string{"live", "gone"} {
		if err := network.PinNetNS(os.Getpid(), filepath.Join(o.PinDir, id)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(o.PinDir, "lost"), nil, 0o600); err != nil { // what a reboot leaves behind
		t.Fatal(err)
	}
	if err := n.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"live"}, pins(t, o)); diff != "" {
		t.Errorf("pins (-want +got):\n%s", diff)
	}
}

// TestOpenNetNS: the PID of an exited sandbox may belong to another process,
// and so does its network.
func TestOpenNetNS(t *testing.T) {
	pid := os.Getpid()
	for name, tc := range map[string]struct {
		state container.State
		ok    bool
	}{
		"runs":                  {container.State{Running: true, Pid: pid}, true},
		"has exited":            {container.State{}, false},
		"runs with another pid": {container.State{Running: true, Pid: pid + 1}, false},
	} {
		n, _ := newNetworks(t, docker{tc.state})
		f, err := n.OpenNetNS(t.Context(), &translate.Sandbox{ID: "sandbox", Pid: pid})
		if (err == nil) != tc.ok || !tc.ok && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v", name, err)
		}
		if f != nil {
			_ = f.Close()
		}
	}
	n, _ := newNetworks(t, docker{})
	if f, err := n.OpenNetNS(t.Context(), &translate.Sandbox{HostNetwork: true}); f != nil || err != nil {
		t.Errorf("the host's: %v, %v; want nil, nil", f, err)
	}
}

// TestReleaseOnce: DEL runs once for a sandbox, though RemovePodSandbox releases what
// StopPodSandbox has released.
func TestReleaseOnce(t *testing.T) {
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	n, _ := newNetworks(t, docker{}, func(o *podnet.Options) {
		conf, bin := filepath.Join(dir, "net.d"), filepath.Join(dir, "bin")
		for path, content := range map[string]string{
			filepath.Join(conf, "10-a.conflist"): `{"cniVersion": "1.0.0", "name": "a", "plugins": [{"type": "a"}]}`,
			filepath.Join(bin, "a"):              "#!/bin/sh\necho $CNI_COMMAND >>" + calls + "\n",
		} {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		cni, err := network.New(network.Config{ConfDir: conf, BinDirs: []string{bin}, CacheDir: filepath.Join(dir, "cache"), NetNSDir: o.PinDir})
		if err != nil {
			t.Fatal(err)
		}
		o.CNI = cni
	})
	called := func(want string) {
		t.Helper()
		got, err := os.ReadFile(calls)
		if err != nil || string(got) != want {
			t.Errorf("the plugin was called for %q, %v; want %q", got, err, want)
		}
	}
	sb := &translate.Sandbox{ID: "sandbox", NetworkMode: "none", Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "default", Uid: "uid"},
	}}
	for range 3 {
		if err := n.Release(t.Context(), sb); err != nil {
			t.Fatal(err)
		}
	}
	called("DEL\n")
	// The next sandbox is another one, even with the same ID.
	if err := n.Forget(t.Context(), sb); err != nil {
		t.Fatal(err)
	}
	if err := n.Release(t.Context(), sb); err != nil {
		t.Fatal(err)
	}
	called("DEL\nDEL\n")
}
