package network

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
	"k8s.io/klog/v2"
)

const (
	// rollbackTimeout bounds the DEL after a failed ADD, whose own context may
	// be over.
	rollbackTimeout = 30 * time.Second
	// statusTimeout bounds the STATUS verb of all plug-ins together.
	statusTimeout = 10 * time.Second
)

// Config is what a CNI needs. ConfDir, BinDirs, CacheDir and NetNSDir are
// required and must be absolute.
type Config struct {
	// ConfDir holds the network configurations, usually /etc/cni/net.d. It need
	// not exist.
	ConfDir string
	// BinDirs are searched for plug-ins in order.
	BinDirs []string
	// CacheDir is the root of libcni's cache, which keeps its entries in
	// CacheDir/results. cri-dockerd's is /var/lib/cni/cache.
	CacheDir string
	// NetNSDir is where the caller pins network namespaces, each under its
	// container's ID.
	NetNSDir string
	// Exec runs the plug-ins; nil runs them from BinDirs.
	Exec invoke.Exec
	// ConfTemplate is the path of a text/template that SetPodCIDRs renders into
	// ConfDir; empty for none. See SetPodCIDRs.
	ConfTemplate string
}

func (c Config) validate() error {
	for name, path := range map[string]string{
		"configuration": c.ConfDir, "cache": c.CacheDir, "network namespace": c.NetNSDir,
	} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("CNI %s directory %q: %w: not absolute", name, path, errdefs.ErrInvalidArgument)
		}
	}
	if len(c.BinDirs) == 0 {
		return fmt.Errorf("CNI plug-in directories: %w: none given", errdefs.ErrInvalidArgument)
	}
	return nil
}

// CNI attaches containers to the default network of the configuration
// directory. All methods are safe for concurrent use; calls about one container
// take turns, calls about different containers run in parallel. Every method
// with a context ends with it, killing the plug-in under way.
type CNI struct {
	cfg    Config
	libcni *libcni.CNIConfig
	notes  *libcni.CNIConfig // reads the notes of ADDs under way, runs nothing
	locks  keyLock           // by container ID

	reloading   sync.Mutex // one reading of ConfDir at a time
	mu          sync.RWMutex
	conf        configuration
	attachments map[string]*Attachment // by container ID
	own         map[string]struct{}    // containers that this process attached or is attaching

	cidrs podCIDRs
}

// New reads the configuration directory, the result cache and the last pod
// CIDRs. It starts nothing: Run follows changes of the configuration. A missing
// configuration is not an error here; Status reports it.
func New(cfg Config) (*CNI, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.ConfDir, cfg.NetNSDir = filepath.Clean(cfg.ConfDir), filepath.Clean(cfg.NetNSDir)
	if cfg.Exec == nil {
		cfg.Exec = &pluginExec{}
	}
	c := &CNI{
		cfg:         cfg,
		libcni:      libcni.NewCNIConfigWithCacheDir(cfg.BinDirs, cfg.CacheDir, cfg.Exec),
		attachments: map[string]*Attachment{},
		own:         map[string]struct{}{},
	}
	c.notes = libcni.NewCNIConfigWithCacheDir(cfg.BinDirs, c.stateDir(), cfg.Exec)
	c.conf = loadConfiguration(cfg.ConfDir, nil)
	if err := c.loadAttachments(); err != nil {
		return nil, err
	}
	if err := c.loadCIDRs(); err != nil {
		return nil, err
	}
	return c, nil
}

// loadAttachments fills the attachments from the result cache. An ADD whose
// note was never crossed out is not an attachment: its Setup did not return.
func (c *CNI) loadAttachments() error {
	records, err := c.records("")
	if err != nil {
		return err
	}
	for _, r := range records {
		// Other adapters' loopback is recorded for eth0, and its address need not
		// name its interface.
		if r.begun || r.IfName == "lo" || r.Network == adoptedLoopback {
			continue
		}
		// The newest version loses nothing of an older result.
		list := &libcni.NetworkConfigList{Name: r.Network, CNIVersion: version.Current()}
		rt := &libcni.RuntimeConf{ContainerID: r.ContainerID, IfName: r.IfName}
		result, err := c.libcni.GetNetworkListCachedResult(list, rt)
		if err != nil || result == nil {
			continue // DEL needs the configuration only
		}
		rt.NetNS = r.NetNS
		if a, err := newAttachment(r.Network, rt, result); err == nil {
			c.attachments[a.ContainerID] = a
		}
	}
	return nil
}

// Attachment returns the completed attachment of a container; it must not be
// changed. It costs no I/O and survives restarts.
func (c *CNI) Attachment(containerID string) (*Attachment, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	a, ok := c.attachments[containerID]
	return a, ok
}

