package e2e

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPodLifecycle(t *testing.T) {
	onBothNetworks(t, func(t *testing.T, c *cridock) {
		p := c.runPod(t)
		s := p.status()
		want := &runtimeapi.PodSandboxStatus{
			State: runtimeapi.PodSandboxState_SANDBOX_READY, Labels: p.cfg.Labels, Annotations: p.cfg.Annotations,
		}
		if s.State != want.State || !cmp.Equal(s.Labels, want.Labels) || !cmp.Equal(s.Annotations, want.Annotations) || s.Metadata.Uid != p.cfg.Metadata.Uid {
			t.Errorf("status is %v", s)
		}
		checkAddresses(t, c, p, s.GetNetwork())
		checkCNI(t, c, p)

		server := p.start("server", `echo "$HOSTNAME $(hostname)" >/tmp/index.html; exec httpd -f -p 8080 -h /tmp`)
		got := p.output("client", "for i in $(seq 600); do wget -qO- http://localhost:8080/ && exit; sleep 0.1; done; exit 1")
		if name := p.cfg.Hostname; strings.TrimSpace(lastLine(got)) != name+" "+name {
			t.Errorf("the server says %q, want its hostname twice, %s", got, name)
		}
		listed := rpc(t, c.runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: p.cfg.Labels}}).Items
		if len(listed) != 1 || listed[0].Id != p.id || listed[0].State != runtimeapi.PodSandboxState_SANDBOX_READY || listed[0].CreatedAt != s.CreatedAt {
			t.Errorf("listed is %v", listed)
		}
		checkStopped(t, p, server)
	})
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// checkCNI runs CNI CHECK on a pod without host ports: portmap 1.1 fails for
// pods with host ports.
func checkCNI(t *testing.T, c *cridock, p *pod) {
	t.Helper()
	verbose := rpc(t, c.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true}).Info["info"]
	if c.plugin == "cni" && !strings.Contains(verbose, `"cniCheck":"ok"`) {
		t.Errorf("CNI CHECK is not content: %s", verbose)
	}
}

// checkAddresses checks that the addresses in the status are the pod's own.
func checkAddresses(t *testing.T, c *cridock, p *pod, n *runtimeapi.PodSandboxNetworkStatus) {
	t.Helper()
	subnets, count := []string{"10.77.0.0/16", "fd77::/64"}, 2
	if c.plugin == "docker" {
		subnets, count = []string{"172.17.0.0/16"}, 1
	}
	ips := []string{n.GetIp()}
	for _, ip := range n.GetAdditionalIps() {
		ips = append(ips, ip.Ip)
	}
	if len(ips) != count {
		t.Fatalf("addresses are %v, want one of each of %v", ips, subnets)
	}
	if held, err := c.addresses(p.id); c.plugin == "cni" && (err != nil || !sameLines(strings.Join(held, "\n"), strings.Join(ips, "\n"))) {
		t.Errorf("host-local holds %v (%v) for the pod, want %v", held, err, ips)
	}
	seen := c.run(t, "nsenter", "--net=/proc/"+fmt.Sprint(c.docker.inspect(t, p.id).State.Pid)+"/ns/net", "ip", "-o", "addr", "show", "eth0")
	for i, ip := range ips {
		if a, err := netip.ParseAddr(ip); err != nil || !netip.MustParsePrefix(subnets[i]).Contains(a) {
			t.Errorf("address %d is %q (%v), want one of %s", i, ip, err, subnets[i])
		}
		if !strings.Contains(seen, " "+ip+"/") {
			t.Errorf("the pod has not %s but:\n%s", ip, seen)
		}
	}
}

// checkStopped stops a pod, twice, and removes it, twice.
func checkStopped(t *testing.T, p *pod, running *ctr) {
	t.Helper()
	c := p.cridock
	p.stop()
	s := p.status()
	if s.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY || s.GetNetwork().GetIp() != "" {
		t.Errorf("stopped, the sandbox is %v with address %q", s.State, s.GetNetwork().GetIp())
	}
	if s := running.status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 137 {
		t.Errorf("the container of the stopped pod is %v, exit code %d; want killed", s.State, s.ExitCode)
	}
	if ips, err := c.addresses(p.id); err != nil || len(ips) > 0 {
		t.Errorf("the stopped pod holds %v, %v", ips, err)
	}
	if pins, _ := filesBelow(c.netns()); len(containing(pins, p.id)) > 0 {
		t.Error("the stopped pod's network namespace is still pinned")
	}
	_, err := p.tryCreate(p.ctrConfig("late", "true"))
	wantCode(t, err, codes.FailedPrecondition, "not ready")
	p.remove()
	p.remove()
	_, err = try(c.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
	wantCode(t, err, codes.NotFound, p.id)
	_, err = try(c.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: running.id})
	wantCode(t, err, codes.NotFound, running.id)
}

