package network

import "path/filepath"

// Description is the state of the network for people, and can be marshalled to
// JSON. Of plugin configurations it has only types and capabilities.
type Description struct {
	ConfDir  string   `json:"confDir"`
	BinDirs  []string `json:"binDirs"`
	CacheDir string   `json:"cacheDir"`
	// File, Network, CNIVersion and Plugins describe the default network; empty
	// if there is none.
	File       string              `json:"file,omitempty"`
	Network    string              `json:"network,omitempty"`
	CNIVersion string              `json:"cniVersion,omitempty"`
	Plugins    []PluginDescription `json:"plugins,omitempty"`
	// BrokenFiles maps the names of unusable configuration files to their errors.
	BrokenFiles map[string]string `json:"brokenFiles,omitempty"`
	// LastLoadError is why there is no default network or why the directory could
	// not be read.
	LastLoadError string   `json:"lastLoadError,omitempty"`
	PodCIDRs      []string `json:"podCIDRs,omitempty"`
	// Attachments counts the attached containers.
	Attachments int `json:"attachments"`
}

// PluginDescription describes one plugin of a network.
type PluginDescription struct {
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities,omitempty"`
}

// Describe returns the current state. It does no I/O.
func (c *CNI) Describe() Description {
	c.mu.RLock()
	defer c.mu.RUnlock()
	d := Description{
		ConfDir:     c.cfg.ConfDir,
		BinDirs:     c.cfg.BinDirs,
		CacheDir:    c.cfg.CacheDir,
		Attachments: len(c.attachments),
	}
	for _, prefix := range c.cidrs.get() {
		d.PodCIDRs = append(d.PodCIDRs, prefix.String())
	}
	if len(c.conf.broken) > 0 {
		d.BrokenFiles = make(map[string]string, len(c.conf.broken))
	}
	for _, b := range c.conf.broken {
		d.BrokenFiles[filepath.Base(b.path)] = b.err.Error()
	}
	if c.conf.err != nil || c.conf.active == nil {
		d.LastLoadError = c.conf.unusable(c.cfg.ConfDir).Error()
	}
	if active := c.conf.active; active != nil {
		d.File, d.Network, d.CNIVersion = filepath.Base(active.path), active.list.Name, active.list.CNIVersion
		for _, p := range active.list.Plugins {
			d.Plugins = append(d.Plugins, PluginDescription{Type: p.Network.Type, Capabilities: p.Network.Capabilities})
		}
	}
	return d
}