// active returns the default network, or why there is none.
func (c *CNI) active() (*confFile, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.conf.active == nil {
		return nil, c.conf.unusable(c.cfg.ConfDir)
	}
	return c.conf.active, nil
}

// Status returns nil when pods can be attached, else an error in words fit for
// the NetworkReady condition: no configuration, broken files by name, missing
// plug-ins, or what the STATUS verb said (configurations of cniVersion 1.1 and
// later).
func (c *CNI) Status(ctx context.Context) error {
	conf, err := c.active()
	if err != nil {
		return err
	}
	if err := c.findPlugins(conf); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if err := c.libcni.GetStatusNetworkList(ctx, conf.list); err != nil {
		return fmt.Errorf("network %q (%s): CNI STATUS: %w", conf.list.Name, filepath.Base(conf.path), err)
	}
	return nil
}

// findPlugins returns nil when all plug-ins of a network are installed.
func (c *CNI) findPlugins(conf *confFile) error {
	for _, plugin := range conf.list.Plugins {
		if _, err := c.cfg.Exec.FindInPath(plugin.Network.Type, c.cfg.BinDirs); err != nil {
			return fmt.Errorf("network %q (%s): %w", conf.list.Name, filepath.Base(conf.path), err)
		}
	}
	return nil
}

// Setup attaches a container to the default network: it enables IPv6 and lo in
// the namespace and runs ADD. The runtime configuration is not changed; the
// ipRanges capability is added to it from SetPodCIDRs. Whatever an earlier
// Setup of the same container left is deleted first.
//
// On failure, of whatever kind, DEL has run on a context of its own when Setup
// returns; if that failed too, the error has both, and Teardown tries again
// with the same configuration. A result without an address is a failure.
// ErrFailedPrecondition means that there is no usable configuration, or that a
// plug-in of it is not installed.
func (c *CNI) Setup(ctx context.Context, rt *libcni.RuntimeConf) (*Attachment, error) {
	if err := validateRuntimeConf(rt); err != nil {
		return nil, err
	}
	if !isNamespace(rt.NetNS) {
		return nil, fmt.Errorf("network namespace %q: %w: not a namespace", rt.NetNS, errdefs.ErrInvalidArgument)
	}
	conf, err := c.active()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
	}
	// Without a plug-in neither ADD nor the DEL that takes ADD back gets through:
	// what the other plug-ins did would stay.
	if err := c.findPlugins(conf); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
	}
	unlock, err := c.locks.lock(ctx, rt.ContainerID)
	if err != nil {
		return nil, fmt.Errorf("attach to network %q: %w", conf.list.Name, err)
	}
	defer unlock()
	c.claim(rt.ContainerID)
	attachment, err := c.attach(ctx, conf.list, c.withIPRanges(conf.list, rt))
	if err != nil {
		c.forget(rt.ContainerID)
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attachments[rt.ContainerID] = attachment
	return attachment, nil
}

