package doctor

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/cridock/cridock/network"
)

// networkConfig returns the decoded configuration of the pods' network; nil if there
// is none. It reads n's settings only.
func (n *node) networkConfig(cni *network.CNI) (conf any, err error) {
	if cni == nil || cni.Describe().File == "" {
		return nil, nil
	}
	path := filepath.Join(n.CNIConfDir, cni.Describe().File)
	text, err := n.readFile(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(text), &conf); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return conf, nil
}

// podFamilies reports which addresses pods have, by the node's pod CIDRs and by the
// network's configuration. If neither says, it is IPv4. It reads n's settings only.
func (n *node) podFamilies(cni *network.CNI, conf any) (ipv4, ipv6 bool) {
	ranges := strings.Split(n.PodCIDR, ",")
	if cni != nil {
		ranges = append(ranges, cni.Describe().PodCIDRs...)
	}
	ranges = append(ranges, podAddresses(conf)...)
	for _, text := range ranges {
		switch addr, err := address(text); {
		case err != nil:
		case addr.Is4():
			ipv4 = true
		default:
			ipv6 = true
		}
	}
	return ipv4 || !ipv6, ipv6
}

// address returns that of a range of addresses or of a single one.
func address(text string) (netip.Addr, error) {
	text = strings.TrimSpace(text)
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix.Addr(), nil
	}
	return netip.ParseAddr(text)
}

// addressKeys are the keys under which IPAM plugins have pods' addresses: host-local
// and its ranges, static, whereabouts, Calico. Routes and name servers are no
// addresses of pods.
var addressKeys = map[string]bool{"subnet": true, "address": true, "range": true, "ipv4_pools": true, "ipv6_pools": true}

// podAddresses returns the addresses and ranges in a network's configuration.
func podAddresses(conf any) []string {
	var found []string
	visit("", conf, func(key string, value any) {
		if text, ok := value.(string); ok && addressKeys[key] {
			found = append(found, text)
		}
		if key == "assign_ipv6" && (value == true || value == "true") { // Calico, from its own pools
			found = append(found, "::/0", "0.0.0.0/0")
		}
	})
	return found
}

// visit calls f for all values in decoded JSON that are no lists or objects, with the
// key in the innermost object.
func visit(key string, value any, f func(key string, value any)) {
	switch v := value.(type) {
	case map[string]any:
		for k, member := range v {
			visit(k, member, f)
		}
	case []any:
		for _, member := range v {
			visit(key, member, f)
		}
	default:
		f(key, v)
	}
}

// leaseDirs returns the directories in which host-local has one file for each address
// that is in use on a network.
func leaseDirs(network string, conf any) []string {
	top, _ := conf.(map[string]any)
	members, _ := top["plugins"].([]any)
	var dirs []string
	for _, p := range append([]any{conf}, members...) {
		plugin, _ := p.(map[string]any)
		ipam, _ := plugin["ipam"].(map[string]any)
		if ipam["type"] != "host-local" {
			continue
		}
		dir, _ := ipam["dataDir"].(string)
		if dir == "" {
			dir = "/var/lib/cni/networks"
		}
		dirs = append(dirs, filepath.Join(dir, network))
	}
	return dirs
}
