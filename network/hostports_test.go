package network

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cridock/cridock/internal/netns"
)

func TestHostPorts(t *testing.T) {
	n := newNode(t)
	c := n.start()
	if err := c.HostPorts(); err == nil || !strings.Contains(err.Error(), "no CNI network configuration") {
		t.Errorf("without a configuration: %v", err)
	}
	n.writeConf("10-one.conflist", `{"cniVersion":"1.0.0","name":"plain","plugins":[{"type":"fake","capabilities":{"portMappings":false,"bandwidth":true}}]}`)
	if err := n.start().HostPorts(); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), `"plain" (10-one.conflist)`) {
		t.Errorf("without the capability: %v, want not implemented, and where", err)
	}
	n.writeConf("10-one.conflist", `{"cniVersion":"1.0.0","name":"full","plugins":[{"type":"fake"},{"type":"portmap","capabilities":{"portMappings":true}}]}`)
	if err := n.start().HostPorts(); err != nil {
		t.Errorf("with the capability: %v", err)
	}
}

// TestExplainCheck uses messages of portmap 1.1.1.
func TestExplainCheck(t *testing.T) {
	const (
		noChain6 = "could not check ipv6 dnat: chain CNI-DN-9b00 not found in iptables table nat"
		noChain4 = "could not check ipv4 dnat: chain CNI-DN-9b00 not found in iptables table nat"
		rule4in6 = "could not check ipv6 dnat: rule [[-p tcp --dport 8080 -j DNAT --to-destination 10.1.0.2:80]] in chain CNI-DN-9b00 not found in table nat"
		rule4in4 = "could not check ipv4 dnat: rule [[-p tcp --dport 8080 -j DNAT --to-destination 10.1.0.2:80]] in chain CNI-DN-9b00 not found in table nat"
	)
	v4, v6 := []string{"10.1.0.2"}, []string{"fd00::2"}
	dual := []string{"10.1.0.2", "fd00::2"}
	for _, c := range []struct {
		text         string
		ips          []string
		inconclusive bool
	}{
		{noChain6, v4, true},
		{noChain4, v6, true},
		{rule4in6, dual, true},
		{noChain4, v4, false},
		{noChain6, v6, false},
		{noChain6, dual, false},
		{noChain4, dual, false},
		{rule4in4, dual, false},
		{"interface eth0 not found", v4, false},
	} {
		plugin := errors.New(c.text)
		got := explainCheck(plugin, c.ips)
		if !errors.Is(got, plugin) || strings.Contains(got.Error(), "inconclusive") != c.inconclusive {
			t.Errorf("%q with %v: %v, want inconclusive %v", c.text, c.ips, got, c.inconclusive)
		}
	}
	if err := explainCheck(nil, v4); err != nil {
		t.Errorf("no failure became %v", err)
	}
}

// TestRealPortmapCheck: for working host ports, CHECK reports no fault or that
// it cannot tell; if their rules are missing, it reports a fault.
func TestRealPortmapCheck(t *testing.T) {
	for name, cidrs := range map[string]string{"IPv4": "10.201.12.0/24", "dual stack": "10.201.13.0/24,fd00:c:1f::/64"} {
		t.Run(name, func(t *testing.T) {
			n, host, _ := realNode(t)
			c := n.start()
			if err := c.SetPodCIDRs(cidrs); err != nil {
				t.Fatal(err)
			}
			rt := n.pod("a")
			if _, err := c.Setup(t.Context(), rt); err != nil {
				t.Fatalf("Setup: %v", err)
			}
			if err := c.Check(t.Context(), rt); err != nil && !strings.Contains(err.Error(), "CNI CHECK: inconclusive: portmap before 1.3") {
				t.Errorf("Check of host ports that work: %v", err)
			}
			if err := netns.DoAt(host, func() error { return exec.Command("iptables", "-t", "nat", "-F").Run() }); err != nil {
				t.Fatal(err)
			}
			if err := c.Check(t.Context(), rt); err == nil || strings.Contains(err.Error(), "inconclusive") {
				t.Errorf("Check of host ports without rules: %v", err)
			}
			if err := c.Teardown(t.Context(), rt); err != nil {
				t.Errorf("Teardown: %v", err)
			}
		})
	}
}
