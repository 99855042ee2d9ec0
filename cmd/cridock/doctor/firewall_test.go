package doctor

import (
	"strings"
	"testing"
)

func TestRulesThatAccept(t *testing.T) {
	for name, tt := range map[string]struct {
		rules string
		want  string // part of the rule
	}{
		"none":                        {"", ""},
		"accept":                      {"-A FORWARD -s 10.1.0.0/16 -j ACCEPT", "10.1.0.0/16"},
		"a chain that accepts":        {"-A FORWARD -j A\n-A A -j B\n-A B -i cni0 -j ACCEPT", "-A B"},
		"a chain that does not exist": {"-A FORWARD -j A", ""},
		"a chain that returns":        {"-A FORWARD -j A\n-A A -j RETURN\n-A A -j ACCEPT", ""},
		"behind a chain that returns": {"-A FORWARD -j A\n-A FORWARD -o cni0 -j ACCEPT\n-A A -j RETURN", "-o cni0"},
		"a loop":                      {"-A FORWARD -j A\n-A A -j A", ""},
		"goto":                        {"-A FORWARD -g A\n-A FORWARD -j ACCEPT", ""},
		"goto on a condition":         {"-A FORWARD -i x -g A\n-A FORWARD -i y -j ACCEPT", "-i y"},
		"behind a drop":               {"-A FORWARD -j DROP\n-A FORWARD -j ACCEPT", ""},
		"behind a reject with option": {"-A FORWARD -m comment --comment all -j REJECT --reject-with icmp-port-unreachable\n-A FORWARD -j ACCEPT", ""},
		"behind a drop of some":       {"-A FORWARD -m conntrack --ctstate INVALID -j DROP\n-A FORWARD -i cni0 -j ACCEPT", "-i cni0"},
		"targets that go on":          {"-A FORWARD -j LOG --log-prefix \"-j ACCEPT\"\n-A FORWARD -j MARK --set-xmark 0x1/0x1", ""},
		"a program decides":           {"-A FORWARD -j NFQUEUE --queue-num 1", "NFQUEUE"},
		"known connections":           {"-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -m state --state ESTABLISHED -j ACCEPT", ""},
		"new connections too":         {"-A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT", "NEW"},
		"not invalid ones":            {"-A FORWARD -m conntrack ! --ctstate INVALID -j ACCEPT", "INVALID"},
		"Docker's":                    {"-A FORWARD -o docker0 -j ACCEPT\n-A FORWARD -i br-0123456789ab -j ACCEPT\n-A FORWARD -j DOCKER-FORWARD\n-A DOCKER-FORWARD -j ACCEPT", ""},
		"not Docker's":                {"-A FORWARD ! -i docker0 -o cni0 -j ACCEPT", "cni0"},
		"a bridge that is not Docker": {"-A FORWARD -i br-int -j ACCEPT", "br-int"},
		"kube-proxy's":                {"-A FORWARD -j KUBE-FORWARD\n-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT", ""},
		"kube-router's":               {"-A FORWARD -j KUBE-ROUTER-FORWARD\n-A KUBE-ROUTER-FORWARD -i kube-bridge -j ACCEPT", "kube-bridge"},
		"an operator's":               {"-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -i cni0 -j ACCEPT", "cni0"},
		"a comment like a target":     {"-A FORWARD -m comment --comment \"-j ACCEPT\" -j RETURN\n-A FORWARD -m comment --comment -j -i x -j ACCEPT", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := parseTable("-P FORWARD DROP\n"+tt.rules+"\n").accepts("FORWARD", map[string]bool{})
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// TestIPv6Cure: the cure is for the address family that is dropped.
func TestIPv6Cure(t *testing.T) {
	x := newTree(t)
	x.write("/etc/cni/net.d/10-pods.conflist", dualStack)
	x.programs["ip6tables -S"] = program{out: "-P FORWARD DROP\n"}
	for _, r := range x.examine().Results {
		if r.Check == "forward-policy" && (!strings.Contains(r.Cure, "ip6tables -P FORWARD ACCEPT") || !strings.Contains(r.Cure, "net.ipv6.conf.all.forwarding") || strings.Contains(r.Cure, "ipv4")) {
			t.Errorf("%+v", r)
		}
	}
}
