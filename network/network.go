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

	"github.com/cridock/cridock/internal/keylock"
)

const (
	// rollbackTimeout bounds the DEL after a failed ADD, whose own context may
	// have ended.
	rollbackTimeout = 30 * time.Second
	// statusTimeout bounds the STATUS verb of all plugins together.
	statusTimeout = 10 * time.Second
)

// Config configures a [CNI]. ConfDir, BinDirs, CacheDir and NetNSDir are required
// and must be absolute.
type Config struct {
	// ConfDir holds the network configurations, usually /etc/cni/net.d. It may be
	// missing.
	ConfDir string
	// BinDirs are searched for plugins in order.
	BinDirs []string
	// CacheDir is the root of libcni's cache, which keeps its entries in
	// CacheDir/results. cri-dockerd's is /var/lib/cni/cache.
	CacheDir string
	// NetNSDir is where the caller pins network namespaces, each under its
	// container's ID.
	NetNSDir string
	// Exec runs the plugins; if nil, they are run from BinDirs.
	Exec invoke.Exec
	// ConfTemplate is the path of a text/template that SetPodCIDRs renders into
	// ConfDir; empty for none.
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
		return fmt.Errorf("CNI plugin directories: %w: none given", errdefs.ErrInvalidArgument)
	}
	return nil
}

// CNI attaches containers to the default network of the configuration directory.
// All methods are safe for concurrent use: calls about one container run one after
// the other, calls about different containers in parallel. When its context ends,
// a method kills the running plugin and returns.
type CNI struct {
	cfg    Config
	libcni *libcni.CNIConfig
	notes  *libcni.CNIConfig // reads the notes of pending ADDs, runs nothing
	locks  keylock.Lock      // by container ID

	reloading   sync.Mutex // one reading of ConfDir at a time
	mu          sync.RWMutex
	conf        configuration
	attachments map[string]*Attachment // by container ID
	own         map[string]struct{}    // containers that this process attached or is attaching

	cidrs podCIDRs
}

// New returns a CNI. It reads the configuration directory, the result cache and
// the last pod CIDRs, and starts nothing: Run follows changes of the
// configuration. A missing configuration is not an error here; Status reports it.
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

// loadAttachments reads the attachments from the result cache. An ADD with a note
// is not an attachment: its Setup did not return.
func (c *CNI) loadAttachments() error {
	records, err := c.records("")
	if err != nil {
		return err
	}
	for _, r := range records {
		// Other adapters record their loopback network for eth0, and its address
		// need not name its interface.
		if r.begun || r.IfName == "lo" || r.Network == adoptedLoopback {
			continue
		}
		// Conversion to the newest version loses nothing of an older result.
		list := &libcni.NetworkConfigList{Name: r.Network, CNIVersion: version.Current()}
		rt := &libcni.RuntimeConf{ContainerID: r.ContainerID, IfName: r.IfName}
		result, err := c.libcni.GetNetworkListCachedResult(list, rt)
		if err != nil || result == nil {
			continue // DEL needs only the configuration
		}
		rt.NetNS = r.NetNS
		if a, err := newAttachment(r.Network, rt, result); err == nil {
			c.attachments[a.ContainerID] = a
		}
	}
	return nil
}

// Attachment returns the completed attachment of a container, which must not be
// changed. It does no I/O; attachments survive restarts.
func (c *CNI) Attachment(containerID string) (*Attachment, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	a, ok := c.attachments[containerID]
	return a, ok
}

// active returns the default network, or an error that says why there is none.
func (c *CNI) active() (*confFile, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.conf.active == nil {
		return nil, c.conf.unusable(c.cfg.ConfDir)
	}
	return c.conf.active, nil
}

// Status returns nil if pods can be attached, else an error in words fit for the
// NetworkReady condition: no configuration, broken files by name, missing plugins,
// or the error of the STATUS verb (configurations of cniVersion 1.1 and later).
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

// findPlugins returns nil if all plugins of a network are installed.
func (c *CNI) findPlugins(conf *confFile) error {
	for _, plugin := range conf.list.Plugins {
		if _, err := c.cfg.Exec.FindInPath(plugin.Network.Type, c.cfg.BinDirs); err != nil {
			return fmt.Errorf("network %q (%s): %w", conf.list.Name, filepath.Base(conf.path), err)
		}
	}
	return nil
}

// Setup attaches a container to the default network: it enables IPv6 and lo in the
// namespace and runs ADD with rt, plus the ipRanges capability from SetPodCIDRs.
// It does not change rt. It first deletes what an earlier Setup of the same
// container left.
//
// If ADD fails in any way, Setup runs DEL with its own context before it returns;
// if that fails too, the error has both, and Teardown tries again with the same
// configuration. A result without an address is a failure. ErrFailedPrecondition
// means that there is no usable configuration, or that one of its plugins is not
// installed.
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
	// With a plugin missing, neither ADD nor the DEL after it could finish, and
	// what the other plugins did would stay.
	if err := c.findPlugins(conf); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
	}
	unlock, err := c.locks.Lock(ctx, rt.ContainerID)
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

