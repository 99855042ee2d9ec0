package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cridock/cridock/network"
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
	results := make([]Result, len(plugins))
	for i, p := range plugins {
		results[i] = n.checkPlugin(p)
	}
	if r := worst(results); r.State != OK {
		return r
	}
	var texts []string
	for _, p := range plugins {
		texts = append(texts, fmt.Sprintf("%s (CNI %s)", n.shown(p.Path), p.Versions[len(p.Versions)-1]))
	}
	return ok("All plugins are installed: %s.", strings.Join(texts, ", "))
}

func (n *node) checkPlugin(p network.InstalledPlugin) Result {
	const cure = "Install the plugin in one of the directories, or add its directory to cni-bin-dir."
	switch want := n.cni.Describe().CNIVersion; {
	case p.Path == "" && !n.hasPlugin(p.Type):
		// network.CNI.Status does not look for it either.
		return warning(cure, "The IPAM plugin %s is in none of %s: cridock does not look for it, so NetworkReady may be true, but no pod starts.",
			p.Type, strings.Join(n.CNIBinDirs, ", "))
	case p.Path == "":
		return failure(cure, "The network needs the plugin %s, which is in none of %s.", p.Type, strings.Join(n.CNIBinDirs, ", "))
	case p.Err != nil:
		return failure("Install a plugin that runs on this machine.", "The plugin %s does not answer VERSION: %v.", n.shown(p.Path), p.Err)
	case want != "" && !p.Speaks(want):
		return failure("Install a newer plugin, or lower cniVersion in the configuration.",
			"The configuration is for CNI %s; the plugin %s speaks %s.", want, n.shown(p.Path), strings.Join(p.Versions, ", "))
	}
	return ok("%s is installed.", p.Type)
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
