package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

// confExtensions are the extensions of CNI configuration files, as in containerd
// and CRI-O.
var confExtensions = []string{".conflist", ".conf", ".json"}

// confFile is one network of the configuration directory.
type confFile struct {
	path string
	list *libcni.NetworkConfigList
}

// brokenFile is a configuration file that cannot be used, and why.
type brokenFile struct {
	path string
	err  error
}

// configuration is the result of reading the configuration directory once.
type configuration struct {
	// active is the default network, nil if there is none.
	active *confFile
	// broken lists the unusable files, in directory order.
	broken []brokenFile
	// err is set when the directory itself cannot be read.
	err error
}

// loadConfiguration reads dir. The lexically first usable file is the default
// network. If the file in use is now broken (often half written), its last good
// content stays in use, so that pods do not land on another network meanwhile; it
// is still listed in broken. A missing or empty directory is not an error.
func loadConfiguration(dir string, last *confFile) configuration {
	var conf configuration
	paths, err := libcni.ConfFiles(dir, confExtensions)
	if err != nil {
		conf.err = fmt.Errorf("read CNI configuration directory: %w", err)
		conf.active = last
		return conf
	}
	slices.Sort(paths)
	for _, path := range paths {
		list, err := loadConfFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed between listing and reading
		}
		if err != nil {
			conf.broken = append(conf.broken, brokenFile{path: path, err: err})
			if last == nil || last.path != path {
				continue
			}
			list = last.list
		}
		if conf.active == nil {
			conf.active = &confFile{path: path, list: list}
		}
	}
	return conf
}

// unusable returns why there is no default network, in words fit for the
// NetworkReady condition.
func (c configuration) unusable(dir string) error {
	if c.err != nil {
		return c.err
	}
	if len(c.broken) == 0 {
		return fmt.Errorf("no CNI network configuration in %s: install a network add-on", dir)
	}
	return fmt.Errorf("no usable CNI network configuration in %s: %s", dir, c.brokenText())
}

// brokenText lists the broken files by name with their errors.
func (c configuration) brokenText() string {
	texts := make([]string, 0, len(c.broken))
	for _, b := range c.broken {
		texts = append(texts, fmt.Sprintf("%s: %v", filepath.Base(b.path), b.err))
	}
	return strings.Join(texts, "; ")
}

// loadConfFile reads one file, a network configuration list or a single plugin's
// configuration, and checks what libcni would check only at ADD.
func loadConfFile(path string) (*libcni.NetworkConfigList, error) {
	list, err := parseConfFile(path)
	if err != nil {
		return nil, err
	}
	// The typed nil pointer must not become an error interface.
	if err := utils.ValidateNetworkName(list.Name); err != nil {
		return nil, err
	}
	newer, err := version.GreaterThan(list.CNIVersion, version.Current())
	if err != nil {
		return nil, fmt.Errorf("cniVersion: %w", err)
	}
	if newer {
		return nil, fmt.Errorf("cniVersion %s is newer than %s, the newest supported", list.CNIVersion, version.Current())
	}
	return list, nil
}

func parseConfFile(path string) (*libcni.NetworkConfigList, error) {
	if filepath.Ext(path) != ".conflist" {
		data, err := os.ReadFile(path) //nolint:gosec // from a list of a directory that a flag names
		if err != nil {
			return nil, err
		}
		return listFromPlugin(data)
	}
	list, err := libcni.NetworkConfFromFile(path)
	if err != nil {
		return nil, err
	}
	return list, inlinePlugins(list)
}

// listFromPlugin makes a list from a single plugin's configuration.
func listFromPlugin(data []byte) (*libcni.NetworkConfigList, error) {
	plugin, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	list, err := json.Marshal(map[string]any{
		"name":       plugin.Network.Name,
		"cniVersion": plugin.Network.CNIVersion,
		"plugins":    []json.RawMessage{data},
	})
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(list)
}

// inlinePlugins adds plugins from the network's own folder (CNI 1.1) to the list's
// bytes, which the result cache keeps for DEL.
func inlinePlugins(list *libcni.NetworkConfigList) error {
	raw := map[string]json.RawMessage{}
	if err := json.Unmarshal(list.Bytes, &raw); err != nil {
		return err
	}
	var inlined []json.RawMessage
	if plugins, ok := raw["plugins"]; ok {
		if err := json.Unmarshal(plugins, &inlined); err != nil {
			return err
		}
	}
	if len(inlined) == len(list.Plugins) {
		return nil
	}
	all := make([]json.RawMessage, 0, len(list.Plugins))
	for _, plugin := range list.Plugins {
		all = append(all, plugin.Bytes)
	}
	var err error
	if raw["plugins"], err = json.Marshal(all); err != nil {
		return err
	}
	raw["loadOnlyInlinedPlugins"] = json.RawMessage("true")
	list.Bytes, err = json.Marshal(raw)
	return err
}

// listFromCache parses a configuration from the result cache, written by this
// package or by another user of libcni.
func listFromCache(data []byte) (*libcni.NetworkConfigList, error) {
	list, err := libcni.NetworkConfFromBytes(data)
	if err == nil && len(list.Plugins) > 0 {
		return list, nil
	}
	if single, singleErr := listFromPlugin(data); singleErr == nil {
		return single, nil
	}
	if err == nil {
		err = errors.New("it has no plugins")
	}
	return nil, fmt.Errorf("cached network configuration: %w", err)
}

// supports reports whether any plugin of the list has the capability.
func supports(list *libcni.NetworkConfigList, capability string) bool {
	return slices.ContainsFunc(list.Plugins, func(p *libcni.PluginConfig) bool {
		return p.Network.Capabilities[capability]
	})
}
