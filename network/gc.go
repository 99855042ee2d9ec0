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

// processNetNS is how dockershim and cri-dockerd name a namespace.
var processNetNS = regexp.MustCompile(`^/proc/\d+/ns/net$`)

// GC releases what sandboxes that no longer exist still hold: DEL for each of
// their recorded attachments and the end of their pinned namespaces, then, for
// a default network of cniVersion 1.1 or later that does not disable it, the GC
// verb with the attachments that remain.
//
// liveContainerIDs are all sandboxes that exist, ready or not; containers that
// this process attached count as live until their Teardown, so a list that is
// slightly old does no harm. Attachments in a shared cache that another kind of
// runtime made are left alone. Failures are joined and do not stop the rest.
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

// stale returns the containers with attachments of ours that are not live.
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

// release tears one stale container down and unpins its namespace.
func (c *CNI) release(ctx context.Context, containerID string) error {
	netns := filepath.Join(c.cfg.NetNSDir, containerID)
	err := c.Teardown(ctx, &libcni.RuntimeConf{ContainerID: containerID, NetNS: netns, IfName: defaultIfName})
	if err != nil {
		return fmt.Errorf("stale attachment of container %s: %w", containerID, err)
	}
	klog.FromContext(ctx).Info("Released stale network attachment", "containerID", containerID)
	return UnpinNetNS(netns)
}

// collect runs the GC verb of the default network. Every attachment that is
// still recorded counts as valid: libcni would otherwise run DEL for it with
// today's configuration and yesterday's namespace path.
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
