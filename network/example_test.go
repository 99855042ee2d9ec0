package network_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"

	"github.com/cridock/cridock/network"
)

const conflist = `{"cniVersion": "0.4.0", "name": "pods", "plugins": [
	{"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local"}},
	{"type": "portmap", "capabilities": {"portMappings": true}}]}`

// node creates directories for an example, with a configuration and its
// plugins.
func node() (cfg network.Config, remove func(), err error) {
	dir, err := os.MkdirTemp("", "cni")
	if err != nil {
		return cfg, nil, err
	}
	cfg = network.Config{
		ConfDir: filepath.Join(dir, "net.d"), BinDirs: []string{filepath.Join(dir, "bin")},
		CacheDir: filepath.Join(dir, "cache"), NetNSDir: filepath.Join(dir, "netns"),
	}
	err = errors.Join(
		os.Mkdir(cfg.ConfDir, 0o755), os.Mkdir(cfg.BinDirs[0], 0o755), os.Mkdir(cfg.CacheDir, 0o700),
		os.WriteFile(filepath.Join(cfg.ConfDir, "10-pods.conflist"), []byte(conflist), 0o600),
		os.WriteFile(filepath.Join(cfg.BinDirs[0], "bridge"), nil, 0o700),
		os.WriteFile(filepath.Join(cfg.BinDirs[0], "portmap"), nil, 0o700),
	)
	return cfg, func() { _ = os.RemoveAll(dir) }, err
}

// New reads the node's configuration; Status reports whether pods can be attached.
func ExampleCNI_Status() {
	cfg, remove, err := node()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer remove()
	cni, err := network.New(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("status:", cni.Status(context.Background()))
	fmt.Println("host ports:", cni.HostPorts())
	d := cni.Describe()
	fmt.Println(d.File, d.Network, d.CNIVersion)
	for _, plugin := range d.Plugins {
		fmt.Println(plugin.Type, plugin.Capabilities)
	}
	// Output:
	// status: <nil>
	// host ports: <nil>
	// 10-pods.conflist pods 0.4.0
	// bridge map[]
	// portmap map[portMappings:true]
}

// The kubelet sends the node's pod CIDRs; plugins with the capability ipRanges
// receive them with each ADD.
func ExampleCNI_SetPodCIDRs() {
	cfg, remove, err := node()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer remove()
	cni, err := network.New(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(cni.SetPodCIDRs("10.1.2.0/24,fd00:1::/64"))
	fmt.Println(cni.Describe().PodCIDRs)
	// Output:
	// <nil>
	// [10.1.2.0/24 fd00:1::/64]
}

// Setup attaches a sandbox to the network. It needs the path of the sandbox's
// network namespace: another kind of file is refused before any plugin runs.
func ExampleCNI_Setup() {
	cfg, remove, err := node()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer remove()
	cni, err := network.New(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = cni.Setup(context.Background(), &libcni.RuntimeConf{ContainerID: "5a0db0", NetNS: "/dev/null", IfName: "eth0"})
	fmt.Println(err)
	_, attached := cni.Attachment("5a0db0")
	fmt.Println("attached:", attached)
	// Output:
	// network namespace "/dev/null": invalid argument: not a namespace
	// attached: false
}
