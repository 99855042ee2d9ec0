package network

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// portMappings is the capability of plugins that take host ports.
const portMappings = "portMappings"

// HostPorts returns nil if a plugin of the default network takes host ports, else
// an error that names the configuration without one. Pods can be attached anyway:
// libcni drops capabilities that no plugin has, and some networks publish host
// ports on their own. It does no I/O.
func (c *CNI) HostPorts() error {
	conf, err := c.active()
	if err != nil {
		return err
	}
	if supports(conf.list, portMappings) {
		return nil
	}
	return fmt.Errorf("network %q (%s): %w: no plugin has the capability %s, so host ports have no effect; add {\"type\":\"portmap\",\"capabilities\":{\"portMappings\":true}} to its plugins, unless the network publishes host ports on its own",
		conf.list.Name, filepath.Base(conf.path), errdefs.ErrNotImplemented, portMappings)
}

// explainCheck explains a known false failure of CHECK. The portmap plugin before
// 1.3 looks for the rules of each address in both iptables and ip6tables, and so
// fails for every attachment with host ports, although they work.
func explainCheck(err error, ips []string) error {
	if err == nil || !portmapMixesFamilies(err.Error(), ips) {
		return err
	}
	return fmt.Errorf("inconclusive: portmap before 1.3 looks for IPv4 rules in ip6tables and for IPv6 rules in iptables, so CHECK fails for every pod with host ports: %w", err)
}

// portmapMixesFamilies recognises that failure: the family in the plugin's error is
// not that of the address it looks for, or the container has no address of it. A
// rule or chain missing in its own family is a real failure.
func portmapMixesFamilies(text string, ips []string) bool {
	var v4, v6 bool
	for _, ip := range ips {
		addr, err := netip.ParseAddr(ip)
		v4, v6 = v4 || err == nil && addr.Is4(), v6 || err == nil && addr.Is6()
	}
	switch {
	case strings.Contains(text, "could not check ipv6 dnat: "):
		return !v6 || namesAddress(text, ips, netip.Addr.Is4)
	case strings.Contains(text, "could not check ipv4 dnat: "):
		return !v4
	}
	return false
}

// namesAddress reports whether text has a rule for one of the addresses of a
// family.
func namesAddress(text string, ips []string, family func(netip.Addr) bool) bool {
	for _, ip := range ips {
		if addr, err := netip.ParseAddr(ip); err == nil && family(addr) && strings.Contains(text, "--to-destination "+ip+":") {
			return true
		}
	}
	return false
}
