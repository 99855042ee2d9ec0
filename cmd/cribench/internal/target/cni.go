package target

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"

	"github.com/cridock/cridock/internal/netns"
)

// CNI connects the sandboxes of [Docker] to a CNI network, as a runtime with the same
// configuration would.
type CNI struct {
	list  *libcni.NetworkConfigList
	cni   *libcni.CNIConfig
	cache string
}

// NewCNI reads a network configuration list. The plugins are in the first of the
// directories that has them. The caller must close the CNI, which removes its cache.
func NewCNI(path string, pluginDirs []string) (*CNI, error) {
	list, err := libcni.ConfListFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("CNI configuration: %w", err)
	}
	cache, err := os.MkdirTemp("", "cribench-cni-")
	if err != nil {
		return nil, err
	}
	return &CNI{list: list, cni: libcni.NewCNIConfigWithCacheDir(pluginDirs, cache, nil), cache: cache}, nil
}

// Close removes the cache.
func (n *CNI) Close() error { return os.RemoveAll(n.cache) }

// add connects a container. daemon is a process in the namespaces in which the
// network is, pid the container's process as that daemon sees it.
func (n *CNI) add(ctx context.Context, daemon, pid int, id string) error {
	return inNetworkOf(daemon, func() error {
		_, err := n.cni.AddNetworkList(ctx, n.list, runtimeConf(id, containerNetNS(daemon, pid)))
		return err
	})
}

// del disconnects a container and releases its addresses; pid is 0 if it does not run.
// It is idempotent.
func (n *CNI) del(ctx context.Context, daemon, pid int, id string) error {
	path := ""
	if pid != 0 {
		path = containerNetNS(daemon, pid)
	}
	return inNetworkOf(daemon, func() error { return n.cni.DelNetworkList(ctx, n.list, runtimeConf(id, path)) })
}

// inNetworkOf calls fn in the network namespace of a process: the plugins' host side
// must be where the daemon's containers are.
func inNetworkOf(pid int, fn func() error) error {
	return netns.DoAt(fmt.Sprintf("/proc/%d/ns/net", pid), fn)
}

// containerNetNS returns the path of a container's network namespace, through the
// daemon's own /proc: the daemon may have its own PID namespace.
func containerNetNS(daemon, pid int) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root/proc", daemon), fmt.Sprint(pid), "ns/net")
}

func runtimeConf(id, path string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: id, NetNS: path, IfName: "eth0", Args: [][2]string{{"IgnoreUnknown", "1"}}}
}
