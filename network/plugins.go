package network

import (
	"context"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
)

// InstalledPlugin is what a plugin of the default network says about itself.
type InstalledPlugin struct {
	// Type is the plugin's name in the configuration.
	Type string
	// Path is its binary; empty if it is not installed.
	Path string
	// Versions are the versions of CNI that it speaks, as it lists them.
	Versions []string
	// Err is why Path or Versions is missing.
	Err error
}

// Speaks reports whether the plugin supports a version of CNI.
func (p InstalledPlugin) Speaks(version string) bool { return slices.Contains(p.Versions, version) }

// InstalledPlugins runs the VERSION verb of each plugin of the default network and
// of each IPAM plugin that it names, in this order and once each. VERSION changes
// nothing. Without a default network it returns the reason.
func (c *CNI) InstalledPlugins(ctx context.Context) ([]InstalledPlugin, error) {
	conf, err := c.active()
	if err != nil {
		return nil, err
	}
	var found []InstalledPlugin
	for _, name := range pluginTypes(conf.list) {
		p := InstalledPlugin{Type: name}
		p.Path, p.Err = c.cfg.Exec.FindInPath(name, c.cfg.BinDirs)
		if p.Err == nil {
			info, err := invoke.GetVersionInfo(ctx, p.Path, c.cfg.Exec)
			if p.Err = err; err == nil {
				p.Versions = info.SupportedVersions()
			}
		}
		found = append(found, p)
	}
	return found, nil
}

// pluginTypes returns the names of all plugins of a network.
func pluginTypes(list *libcni.NetworkConfigList) []string {
	var names []string
	for _, p := range list.Plugins {
		for _, name := range []string{p.Network.Type, p.Network.IPAM.Type} {
			if name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}
