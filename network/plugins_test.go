package network

import (
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/cridock/cridock/internal/netns"
)

// inNetNSExec runs plugins in a namespace that stands in for the host's, so
// that bridges and iptables rules stay in it.
type inNetNSExec struct {
	pluginExec
	host string
}

func (e *inNetNSExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) (out []byte, err error) {
	err = netns.DoAt(e.host, func() error {
		out, err = e.pluginExec.ExecPlugin(ctx, path, stdin, environ)
		return err
	})
	return out, err
}

// realNode returns a node with Debian's plugins and its own host namespace.
func realNode(t *testing.T) (n *node, host, ipamDir string) {
	t.Helper()
	return realNodeWith(t, "/usr/lib/cni", "1.0.0")
}

// realNodeWith is realNode with the plugins of a directory, and more plugins in
// the chain.
func realNodeWith(t *testing.T, binDir, cniVersion string, more ...string) (n *node, host, ipamDir string) {
	t.Helper()
	for _, plugin := range []string{"bridge", "host-local", "portmap", "tuning", "loopback"} {
		if _, err := os.Stat(filepath.Join(binDir, plugin)); err != nil {
			t.Fatalf("needs the CNI plugins (Debian: containernetworking-plugins): %v", err)
		}
	}
	n = newNode(t)
	dir := t.TempDir()
	host, ipamDir = filepath.Join(dir, "host"), filepath.Join(dir, "ipam")
	newNetNS(t, host)
	if err := prepareNetNS(host); err != nil {
		t.Fatal(err)
	}
	n.cfg.BinDirs = []string{binDir}
	n.cfg.Exec = &inNetNSExec{host: host}
	n.writeConf("10-real.conflist", fmt.Sprintf(`{
 "cniVersion": %q, "name": "real",
 "plugins": [
  {"type": "bridge", "bridge": "crbr0", "isGateway": true, "ipMasq": true,
   "capabilities": {"ipRanges": true},
   "ipam": {"type": "host-local", "dataDir": %q, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}},
  {"type": "tuning", "sysctl": {"net.core.somaxconn": "99"}}%s
 ]}`, cniVersion, ipamDir, strings.Join(append([]string{""}, more...), ",\n  ")))
	return n, host, ipamDir
}

// leases returns the addresses that host-local has reserved.
func leases(t *testing.T, ipamDir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(ipamDir, "real", "[0-9f]*"))
	if err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, f := range files {
		addresses = append(addresses, filepath.Base(f))
	}
	return addresses
}