func TestRunPodSandboxTwice(t *testing.T) {
	onBothNetworks(t, func(t *testing.T, c *cridock) {
		p := c.runPod(t)
		again := rpc(t, c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: p.cfg}).PodSandboxId
		if again != p.id {
			t.Errorf("the same request made %s and then %s", p.id, again)
		}
		if s := p.status(); s.State != runtimeapi.PodSandboxState_SANDBOX_READY || s.GetNetwork().GetIp() == "" {
			t.Errorf("afterwards the sandbox is %v", s)
		}
	})
}

// TestPodsReachEachOther: a pod connects to another by each of its addresses.
func TestPodsReachEachOther(t *testing.T) {
	onBothNetworks(t, func(t *testing.T, c *cridock) {
		server, client := c.runPod(t), c.runPod(t)
		server.start("server", "echo reached >/tmp/index.html; exec httpd -f -p [::]:8080 -h /tmp")
		n := server.status().Network
		hosts := []string{n.Ip}
		for _, ip := range n.AdditionalIps {
			hosts = append(hosts, "["+ip.Ip+"]")
		}
		for i, host := range hosts {
			got := client.output(fmt.Sprint("client", i), "for i in $(seq 600); do wget -qO- http://"+host+":8080/ && exit; sleep 0.1; done; exit 1")
			if lastLine(got) != "reached" {
				t.Errorf("over %s: %q", host, got)
			}
		}
	})
}

func TestPodSettings(t *testing.T) {
	onBothNetworks(t, func(t *testing.T, c *cridock) {
		p := c.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
			cfg.DnsConfig = &runtimeapi.DNSConfig{
				Servers: []string{"10.96.0.10", "10.96.0.11"}, Searches: []string{"e2e.svc.cluster.local", "svc.cluster.local"}, Options: []string{"ndots:5"},
			}
			cfg.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "80"}
			cfg.Linux.CgroupParent = "/" + cfg.Metadata.Uid
			// Registered before the pod's own cleanup, so that it runs after that.
			t.Cleanup(func() { removeCgroup(t, cfg.Linux.CgroupParent) })
		})
		main := p.start("main", "sleep 1000")
		for script, want := range map[string]string{
			"cat /etc/resolv.conf":                              "nameserver 10.96.0.10\nnameserver 10.96.0.11\nsearch e2e.svc.cluster.local svc.cluster.local\noptions ndots:5",
			"cat /proc/sys/kernel/shm_rmid_forced":              "1",
			"cat /proc/sys/net/ipv4/ip_unprivileged_port_start": "80",
			"hostname": p.cfg.Hostname,
		} {
			if got := main.sh(script); !sameLines(got, want) {
				t.Errorf("%s: %q, want %q", script, got, want)
			}
		}
		for _, id := range []string{p.id, main.id} {
			pid := c.docker.inspect(t, id).State.Pid
			if cgroups := c.run(t, "cat", fmt.Sprintf("/proc/%d/cgroup", pid)); !strings.Contains(cgroups, p.cfg.Linux.CgroupParent+"/"+id) {
				t.Errorf("container %s is not below %s:\n%s", id, p.cfg.Linux.CgroupParent, cgroups)
			}
		}
	})
}

// removeCgroup removes the part of a pod's cgroup that the kubelet owns.
func removeCgroup(t *testing.T, path string) {
	t.Helper()
	dirs, err := globs("/sys/fs/cgroup"+path, "/sys/fs/cgroup/*"+path)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if err := os.Remove(dir); err != nil {
			t.Errorf("cgroup of the pod: %v", err)
		}
	}
}

