package network

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// portMappings is the capability by which a plugin is told the host ports.
const portMappings = "portMappings"

// HostPorts returns nil when a plugin of the default network takes host ports,
// else an error that says which configuration lacks it. Pods can be attached all
// the same: libcni drops what no plugin asks for, and some networks publish host
// ports on their own. It costs no I/O.
func (c *CNI) HostPorts() error {
	conf, err := c.active()
	if err != nil {
		return err
	}
	if supports(conf.list, portMappings) {
		return nil
	}
	return fmt.Errorf("network %q (%s): %w: no plugin has the capability %s, so no host port is passed on; add {\"type\":\"portmap\",\"capabilities\":{\"portMappings\":true}} to its plugins, unless the network publishes host ports on its own",
		conf.list.Name, filepath.Base(conf.path), errdefs.ErrNotImplemented, portMappings)
}

// explainCheck adds what is known to a failed CHECK. The portmap plugin before
// 1.3 looks for the rules of each address in both iptables and ip6tables, and so
// fails for every attachment with host ports, which work.
func explainCheck(err error, ips []string) error {
	if err == nil || !portmapMixesFamilies(err.Error(), ips) {
		return err
	}
	return fmt.Errorf("inconclusive: portmap before 1.3 looks for the rules of IPv4 among those of IPv6 and the other way round, and so fails for every pod with host ports: %w", err)
}

// portmapMixesFamilies recognises that failure: the family that the plugin finds
// fault with is not that of the address it looks for, or one that the container
// has no address of. A rule or chain that is missing in its own family is a
// fault.
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

// namesAddress tells whether a text has a rule for one of the addresses of a
// family.
func namesAddress(text string, ips []string, family func(netip.Addr) bool) bool {
	for _, ip := range ips {
		if addr, err := netip.ParseAddr(ip); err == nil && family(addr) && strings.Contains(text, "--to-destination "+ip+":") {
			return true
		}
	}
	return false
}
