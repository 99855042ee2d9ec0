package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

var networkChecks = []Check{
	{Name: "cni-config", run: checkCNIConfig, needsCNI: true},
	{Name: "cni-plugins", run: checkCNIPlugins, needsCNI: true},
	{Name: "cni-status", run: checkCNIStatus, needsCNI: true},
	{Name: "host-ports", run: checkHostPorts, needsCNI: true},
	{Name: "forward-policy", run: checkForwardPolicy, needsCNI: true},
}

func checkCNIConfig(_ context.Context, n *node) Result {
	const cure = "Install a network add-on, correct the file it wrote, or set cni-conf-dir."
	if n.cniErr != nil {
		return failure("Correct or remove the file, or make the directory readable.", "CNI's files are not usable: %v.", n.cniErr)
	}
	d := n.cni.Describe()
	if d.LastLoadError != "" {
		return failure(cure, "There is no pod network: %s.", d.LastLoadError)
	}
	if len(d.BrokenFiles) > 0 {
		return warning("Correct or remove the file.", "The network is %q (%s), but %s has unusable files: %s.", d.Network, d.File, n.CNIConfDir, brokenText(d.BrokenFiles))
	}
	types := make([]string, len(d.Plugins))
	for i, p := range d.Plugins {
		types[i] = p.Type
	}
	return ok("The network is %q (%s, CNI %s) with the plugins %s.", d.Network, d.File, d.CNIVersion, strings.Join(types, ", "))
}

func brokenText(files map[string]string) string {
	var texts []string
	for name, why := range files {
		texts = append(texts, name+" ("+why+")")
	}
	slices.Sort(texts)
	return list(texts)
}

func checkCNIPlugins(ctx context.Context, n *node) Result {
	if n.cni == nil {
		return skipped("There is no pod network.")
	}
	plugins, err := n.cni.InstalledPlugins(ctx)
	if err != nil {
		return skipped("There is no pod network.")
	}
	want := n.cni.Describe().CNIVersion
	var texts []string
	for _, p := range plugins {
		switch {
		case p.Path == "":
			return failure("Install the plugin in one of the directories, or add its directory to cni-bin-dir.",
				"The network needs the plugin %s, which is in none of %s.", p.Type, strings.Join(n.CNIBinDirs, ", "))
		case p.Err != nil:
			return failure("Install a plugin that runs on this machine.", "The plugin %s does not answer VERSION: %v.", n.shown(p.Path), p.Err)
		case want != "" && !p.Speaks(want):
			return failure("Install a newer plugin, or lower cniVersion in the configuration.",
				"The configuration is for CNI %s; the plugin %s speaks %s.", want, n.shown(p.Path), strings.Join(p.Versions, ", "))
		}
		texts = append(texts, fmt.Sprintf("%s (CNI %s)", n.shown(p.Path), p.Versions[len(p.Versions)-1]))
	}
	return ok("All plugins are installed: %s.", strings.Join(texts, ", "))
}

func checkCNIStatus(ctx context.Context, n *node) Result {
	if n.cni == nil || n.cni.Describe().LastLoadError != "" {
		return skipped("There is no pod network.")
	}
	if err := n.cni.Status(ctx); err != nil {
		return failure("Correct what the message names; if it is the network add-on's, see its log.", "The network is not ready for pods: %v.", err)
	}
	return ok("The network is ready for pods.")
}

func checkHostPorts(_ context.Context, n *node) Result {
	if n.cni == nil || n.cni.Describe().LastLoadError != "" {
		return skipped("There is no pod network.")
	}
	if n.cni.HostPorts() != nil {
		return warning(`Add {"type":"portmap","capabilities":{"portMappings":true}} to its plugins, unless the network publishes host ports on its own.`,
			"No plugin of the network %q has the capability portMappings: hostPort in a pod has no effect.", n.cni.Describe().Network)
	}
	return ok("A plugin publishes host ports.")
}

const forwardCure = `Run iptables -P FORWARD ACCEPT, and set net.ipv4.ip_forward = 1 in /etc/sysctl.d so that it is set before Docker starts; Docker 28 also has "ip-forward-no-drop": true.`

