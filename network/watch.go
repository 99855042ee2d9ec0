package network

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"
)

const (
	// settleTime is the delay between a change and the reading of the directory,
	// so that a file written in several steps is read once and whole.
	settleTime = 200 * time.Millisecond
	// pollInterval is the interval of readings without inotify.
	pollInterval = 5 * time.Second
)

// Run follows the configuration directory until the context ends, then returns
// nil; nothing else ends it. The directory may be missing, appear later, or be
// removed and made again. Without inotify Run reads it every few seconds.
func (c *CNI) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot watch the CNI configuration directory, reading it periodically", "dir", c.cfg.ConfDir)
		return c.poll(ctx)
	}
	defer func() { _ = watcher.Close() }()
	var settled <-chan time.Time
	c.rewatch(ctx, watcher)
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-watcher.Events:
			// The first change starts the timer: a file that keeps changing must
			// not delay the reading forever.
			if settled == nil && c.concerns(event) {
				settled = time.After(settleTime)
			}
		case err := <-watcher.Errors:
			klog.FromContext(ctx).Error(err, "Error watching the CNI configuration directory")
			if settled == nil {
				settled = time.After(settleTime)
			}
		case <-settled:
			settled = nil
			c.rewatch(ctx, watcher)
		}
	}
}

func (c *CNI) poll(ctx context.Context) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			c.reload(ctx)
		}
	}
}

// concerns reports whether an event is about the configuration directory, its
// content, or a directory above it.
func (c *CNI) concerns(event fsnotify.Event) bool {
	if event.Op == fsnotify.Chmod {
		return false
	}
	const slash = string(filepath.Separator)
	name := filepath.Clean(event.Name)
	return strings.HasPrefix(name+slash, c.cfg.ConfDir+slash) || strings.HasPrefix(c.cfg.ConfDir+slash, name+slash)
}

// rewatch watches every relevant directory, then reads the configuration: in this
// order no change between the two is missed.
func (c *CNI) rewatch(ctx context.Context, watcher *fsnotify.Watcher) {
	watchPath(ctx, watcher, c.cfg.ConfDir)
	c.reload(ctx)
	conf, err := c.active()
	if err != nil || conf.list.LoadOnlyInlinedPlugins {
		return
	}
	// The network's own folder of plugin configurations (CNI 1.1).
	folder := filepath.Join(c.cfg.ConfDir, conf.list.Name)
	if err := watcher.Add(folder); err == nil {
		c.reload(ctx)
	}
}

// watchPath watches dir and all directories above it that exist, so that it is
// noticed when dir appears, disappears or is replaced. It starts at the top: a
// directory made meanwhile is either watched or reported by its parent. Adding a
// path twice is harmless.
func watchPath(ctx context.Context, watcher *fsnotify.Watcher, dir string) {
	if parent := filepath.Dir(dir); parent != dir {
		watchPath(ctx, watcher, parent)
	}
	if err := watcher.Add(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		klog.FromContext(ctx).Error(err, "Cannot watch directory", "dir", dir)
	}
}

// reload reads the configuration directory and logs what changed.
func (c *CNI) reload(ctx context.Context) {
	c.reloading.Lock()
	defer c.reloading.Unlock()
	c.mu.RLock()
	before := c.conf
	c.mu.RUnlock()
	after := loadConfiguration(c.cfg.ConfDir, before.active)
	c.mu.Lock()
	c.conf = after
	c.mu.Unlock()

	logger := klog.FromContext(ctx)
	if after.err != nil && before.err == nil {
		logger.Error(after.err, "Cannot read the CNI configuration, keeping the current network")
	}
	if text := after.brokenText(); text != "" && text != before.brokenText() {
		logger.Info("Broken CNI configuration files", "dir", c.cfg.ConfDir, "files", text)
	}
	switch {
	case after.active == nil && before.active != nil:
		logger.Info("No CNI network any more", "reason", after.unusable(c.cfg.ConfDir).Error())
	case after.active != nil && !sameNetwork(before.active, after.active):
		logger.Info("CNI network in use", "network", after.active.list.Name, "file", after.active.path)
	}
}

func sameNetwork(a, b *confFile) bool {
	return a != nil && b != nil && a.path == b.path && string(a.list.Bytes) == string(b.list.Bytes)
}