// attach does Setup's work on disk and in the namespace.
func (c *CNI) attach(ctx context.Context, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (*Attachment, error) {
	if err := c.deleteRecords(ctx, rt); err != nil {
		return nil, fmt.Errorf("detach before attaching again: %w", err)
	}
	if err := prepareNetNS(rt.NetNS); err != nil {
		return nil, err
	}
	if err := c.writeNote(list, rt); err != nil {
		return nil, err
	}
	attachment, err := c.add(ctx, list, rt)
	if err != nil {
		return nil, errors.Join(err, c.rollback(ctx, rt))
	}
	return attachment, nil
}

// add runs ADD and crosses its note out.
func (c *CNI) add(ctx context.Context, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (*Attachment, error) {
	result, err := c.libcni.AddNetworkList(ctx, list, rt)
	if err != nil {
		return nil, fmt.Errorf("network %q: CNI ADD: %w", list.Name, err)
	}
	attachment, err := newAttachment(list.Name, rt, result)
	if err != nil {
		return nil, fmt.Errorf("network %q: CNI ADD: %w", list.Name, err)
	}
	return attachment, c.removeNote(list.Name, rt.ContainerID, rt.IfName)
}

// rollback runs DEL after a failed ADD; the context that ADD had may be over.
func (c *CNI) rollback(ctx context.Context, rt *libcni.RuntimeConf) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if err := c.deleteRecords(ctx, rt); err != nil {
		return fmt.Errorf("roll back: %w", err)
	}
	return nil
}

// claim tells GC that the container is not stale, whatever older list says so.
func (c *CNI) claim(containerID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own[containerID] = struct{}{}
}

// Teardown detaches a container from every network it is attached to, with the
// configuration and arguments that ADD had, as far as the disk knows of one;
// otherwise with the default network and rt. Only rt.NetNS is taken from rt in
// either case: a namespace that is gone (or empty) makes a DEL without one.
//
// It is idempotent. With nothing recorded and no configuration there is nothing
// to detach from, which is success.
//
// Where the result of an ADD is recorded, a plugin's failure is an error and the
// next call tries again, for as long as it takes: the address would otherwise
// never come back. Without a result each plugin is run once, a failure is logged
// and the call succeeds, so that a plugin that has never worked does not keep
// the pod from going. containerd draws the same line.
func (c *CNI) Teardown(ctx context.Context, rt *libcni.RuntimeConf) error {
	if err := validateRuntimeConf(rt); err != nil {
		return err
	}
	unlock, err := c.locks.lock(ctx, rt.ContainerID)
	if err != nil {
		return fmt.Errorf("detach container: %w", err)
	}
	defer unlock()
	records, err := c.records(rt.ContainerID)
	if err != nil {
		return err
	}
	if len(records) == 0 {
		err = giveUpDEL(ctx, rt.ContainerID, c.deleteUnrecorded(ctx, rt))
	}
	for _, r := range records {
		err = errors.Join(err, c.deleteOrGiveUp(ctx, r, rt.NetNS))
	}
	if err != nil {
		return err
	}
	c.forget(rt.ContainerID)
	return nil
}

// deleteOrGiveUp is deleteRecord, but a record without a result goes whether or
// not DEL succeeds.
func (c *CNI) deleteOrGiveUp(ctx context.Context, r record, netns string) error {
	if r.result {
		return c.deleteRecord(ctx, r, netns)
	}
	list, rt, err := c.recordedADD(r, netns)
	if err == nil {
		err = c.deletePlugins(ctx, list, rt)
	}
	if err := giveUpDEL(ctx, r.ContainerID, err); err != nil {
		return err
	}
	// A result that was only partly written is not read, but it has a file.
	return errors.Join(c.removeResult(r), c.removeNote(r.Network, r.ContainerID, r.IfName))
}

// deletePlugins runs DEL of every plugin of a network, the last first. libcni
// stops at the first that fails, and what the others hold would stay.
func (c *CNI) deletePlugins(ctx context.Context, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
	var errs []error
	for i := range slices.Backward(list.Plugins) {
		one := *list
		one.Plugins = list.Plugins[i : i+1]
		if err := c.libcni.DelNetworkList(ctx, &one, rt); err != nil {
			errs = append(errs, fmt.Errorf("network %q: CNI DEL: %w", list.Name, err))
		}
	}
	return errors.Join(errs...)
}

// giveUpDEL logs the failure of a DEL, also one that took too long. The caller's
// own end is no failure of the plugin.
func giveUpDEL(ctx context.Context, containerID string, err error) error {
	if err == nil || errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	klog.FromContext(ctx).Error(err, "CNI DEL failed for a container without a recorded ADD; it is not tried again", "containerID", containerID)
	return nil
}

// Recorded tells whether there is an ADD of the container that no DEL has taken
// back: done, or begun.
func (c *CNI) Recorded(containerID string) (bool, error) {
	records, err := c.records(containerID)
	return len(records) > 0, err
}

func (c *CNI) forget(containerID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.attachments, containerID)
	delete(c.own, containerID)
}

// deleteRecords deletes what the disk knows of a container. Its lock is held.
func (c *CNI) deleteRecords(ctx context.Context, rt *libcni.RuntimeConf) error {
	records, err := c.records(rt.ContainerID)
	for _, r := range records {
		err = errors.Join(err, c.deleteRecord(ctx, r, rt.NetNS))
	}
	return err
}

// deleteUnrecorded runs DEL of the default network for a container that the
// disk knows nothing of, such as one attached by a runtime with another cache.
func (c *CNI) deleteUnrecorded(ctx context.Context, rt *libcni.RuntimeConf) error {
	conf, err := c.active()
	if err != nil {
		klog.FromContext(ctx).V(2).Info("Nothing to detach the container from", "containerID", rt.ContainerID, "reason", err.Error())
		return nil
	}
	del := *c.withIPRanges(conf.list, rt)
	del.NetNS = c.usableNetNS(rt.NetNS, "")
	return c.deletePlugins(ctx, conf.list, &del)
}

// adoptedLoopback is the network that dockershim and cri-dockerd bring lo up
// with.
const adoptedLoopback = "cni-loopback"

