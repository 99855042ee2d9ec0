package doctor

import (
	"context"
	"errors"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/cridock/cridock/internal/nodeconf"
)

// family is an address family.
type family struct {
	name     string
	iptables string // its program
	sysctl   string // turns on forwarding
}

var (
	ipv4 = family{"IPv4", "iptables", "net.ipv4.ip_forward"}
	ipv6 = family{"IPv6", "ip6tables", "net.ipv6.conf.all.forwarding"}
)

// families returns those that pods have.
func (n *node) families() []family {
	var used []family
	if n.ipv4 {
		used = append(used, ipv4)
	}
	if n.ipv6 {
		used = append(used, ipv6)
	}
	return used
}

// checkForwardPolicy looks for the policy that dockerd sets when it turns on
// forwarding itself. It drops packets of pods on a bridge of CNI, unless a network
// add-on has rules of its own.
func checkForwardPolicy(ctx context.Context, n *node) Result {
	var results []Result
	for _, f := range n.families() {
		results = append(results, n.forwardPolicy(ctx, f))
	}
	return worst(results)
}

func (n *node) forwardPolicy(ctx context.Context, f family) Result {
	rules, err := n.filterTable(ctx, f.iptables)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return skipped("There is no %s on this node.", f.iptables)
	case err != nil:
		return unknown("The FORWARD chain of %s is unknown: %v.", f.iptables, err)
	case rules.policy != "DROP":
		return ok("The policy of %s' FORWARD chain is ACCEPT.", f.iptables)
	}
	if accepted := rules.accepts("FORWARD", map[string]bool{}); accepted != "" {
		return ok("The policy of %s' FORWARD chain is DROP, but there are rules beside Docker's: %s.", f.iptables, accepted)
	}
	if n.hasPlugin("firewall") {
		return ok("The policy of %s' FORWARD chain is DROP, but the plugin firewall adds a rule for each pod.", f.iptables)
	}
	return failure("Run "+f.iptables+" -P FORWARD ACCEPT, and set "+f.sysctl+` = 1 in /etc/sysctl.d so that it is set before Docker starts; Docker 28 also has "ip-forward-no-drop": true.`,
		"The policy of %s' FORWARD chain is DROP and no rule accepts pods' packets: over %s they reach nothing outside the node, nor each other.", f.iptables, f.name)
}

func (n *node) hasPlugin(name string) bool {
	if n.cni == nil {
		return false
	}
	for _, p := range n.cni.Describe().Plugins {
		if p.Type == name {
			return true
		}
	}
	return false
}

// filterTable reads the rules of the table filter.
func (n *node) filterTable(ctx context.Context, iptables string) (table, error) {
	version, err := n.command(ctx, iptables, "--version")
	if err != nil {
		return table{}, err
	}
	// Listing a table would load the modules of the older kernel interface.
	names := "/proc/net/" + strings.Replace(iptables, "tables", "_tables_names", 1)
	if !strings.Contains(version, "nf_tables") && !slices.Contains(strings.Fields(n.read(names)), "filter") {
		return table{}, nil
	}
	text, err := n.command(ctx, iptables, "-S")
	if err != nil {
		return table{}, err
	}
	return parseTable(text), nil
}

// table is a table of iptables.
type table struct {
	policy string // of the chain FORWARD
	chains map[string][]rule
}

type rule struct {
	text  string
	words []string // behind the chain's name, without comments
}

// parseTable reads what iptables -S prints.
func parseTable(text string) table {
	t := table{chains: map[string][]rule{}}
	for line := range strings.Lines(text) {
		words := nodeconf.SplitWords(line)
		switch {
		case len(words) == 3 && words[0] == "-P" && words[1] == "FORWARD":
			t.policy = words[2]
		case len(words) > 2 && words[0] == "-A":
			if r := (rule{strings.TrimSpace(line), withoutComments(words[2:])}); len(r.words) > 0 {
				t.chains[words[1]] = append(t.chains[words[1]], r)
			}
		}
	}
	return t
}

// withoutComments keeps comments from being taken for conditions or targets.
func withoutComments(words []string) []string {
	var left []string
	for i := 0; i < len(words); i++ {
		switch {
		case words[i] == "--comment":
			i++
		case words[i] == "-m" && i+1 < len(words) && words[i+1] == "comment":
			i++
		default:
			left = append(left, words[i])
		}
	}
	return left
}

// accepts returns the first rule of a chain, or of those that it jumps to, that may
// accept new connections of pods; "" if packets of pods pass the chain or are
// dropped. Chains in seen have no such rule.
func (t table) accepts(chain string, seen map[string]bool) string {
	if seen[chain] || ignored(chain) {
		return ""
	}
	seen[chain] = true
	for _, r := range t.chains[chain] {
		target, jumpsBack := r.target()
		switch {
		case r.aboutDocker() || r.knownConnections():
			continue
		case target == "ACCEPT" || target == "NFQUEUE": // which a program decides about
			return r.text
		}
		if accepted := t.accepts(target, seen); accepted != "" {
			return accepted
		}
		ends := target == "DROP" || target == "REJECT" || target == "RETURN" || !jumpsBack
		if unconditional := r.words[0] == "-j" || r.words[0] == "-g"; ends && unconditional {
			return ""
		}
	}
	return ""
}

// ignored reports whether a chain is Docker's or kube-proxy's, which accepts only
// services' packets. Operators put their rules into DOCKER-USER; kube-router has
// chains of its own for pods.
func ignored(chain string) bool {
	return strings.HasPrefix(chain, "DOCKER") && chain != "DOCKER-USER" ||
		strings.HasPrefix(chain, "KUBE-") && !strings.HasPrefix(chain, "KUBE-ROUTER")
}

// target returns where the rule sends a packet, "" for nowhere, and whether the
// packet may come back from there.
func (r rule) target() (name string, jumpsBack bool) {
	for i, word := range r.words[:len(r.words)-1] {
		if word == "-j" || word == "-g" {
			return r.words[i+1], word == "-j"
		}
	}
	return "", true
}

// dockerBridge is the name of a bridge of Docker's.
var dockerBridge = regexp.MustCompile(`^(docker0|docker_gwbridge|br-[0-9a-f]{12})$`)

// aboutDocker reports whether the rule is only for containers on Docker's networks.
func (r rule) aboutDocker() bool {
	for i, word := range r.words[:len(r.words)-1] {
		not := i > 0 && r.words[i-1] == "!"
		if (word == "-i" || word == "-o") && !not && dockerBridge.MatchString(r.words[i+1]) {
			return true
		}
	}
	return false
}

// knownConnections reports whether the rule is only for packets of connections that
// another rule has accepted.
func (r rule) knownConnections() bool {
	for i, word := range r.words[:len(r.words)-1] {
		if word == "--ctstate" || word == "--state" {
			not := i > 0 && r.words[i-1] == "!"
			return !not && !slices.Contains(strings.Split(r.words[i+1], ","), "NEW")
		}
	}
	return false
}