// sameLines reports whether two texts have the same lines, in any order.
func sameLines(a, b string) bool {
	x, y := strings.Split(strings.TrimSpace(a), "\n"), strings.Split(strings.TrimSpace(b), "\n")
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

// TestNamespaces compares the namespaces of a pod's containers with the node's,
// with the sandbox's, and with each other's.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	const host, shared, own = runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_CONTAINER
	for _, tc := range []struct {
		name          string
		net, pid, ipc runtimeapi.NamespaceMode
	}{
		{"of the pod", shared, own, shared},
		{"shared processes", shared, shared, shared},
		{"of the node", host, host, host},
		{"network of the node", host, own, shared},
	} {
		t.Run(tc.name, func(t *testing.T) {
			onBothNetworks(t, func(t *testing.T, c *cridock) {
				p := c.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
					cfg.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: tc.net, Pid: tc.pid, Ipc: tc.ipc}
				})
				a, b := p.start("a", "sleep 1000"), p.start("b", "sleep 1000")
				checkNamespace(t, p, "net", tc.net, a, b)
				checkNamespace(t, p, "ipc", tc.ipc, a, b)
				checkNamespace(t, p, "pid", tc.pid, a, b)
				s := p.status()
				if hasIP := s.GetNetwork().GetIp() != ""; hasIP == (tc.net == host) {
					t.Errorf("network is %v, address %q", tc.net, s.GetNetwork().GetIp())
				}
				if o := s.GetLinux().GetNamespaces().GetOptions(); o.GetNetwork() != tc.net || o.GetPid() != tc.pid || o.GetIpc() != tc.ipc {
					t.Errorf("status has namespaces %v", o)
				}
			})
		})
	}
}

func checkNamespace(t *testing.T, p *pod, kind string, mode runtimeapi.NamespaceMode, a, b *ctr) {
	t.Helper()
	c := p.cridock
	of := func(id string) string {
		return c.run(t, "readlink", fmt.Sprintf("/proc/%d/ns/%s", c.docker.inspect(t, id).State.Pid, kind))
	}
	node, sandbox, first, second := c.run(t, "readlink", "/proc/1/ns/"+kind), of(p.id), of(a.id), of(b.id)
	switch mode {
	case runtimeapi.NamespaceMode_NODE:
		if first != node || second != node || sandbox != node {
			t.Errorf("%s namespaces are not the node's: %s%s%s%s", kind, node, sandbox, first, second)
		}
	case runtimeapi.NamespaceMode_POD:
		if first != sandbox || second != sandbox || sandbox == node {
			t.Errorf("%s namespaces are not the pod's: %s%s%s%s", kind, node, sandbox, first, second)
		}
	default:
		if first == second || first == sandbox || first == node {
			t.Errorf("%s namespaces are not the containers' own: %s%s%s%s", kind, node, sandbox, first, second)
		}
	}
}

func TestHostPort(t *testing.T) {
	onBothNetworks(t, func(t *testing.T, c *cridock) {
		p := c.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
			cfg.PortMappings = []*runtimeapi.PortMapping{
				{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 8080, HostPort: 18080},
				{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 8080, HostPort: 18081, HostIp: "127.0.0.2"},
			}
		})
		p.start("server", "echo through the host >/tmp/index.html; exec httpd -f -p 8080 -h /tmp")
		for _, address := range []string{"127.0.0.1:18080", "127.0.0.2:18081"} {
			eventually(t, address+" answers", time.Minute, func() bool {
				resp, err := c.http().Get("http://" + address + "/")
				if err == nil {
					_ = resp.Body.Close()
				}
				return err == nil && resp.StatusCode == http.StatusOK
			})
		}
		if conn, err := c.dial(t.Context(), "tcp", "127.0.0.1:18081"); err == nil {
			_ = conn.Close()
			t.Error("a port for one host address is open on another")
		}
		p.stop()
		if conn, err := c.dial(t.Context(), "tcp", "127.0.0.1:18080"); err == nil {
			_ = conn.Close()
			t.Error("the port of a stopped pod is still open")
		}
	})
}

// TestHostPortOfProtocols checks the rules only: not every kernel has SCTP
// sockets, and busybox has no SCTP client.
func TestHostPortOfProtocols(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	protocols := map[string]runtimeapi.Protocol{"tcp": runtimeapi.Protocol_TCP, "udp": runtimeapi.Protocol_UDP, "sctp": runtimeapi.Protocol_SCTP}
	p := c.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
		for _, protocol := range protocols {
			cfg.PortMappings = append(cfg.PortMappings, &runtimeapi.PortMapping{Protocol: protocol, ContainerPort: 9899, HostPort: 19899})
		}
	})
	targets, err := c.rules("--to-destination " + p.status().Network.Ip + ":9899")
	if err != nil {
		t.Fatal(err)
	}
	for name := range protocols {
		if !slices.ContainsFunc(targets, func(rule string) bool {
			return strings.Contains(rule, "-p "+name+" ") && strings.Contains(rule, "--dport 19899 ")
		}) {
			t.Errorf("no rule for %s among %q", name, targets)
		}
	}
	p.remove()
	c.checkGone(t, p.cfg.Metadata.Uid, p.id)
}