// deleteRecord runs DEL for one record and removes it.
func (c *CNI) deleteRecord(ctx context.Context, r record, netns string) error {
	err := c.runDelete(ctx, r, netns)
	if err != nil && r.Network == adoptedLoopback && ctx.Err() == nil {
		// lo ends with its namespace: nothing outside is held, and the plug-in,
		// not needed here, may have been uninstalled.
		klog.FromContext(ctx).Info("Dropping loopback attachment in spite of its failed DEL", "containerID", r.ContainerID, "err", err)
		err = c.removeResult(r)
	}
	if err != nil {
		return fmt.Errorf("network %q: CNI DEL: %w", r.Network, err)
	}
	return c.removeNote(r.Network, r.ContainerID, r.IfName)
}

func (c *CNI) runDelete(ctx context.Context, r record, netns string) error {
	list, rt, err := c.recordedADD(r, netns)
	if err != nil {
		return err
	}
	return c.libcni.DelNetworkList(ctx, list, rt)
}

// recordedADD is what ADD was called with, for DEL.
func (c *CNI) recordedADD(r record, netns string) (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	list, err := listFromCache(r.Config)
	if err != nil {
		conf, confErr := c.active()
		if confErr != nil || conf.list.Name != r.Network {
			return nil, nil, err
		}
		list = conf.list
	}
	return list, &libcni.RuntimeConf{
		ContainerID:    r.ContainerID,
		NetNS:          c.usableNetNS(netns, r.NetNS),
		IfName:         r.IfName,
		Args:           r.CniArgs,
		CapabilityArgs: r.CapabilityArgs,
	}, nil
}

// usableNetNS returns the namespace to run DEL in: the caller's, or the pinned
// one that ADD had, or none. A cached /proc/PID path is never used, since the
// process ID may be another's by now.
func (c *CNI) usableNetNS(given, cached string) string {
	if given != "" && isNamespace(given) {
		return given
	}
	if filepath.Dir(cached) == c.cfg.NetNSDir && isNamespace(cached) {
		return cached
	}
	return ""
}

// Check runs CHECK on a container's attachments with the configuration and
// arguments that ADD had, in rt.NetNS. ErrNotFound means not attached,
// ErrNotImplemented a configuration older than cniVersion 0.4. A failure that old
// plugins are known to report of attachments that work says so.
func (c *CNI) Check(ctx context.Context, rt *libcni.RuntimeConf) error {
	if err := validateRuntimeConf(rt); err != nil {
		return err
	}
	unlock, err := c.locks.lock(ctx, rt.ContainerID)
	if err != nil {
		return fmt.Errorf("check attachment: %w", err)
	}
	defer unlock()
	records, err := c.records(rt.ContainerID)
	if err != nil {
		return err
	}
	checked := false
	for _, r := range records {
		if r.begun || r.Network == adoptedLoopback {
			continue
		}
		if err := c.checkRecord(ctx, r, rt.NetNS); err != nil {
			if a, ok := c.Attachment(r.ContainerID); ok {
				err = explainCheck(err, a.IPs)
			}
			return fmt.Errorf("network %q: CNI CHECK: %w", r.Network, err)
		}
		checked = true
	}
	if !checked {
		return fmt.Errorf("CNI attachment of container %s: %w", rt.ContainerID, errdefs.ErrNotFound)
	}
	return nil
}

func (c *CNI) checkRecord(ctx context.Context, r record, netns string) error {
	list, err := listFromCache(r.Config)
	if err != nil {
		return err
	}
	err = c.libcni.CheckNetworkList(ctx, list, &libcni.RuntimeConf{
		ContainerID:    r.ContainerID,
		NetNS:          netns,
		IfName:         r.IfName,
		Args:           r.CniArgs,
		CapabilityArgs: r.CapabilityArgs,
	})
	if errors.Is(err, libcni.ErrorCheckNotSupp) {
		return fmt.Errorf("%w: %w", errdefs.ErrNotImplemented, err)
	}
	return err
}

// validateRuntimeConf refuses identifiers that libcni would make file names or
// environment variables of.
func validateRuntimeConf(rt *libcni.RuntimeConf) error {
	if rt == nil {
		return fmt.Errorf("CNI runtime configuration: %w: none given", errdefs.ErrInvalidArgument)
	}
	if err := utils.ValidateContainerID(rt.ContainerID); err != nil {
		return fmt.Errorf("container ID %q: %w: %w", rt.ContainerID, errdefs.ErrInvalidArgument, err)
	}
	if err := utils.ValidateInterfaceName(rt.IfName); err != nil {
		return fmt.Errorf("interface name %q: %w: %w", rt.IfName, errdefs.ErrInvalidArgument, err)
	}
	return nil
}
