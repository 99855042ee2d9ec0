package doctor

import (
	"encoding/json"
	"testing"
)

func TestPodFamilies(t *testing.T) {
	for name, tt := range map[string]struct {
		cidr, conf string
		ipv4, ipv6 bool
	}{
		"nothing":              {"", `{}`, true, false},
		"pod CIDRs":            {"10.1.0.0/24, fd01::/64", `{}`, true, true},
		"IPv6 pod CIDR":        {"fd01::/64", `{}`, false, true},
		"host-local":           {"", `{"plugins":[{"ipam":{"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd01::/64"}]]}}]}`, true, true},
		"an old host-local":    {"", `{"ipam":{"subnet":"fd01::/64"}}`, false, true},
		"static":               {"", `{"plugins":[{"ipam":{"addresses":[{"address":"fd01::2/64"}]}}]}`, false, true},
		"whereabouts":          {"", `{"plugins":[{"ipam":{"ipRanges":[{"range":"10.1.0.0/24"},{"range":"fd01::/64"}]}}]}`, true, true},
		"Calico":               {"", `{"plugins":[{"ipam":{"assign_ipv4":"true","assign_ipv6":"true"}}]}`, true, true},
		"Calico without IPv6":  {"", `{"plugins":[{"ipam":{"assign_ipv6":"false"}}]}`, true, false},
		"Calico's pools":       {"", `{"plugins":[{"ipam":{"ipv6_pools":["fd01::/64"]}}]}`, false, true},
		"delegates":            {"", `{"plugins":[{"delegates":[{"ipam":{"subnet":"fd01::/64"}}]}]}`, false, true},
		"routes, name servers": {"", `{"plugins":[{"ipam":{"subnet":"10.1.0.0/24","routes":[{"dst":"::/0"}]},"dns":{"nameservers":["fd01::a"]},"mac":"::"}]}`, true, false},
		"no address":           {"usePodCidr", `{"plugins":[{"ipam":{"subnet":"usePodCidr"}}]}`, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			var conf any
			if err := json.Unmarshal([]byte(tt.conf), &conf); err != nil {
				t.Fatal(err)
			}
			n := &node{Settings: Settings{PodCIDR: tt.cidr}}
			if ipv4, ipv6 := n.podFamilies(nil, conf); ipv4 != tt.ipv4 || ipv6 != tt.ipv6 {
				t.Errorf("IPv4 %v, IPv6 %v", ipv4, ipv6)
			}
		})
	}
}