// checkForwardPolicy looks for the policy that dockerd sets when it turns on
// forwarding itself. It drops packets of pods on a bridge of CNI, unless a network
// add-on has rules of its own.
func checkForwardPolicy(ctx context.Context, n *node) Result {
	dropped, accepted, err := n.forwarding(ctx, "iptables")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return skipped("There is no iptables on this node.")
	case err != nil:
		return warning("Run this command as root on the node.", "The FORWARD chain is unknown: %v.", err)
	case dropped && accepted == "":
		return failure(forwardCure, "The policy of iptables' FORWARD chain is DROP and no rule accepts pods' packets: they reach nothing outside the node, nor each other.")
	case dropped:
		return ok("The policy of iptables' FORWARD chain is DROP, but there are rules beside Docker's: %s.", accepted)
	}
	if !n.usesIPv6() {
		return ok("The policy of iptables' FORWARD chain is ACCEPT.")
	}
	if dropped, accepted, err := n.forwarding(ctx, "ip6tables"); err == nil && dropped && accepted == "" {
		return failure(strings.ReplaceAll(strings.ReplaceAll(forwardCure, "iptables", "ip6tables"), "ipv4.ip_forward", "ipv6.conf.all.forwarding"),
			"The policy of ip6tables' FORWARD chain is DROP and no rule accepts pods' packets: they have no IPv6.")
	}
	return ok("The policy of the FORWARD chains is ACCEPT.")
}

// forwarding reads the FORWARD chain: whether its policy is DROP, and the first rule
// that may accept packets and is not about Docker's own networks.
func (n *node) forwarding(ctx context.Context, iptables string) (dropped bool, accepted string, err error) {
	version, err := n.command(ctx, iptables, "--version")
	if err != nil {
		return false, "", err
	}
	// Listing a table would load the modules of the older kernel interface.
	names := "/proc/net/" + strings.Replace(iptables, "tables", "_tables_names", 1)
	if !strings.Contains(version, "nf_tables") && !slices.Contains(strings.Fields(n.read(names)), "filter") {
		return false, "", nil
	}
	rules, err := n.command(ctx, iptables, "-S", "FORWARD")
	if err != nil {
		return false, "", err
	}
	for line := range strings.Lines(rules) {
		line = strings.TrimSpace(line)
		dropped = dropped || line == "-P FORWARD DROP"
		if accepted == "" && acceptsPods(line) {
			accepted = line
		}
	}
	// Operators put their rules into this chain; dockerd makes it.
	user, err := n.command(ctx, iptables, "-S", "DOCKER-USER")
	if err != nil {
		return dropped, accepted, nil
	}
	for line := range strings.Lines(user) {
		if accepted == "" && acceptsPods(strings.TrimSpace(line)) {
			accepted = strings.TrimSpace(line)
		}
	}
	return dropped, accepted, nil
}

// acceptsPods reports whether a rule may accept packets of pods: it does not only
// drop, and is neither Docker's nor kube-proxy's, which accepts only services'.
func acceptsPods(rule string) bool {
	f := strings.Fields(rule)
	if len(f) == 0 || f[0] != "-A" {
		return false
	}
	for i, word := range f[:len(f)-1] {
		next := f[i+1]
		switch word {
		case "-j", "-g":
			if next == "DROP" || next == "REJECT" || next == "RETURN" || strings.HasPrefix(next, "DOCKER") || strings.HasPrefix(next, "KUBE-") {
				return false
			}
		case "-i", "-o":
			if next == "docker0" || strings.HasPrefix(next, "br-") || next == "docker_gwbridge" {
				return false
			}
		}
	}
	return slices.Contains(f, "-j") || slices.Contains(f, "-g")
}

// networkFile is what the doctor reads of a CNI configuration besides package
// network.
type networkFile struct {
	Plugins []struct{ IPAM ipam }
	IPAM    ipam
}

type ipam struct {
	Type    string
	DataDir string
}

// usesIPv6 reports whether the network's configuration has an IPv6 address.
func (n *node) usesIPv6() bool {
	if n.cni == nil {
		return false
	}
	file := n.cni.Describe().File
	return file != "" && strings.Contains(n.read(filepath.Join(n.CNIConfDir, file)), "::")
}

// leaseDirs returns the directories in which host-local has one file for each
// address that is in use on the pods' network.
func (n *node) leaseDirs(network, file string) []string {
	var conf networkFile
	if file == "" || json.Unmarshal([]byte(n.read(filepath.Join(n.CNIConfDir, file))), &conf) != nil {
		return nil
	}
	var dirs []string
	for _, i := range append([]ipam{conf.IPAM}, plugins(conf)...) {
		if i.Type != "host-local" {
			continue
		}
		if i.DataDir == "" {
			i.DataDir = "/var/lib/cni/networks"
		}
		dirs = append(dirs, filepath.Join(i.DataDir, network))
	}
	return dirs
}

func plugins(conf networkFile) []ipam {
	all := make([]ipam, len(conf.Plugins))
	for i, p := range conf.Plugins {
		all[i] = p.IPAM
	}
	return all
}
