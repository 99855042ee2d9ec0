package network

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"k8s.io/klog/v2"
)

// defaultIfName is the interface of a pod's default network in Kubernetes.
const defaultIfName = "eth0"

// processNetNS matches the namespace paths of dockershim and cri-dockerd.
var processNetNS = regexp.MustCompile(`^/proc/\d+/ns/net$`)

// GC releases the resources of sandboxes that no longer exist: it runs DEL for
// each of their recorded attachments and unpins their namespaces. Then, for a
// default network of cniVersion 1.1 or later that does not disable it, it runs the
// GC verb with the remaining attachments.
//
// liveContainerIDs are all sandboxes that exist, ready or not. Containers that
// this process attached count as live until their Teardown, so a slightly old list
// does no harm. GC ignores attachments that other kinds of runtimes made in a
// shared cache. Failures are joined and do not stop the rest.
func (c *CNI) GC(ctx context.Context, liveContainerIDs []string) error {
	live := make(map[string]struct{}, len(liveContainerIDs))
	for _, id := range liveContainerIDs {
		live[id] = struct{}{}
	}
	records, err := c.records("")
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range c.stale(records, live) {
		errs = append(errs, c.release(ctx, id))
	}
	errs = append(errs, c.collect(ctx, liveContainerIDs))
	return errors.Join(errs...)
}

// stale returns the containers that have attachments of ours and are not live.
func (c *CNI) stale(records []record, live map[string]struct{}) []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var ids []string
	for _, r := range records {
		_, isLive := live[r.ContainerID]
		_, isOwn := c.own[r.ContainerID]
		ours := r.begun || filepath.Dir(r.NetNS) == c.cfg.NetNSDir || processNetNS.MatchString(r.NetNS)
		if ours && !isLive && !isOwn {
			ids = append(ids, r.ContainerID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// release tears down one stale container and unpins its namespace.
func (c *CNI) release(ctx context.Context, containerID string) error {
	netns := filepath.Join(c.cfg.NetNSDir, containerID)
	err := c.Teardown(ctx, &libcni.RuntimeConf{ContainerID: containerID, NetNS: netns, IfName: defaultIfName})
	if err != nil {
		return fmt.Errorf("stale attachment of container %s: %w", containerID, err)
	}
	klog.FromContext(ctx).Info("Released stale network attachment", "containerID", containerID)
	return UnpinNetNS(netns)
}

// collect runs the GC verb of the default network. Every recorded attachment
// counts as valid: otherwise libcni would run DEL for it with the current
// configuration and the old namespace path.
func (c *CNI) collect(ctx context.Context, liveContainerIDs []string) error {
	conf, err := c.active()
	if err != nil {
		return nil // without a network there is nothing to collect
	}
	records, err := c.records("")
	if err != nil {
		return err
	}
	valid := make([]types.GCAttachment, 0, len(records)+len(liveContainerIDs))
	for _, r := range records {
		if r.Network == conf.list.Name {
			valid = append(valid, types.GCAttachment{ContainerID: r.ContainerID, IfName: r.IfName})
		}
	}
	for _, id := range liveContainerIDs {
		entry := types.GCAttachment{ContainerID: id, IfName: defaultIfName}
		if !slices.Contains(valid, entry) {
			valid = append(valid, entry)
		}
	}
	if err := c.libcni.GCNetworkList(ctx, conf.list, &libcni.GCArgs{ValidAttachments: valid}); err != nil {
		return fmt.Errorf("network %q: CNI GC: %w", conf.list.Name, err)
	}
	return nil
}

// Stale returns, sorted, the IDs of the containers that GC would release: they have
// recorded attachments that this kind of runtime made, and are not among
// liveContainerIDs. It changes nothing.
func (c *CNI) Stale(liveContainerIDs []string) ([]string, error) {
	records, err := c.records("")
	if err != nil {
		return nil, err
	}
	live := make(map[string]struct{}, len(liveContainerIDs))
	for _, id := range liveContainerIDs {
		live[id] = struct{}{}
	}
	return c.stale(records, live), nil
}