// attach does the work of Setup on disk and in the namespace.
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

// add runs ADD and deletes its note.
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

// rollback runs DEL after a failed ADD, whose context may have ended.
func (c *CNI) rollback(ctx context.Context, rt *libcni.RuntimeConf) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if err := c.deleteRecords(ctx, rt); err != nil {
		return fmt.Errorf("roll back: %w", err)
	}
	return nil
}

// claim marks the container as not stale for GC, even if GC has an older list.
func (c *CNI) claim(containerID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own[containerID] = struct{}{}
}

// Teardown detaches a container from every network it is attached to, with the
// configuration and arguments of ADD if they are recorded, otherwise from the
// default network with rt. With a record, only rt.NetNS is taken from rt. If the
// namespace is gone (or empty), DEL runs without one.
//
// It is idempotent. With nothing recorded and no configuration it succeeds: there
// is nothing to detach from.
//
// If the result of an ADD is recorded, a plugin's failure is an error, and every
// further call tries again: otherwise the address would never be released. Without
// a result each plugin runs once, a failure is logged and the call succeeds, so
// that a plugin that never worked does not prevent the pod's removal. containerd
// does the same.
func (c *CNI) Teardown(ctx context.Context, rt *libcni.RuntimeConf) error {
	if err := validateRuntimeConf(rt); err != nil {
		return err
	}
	unlock, err := c.locks.Lock(ctx, rt.ContainerID)
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

// deleteOrGiveUp is like deleteRecord, but removes a record without a result even
// if DEL fails.
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
	// A partly written result is not read, but it has a file.
	return errors.Join(c.removeResult(r), c.removeNote(r.Network, r.ContainerID, r.IfName))
}

// deletePlugins runs DEL of every plugin of a network, the last first. libcni stops
// at the first that fails, and the others would release nothing.
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

// giveUpDEL logs the failure of a DEL, a timeout included, and returns nil. If the
// caller cancelled, it returns err: that is not the plugin's failure.
func giveUpDEL(ctx context.Context, containerID string, err error) error {
	if err == nil || errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	klog.FromContext(ctx).Error(err, "CNI DEL failed for a container without a recorded ADD result, not retrying", "containerID", containerID)
	return nil
}

// Recorded reports whether an ADD of the container, finished or pending, is
// recorded that no DEL has undone.
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

// deleteRecords runs DEL for all records of a container and removes them. The
// caller holds the container's lock.
func (c *CNI) deleteRecords(ctx context.Context, rt *libcni.RuntimeConf) error {
	records, err := c.records(rt.ContainerID)
	for _, r := range records {
		err = errors.Join(err, c.deleteRecord(ctx, r, rt.NetNS))
	}
	return err
}

// deleteUnrecorded runs DEL of the default network for a container without
// records, such as one attached by a runtime with another cache.
func (c *CNI) deleteUnrecorded(ctx context.Context, rt *libcni.RuntimeConf) error {
	conf, err := c.active()
	if err != nil {
		klog.FromContext(ctx).V(2).Info("No network to detach the container from", "containerID", rt.ContainerID, "reason", err.Error())
		return nil
	}
	del := *c.withIPRanges(conf.list, rt)
	del.NetNS = c.usableNetNS(rt.NetNS, "")
	return c.deletePlugins(ctx, conf.list, &del)
}

// adoptedLoopback is the network with which dockershim and cri-dockerd bring lo up.
const adoptedLoopback = "cni-loopback"

// deleteRecord runs DEL for one record and removes it.
func (c *CNI) deleteRecord(ctx context.Context, r record, netns string) error {
	err := c.runDelete(ctx, r, netns)
	if err != nil && r.Network == adoptedLoopback && ctx.Err() == nil {
		// lo disappears with its namespace and holds nothing outside; the plugin,
		// not needed here, may have been uninstalled.
		klog.FromContext(ctx).Info("Dropping the loopback attachment although its DEL failed", "containerID", r.ContainerID, "err", err)
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

// recordedADD returns the arguments of the recorded ADD, for DEL.
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

// usableNetNS returns the namespace for DEL: the caller's, or the pinned one of
// ADD, or none. A cached /proc/PID path is never used: the process ID may have been
// reused.
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
// arguments of ADD, in rt.NetNS. ErrNotFound means not attached,
// ErrNotImplemented a configuration older than cniVersion 0.4. A failure that old
// plugins are known to report for working attachments is marked as inconclusive.
func (c *CNI) Check(ctx context.Context, rt *libcni.RuntimeConf) error {
	if err := validateRuntimeConf(rt); err != nil {
		return err
	}
	unlock, err := c.locks.Lock(ctx, rt.ContainerID)
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

// validateRuntimeConf refuses invalid identifiers, which libcni would use in file
// names and environment variables.
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
