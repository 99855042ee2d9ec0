package doctor

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/cridock/cridock/shim/images/mirror"
)

var imageChecks = []Check{
	{Name: "mirrors", run: checkMirrors},
}

// checkMirrors tries the mirrors of all registries.
func checkMirrors(ctx context.Context, n *node) Result {
	if n.RegistryConfigDir == "" {
		return ok("The setting registry-config-dir is empty: no registry has mirrors.")
	}
	probes, err := mirror.ProbeAll(ctx, filepath.Join(n.Root, n.RegistryConfigDir))
	if err != nil {
		return unknown("The mirrors of registries are unknown: %v.", err)
	}
	var files, hosts []string
	for _, p := range probes {
		switch {
		case p.Err != nil && p.Host == "":
			files = append(files, p.Err.Error())
		case p.Err != nil:
			hosts = append(hosts, p.Host+" for "+p.Registry+" ("+p.Err.Error()+")")
		}
	}
	switch {
	case len(files) > 0:
		return failure("Correct the file: nothing is pulled from the registry meanwhile.", "A registry's mirrors are not usable: %s.", strings.Join(files, "; "))
	case len(hosts) > 0:
		return warning("Start the mirror, or correct its hosts.toml: each pull tries it in vain.", "Mirrors do not answer: %s.", strings.Join(hosts, "; "))
	case len(probes) == 0:
		return ok("No registry has mirrors.")
	}
	return ok("All %d hosts in hosts.toml files answer.", len(probes))
}