// rules returns the NAT rules of the namespace.
func rules(t *testing.T, host string) string {
	t.Helper()
	var out []byte
	err := netns.DoAt(host, func() (err error) {
		out, err = exec.Command("iptables-save", "-t", "nat").CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("iptables-save: %v: %s", err, out)
	}
	return string(out)
}

// addressesIn returns the global addresses of eth0.
func addressesIn(t *testing.T, path string) []string {
	t.Helper()
	var found []string
	err := netns.DoAt(path, func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addresses, err := eth0.Addrs()
		for _, a := range addresses {
			if ip := a.(*net.IPNet).IP; ip.IsGlobalUnicast() {
				found = append(found, ip.String())
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestRealPlugins(t *testing.T) {
	n, host, ipamDir := realNode(t)
	c := n.start()
	if err := c.Status(t.Context()); err != nil {
		t.Fatalf("Status: %v", err)
	}
	if err := c.SetPodCIDRs("10.201.7.0/24,fd00:c:1d::/64"); err != nil {
		t.Fatal(err)
	}
	rt := n.pod("a")
	if err := SetSysctls(rt.NetNS, map[string]string{"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"}); err != nil {
		t.Fatal(err)
	}
	got, err := c.Setup(t.Context(), rt)
	if err != nil {
		t.Fatalf("Setup: %v", err)
	}
	if len(got.IPs) != 2 || !strings.HasPrefix(got.IPs[0], "10.201.7.") || !strings.HasPrefix(got.IPs[1], "fd00:c:1d::") {
		t.Errorf("IPs = %v, want one of each range in order", got.IPs)
	}
	if have := addressesIn(t, rt.NetNS); !slices.Equal(have, got.IPs) {
		t.Errorf("eth0 has %v, Setup said %v", have, got.IPs)
	}
	if err := SetSysctls(rt.NetNS, map[string]string{"net.ipv4.conf.eth0.rp_filter": "2"}); err != nil {
		t.Errorf("sysctl of the new interface: %v", err)
	}
	if text := rules(t, host); !strings.Contains(text, "--dport 8080") {
		t.Errorf("no rule for the host port:\n%s", text)
	}

	// The next process finds no configuration.
	n.removeConf("10-real.conflist")
	c = n.start()
	if a, ok := c.Attachment("a"); !ok || !slices.Equal(a.IPs, got.IPs) {
		t.Errorf("after a restart: %+v, %v", a, ok)
	}
	for range 2 {
		if err := c.Teardown(t.Context(), &libcni.RuntimeConf{ContainerID: "a", IfName: "eth0"}); err != nil {
			t.Fatalf("Teardown: %v", err)
		}
	}
	if left := leases(t, ipamDir); len(left) != 0 {
		t.Errorf("addresses leaked: %v", left)
	}
	if text := rules(t, host); strings.Contains(text, "8080") || strings.Contains(text, got.IPs[0]) {
		t.Errorf("rules leaked:\n%s", text)
	}
}

// A pod of another runtime whose result cache is lost keeps its addresses and
// releases everything that it has.
func TestAdoptRealPod(t *testing.T) {
	n, host, ipamDir := realNode(t)
	c := n.start()
	if err := c.SetPodCIDRs("10.201.8.0/24,fd00:c:1e::/64"); err != nil {
		t.Fatal(err)
	}
	rt := n.pod("a")
	if a, ok := c.Adopt("a", rt.NetNS); ok {
		t.Errorf("before there is an interface: %+v", a)
	}
	made, err := c.Setup(t.Context(), rt)
	if err != nil {
		t.Fatalf("Setup: %v", err)
	}
	if a, ok := c.Adopt("a", "/no/such/namespace"); !ok || a != made {
		t.Errorf("with a record: %+v, %v", a, ok)
	}
	for _, f := range n.files() {
		if err := os.Remove(filepath.Join(n.cfg.CacheDir, f)); err != nil {
			t.Fatal(err)
		}
	}
	c = n.start()
	if _, ok := c.Attachment("a"); ok {
		t.Error("there is an attachment without a cache")
	}
	if a, ok := c.Adopt("a", rt.NetNS); !ok || !slices.Equal(a.IPs, made.IPs) || a.Network != "real" {
		t.Errorf("adopted: %+v, %v; want %v", a, ok, made.IPs)
	}
	if _, ok := c.Attachment("a"); !ok {
		t.Error("it is forgotten at once")
	}
	if err := c.Teardown(t.Context(), rt); err != nil {
		t.Fatalf("Teardown: %v", err)
	}
	if a, ok := c.Adopt("a", rt.NetNS); ok {
		t.Errorf("after the end: %+v", a)
	}
	if left := leases(t, ipamDir); len(left) != 0 {
		t.Errorf("addresses leaked: %v", left)
	}
	if text := rules(t, host); strings.Contains(text, "8080") || strings.Contains(text, made.IPs[0]) {
		t.Errorf("rules leaked:\n%s", text)
	}
}

// Without its namespace, a pod still releases what it holds outside.
func TestRealPluginsWithoutNamespace(t *testing.T) {
	n, host, ipamDir := realNode(t)
	c := n.start()
	if err := c.SetPodCIDRs("10.201.9.0/24"); err != nil {
		t.Fatal(err)
	}
	rt := n.pod("a")
	if _, err := c.Setup(t.Context(), rt); err != nil {
		t.Fatalf("Setup: %v", err)
	}
	if len(leases(t, ipamDir)) != 1 || !strings.Contains(rules(t, host), "--dport 8080") {
		t.Errorf("Setup left leases %v and rules\n%s", leases(t, ipamDir), rules(t, host))
	}
	if err := UnpinNetNS(rt.NetNS); err != nil {
		t.Fatal(err)
	}
	if err := c.Teardown(t.Context(), rt); err != nil {
		t.Fatalf("Teardown: %v", err)
	}
	if left := leases(t, ipamDir); len(left) != 0 {
		t.Errorf("addresses leaked: %v", left)
	}
	if text := rules(t, host); strings.Contains(text, "8080") {
		t.Errorf("port rules leaked:\n%s", text)
	}
}

// CHECK detects that the interface has been removed. The pod has no host ports:
// portmap 1.1 always expects the rules of both IP versions.
func TestRealPluginsCheck(t *testing.T) {
	n, _, _ := realNode(t)
	c := n.start()
	if err := c.SetPodCIDRs("10.201.10.0/24"); err != nil {
		t.Fatal(err)
	}
	rt := n.pod("a")
	rt.CapabilityArgs = nil
	if _, err := c.Setup(t.Context(), rt); err != nil {
		t.Fatalf("Setup: %v", err)
	}
	if err := c.Check(t.Context(), rt); err != nil {
		t.Errorf("Check: %v", err)
	}
	err := netns.DoAt(rt.NetNS, func() error { return exec.Command("ip", "link", "delete", "eth0").Run() })
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context(), rt); err == nil || !strings.Contains(err.Error(), `network "real": CNI CHECK: `) {
		t.Errorf("Check without the interface = %v", err)
	}
	if err := c.Teardown(t.Context(), rt); err != nil {
		t.Errorf("Teardown: %v", err)
	}
}

// The last plugin of the chain fails after the others have reserved an address,
// a port and an interface.
func TestRealPluginsRollBack(t *testing.T) {
	n, host, ipamDir := realNode(t)
	path := filepath.Join(n.cfg.ConfDir, "10-real.conflist")
	conf, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n.writeConf("10-real.conflist", strings.Replace(string(conf), "net.core.somaxconn", "net.core.no_such_thing", 1))
	c := n.start()
	if err := c.SetPodCIDRs("10.201.8.0/24"); err != nil {
		t.Fatal(err)
	}
	rt := n.pod("a")
	if _, err := c.Setup(t.Context(), rt); err == nil || !strings.Contains(err.Error(), "tuning") || !strings.Contains(err.Error(), `"real"`) {
		t.Fatalf("Setup error = %v, want one naming plugin and network", err)
	}
	if left := leases(t, ipamDir); len(left) != 0 {
		t.Errorf("addresses leaked: %v", left)
	}
	if text := rules(t, host); strings.Contains(text, "8080") {
		t.Errorf("rules leaked:\n%s", text)
	}
	if left := n.files(); len(left) != 0 {
		t.Errorf("files left behind: %v", left)
	}
	err = netns.DoAt(rt.NetNS, func() error {
		if links, err := net.Interfaces(); err != nil || len(links) != 1 {
			t.Errorf("interfaces left in the sandbox: %v, %v", links, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

const bandwidthPlugin = `{"type": "bandwidth", "capabilities": {"bandwidth": true}}`

// TestRealPluginsBandwidth sets the maximum burst, as translate does.
func TestRealPluginsBandwidth(t *testing.T) {
	n, host, _ := realNodeWith(t, "/usr/lib/cni", "1.0.0", bandwidthPlugin)
	c := n.start()
	if err := c.SetPodCIDRs("10.201.12.0/24"); err != nil {
		t.Fatal(err)
	}
	rt := n.pod("a")
	rt.CapabilityArgs = map[string]any{"bandwidth": map[string]any{
		"ingressRate": 1000000, "ingressBurst": math.MaxInt32, "egressRate": 2000000, "egressBurst": math.MaxInt32,
	}}
	if _, err := c.Setup(t.Context(), rt); err != nil {
		t.Fatalf("Setup: %v", err)
	}
	qdiscs := func() (text string) {
		t.Helper()
		err := netns.DoAt(host, func() error {
			out, err := exec.Command("tc", "qdisc").CombinedOutput()
			text = string(out)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if text := qdiscs(); !strings.Contains(text, "rate 1Mbit") || !strings.Contains(text, "rate 2Mbit") {
		t.Errorf("the limits are not there:\n%s", text)
	}
	if err := c.Teardown(t.Context(), rt); err != nil {
		t.Errorf("Teardown: %v", err)
	}
	if text := qdiscs(); strings.Contains(text, "tbf") {
		t.Errorf("limits were left:\n%s", text)
	}
}

// TestRealPluginsOfCNI11 uses the verbs added in CNI 1.1 with plugins that
// support them: those of release 1.6 and later, which Debian 12 does not have.
func TestRealPluginsOfCNI11(t *testing.T) {
	binDir := os.Getenv("CRIDOCK_CNI_BIN")
	if binDir == "" {
		t.Skip("CRIDOCK_CNI_BIN names no directory with plugins of CNI 1.1")
	}
	n, host, ipamDir := realNodeWith(t, binDir, "1.1.0", bandwidthPlugin, `{"type": "firewall"}`)
	c := n.start()
	if err := c.Status(t.Context()); err != nil {
		t.Fatalf("Status: %v", err)
	}
	if err := c.SetPodCIDRs("10.201.11.0/24,fd00:c:1e::/64"); err != nil {
		t.Fatal(err)
	}
	kept, stale := n.pod("kept"), n.pod("stale")
	for i, rt := range []*libcni.RuntimeConf{kept, stale} {
		rt.CapabilityArgs = map[string]any{
			"portMappings": []map[string]any{{"hostPort": 8080 + i, "containerPort": 80, "protocol": "tcp"}, {"hostPort": 8090 + i, "containerPort": 81, "protocol": "sctp"}},
			"bandwidth":    map[string]any{"ingressRate": 1e6, "ingressBurst": math.MaxInt32, "egressRate": 2e6, "egressBurst": math.MaxInt32},
		}
		if _, err := c.Setup(t.Context(), rt); err != nil {
			t.Fatalf("Setup: %v", err)
		}
		if err := c.Check(t.Context(), rt); err != nil {
			t.Errorf("Check: %v", err)
		}
	}
	if err := c.Status(t.Context()); err != nil {
		t.Errorf("Status with pods: %v", err)
	}

	// The next process is told of only one pod.
	c = n.start()
	for range 2 {
		if err := c.GC(t.Context(), []string{"kept"}); err != nil {
			t.Fatalf("GC: %v", err)
		}
	}
	if left := leases(t, ipamDir); len(left) != 2 {
		t.Errorf("after GC there are addresses %v, want the two of one pod", left)
	}
	if text := rules(t, host); strings.Contains(text, "8081") || strings.Contains(text, "8091") || !strings.Contains(text, "8080") || !strings.Contains(text, "8090") {
		t.Errorf("after GC there are rules\n%s", text)
	}
	if _, err := os.Stat(stale.NetNS); err == nil {
		t.Error("the stale namespace is still pinned")
	}
	if err := c.Check(t.Context(), kept); err != nil {
		t.Errorf("Check of what GC had to leave alone: %v", err)
	}
	err := netns.DoAt(kept.NetNS, func() error { return exec.Command("ip", "address", "flush", "dev", "eth0").Run() })
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context(), kept); err == nil || !strings.Contains(err.Error(), "CNI CHECK") {
		t.Errorf("Check without the addresses = %v", err)
	}
	if err := c.Teardown(t.Context(), kept); err != nil {
		t.Errorf("Teardown: %v", err)
	}
	if left := leases(t, ipamDir); len(left) != 0 {
		t.Errorf("addresses leaked: %v", left)
	}
	err = netns.DoAt(host, func() error {
		links, err := net.Interfaces()
		for _, link := range links {
			if link.Name != "lo" && link.Name != "crbr0" {
				t.Errorf("interface %s was left", link.Name)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
