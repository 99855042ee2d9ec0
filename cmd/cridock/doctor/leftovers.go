package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cridock/cridock/internal/mountinfo"
	"github.com/cridock/cridock/network"
)

var leftoverChecks = []Check{
	{Name: "leftover-addresses", run: checkLeftAddresses, needsEngine: true, needsCNI: true},
	{Name: "leftover-namespaces", run: checkLeftNamespaces, needsEngine: true},
	{Name: "leftover-mounts", run: checkLeftMounts, needsEngine: true},
	{Name: "leftover-logs", run: checkLeftLogs, needsEngine: true},
}

// leftovers are what pods have on the node, whether they still exist or not.
type leftovers struct {
	err error
	// attached are containers with an entry in CNI's result cache.
	attached []string
	// leases maps addresses of host-local to their containers.
	leases map[string]string
	// pins maps paths of pinned network namespaces to their sandboxes.
	pins map[string]string
	// mounts are the mount points of image volumes.
	mounts []string
	// logs maps directories of pods' logs to the pods' UIDs.
	logs map[string]string
}

// collect reads n's settings only. conf is from networkConfig.
func (n *node) collect(cni *network.CNI, conf any) leftovers {
	l := leftovers{leases: map[string]string{}, pins: map[string]string{}, logs: map[string]string{}}
	var err error
	if cni != nil {
		l.attached, err = cni.Stale(nil)
		l.err = errors.Join(l.err, err)
		for _, dir := range leaseDirs(cni.Describe().Network, conf) {
			l.err = errors.Join(l.err, n.collectLeases(dir, l.leases))
		}
	}
	pins, err := entries(n.netnsDir())
	l.err = errors.Join(l.err, err)
	for _, e := range pins {
		l.pins[n.shown(filepath.Join(n.netnsDir(), e.Name()))] = e.Name()
	}
	l.mounts, err = n.mountsBelow(n.shown(n.imageVolumeDir()))
	l.err = errors.Join(l.err, err)
	return n.collectLogs(l)
}

// collectLeases reads host-local's files: the name is an address, the first line
// the container.
func (n *node) collectLeases(dir string, leases map[string]string) error {
	files, err := entries(n.path(dir))
	for _, e := range files {
		if e.Name() == "lock" || strings.HasPrefix(e.Name(), "last_reserved_ip") {
			continue
		}
		text, readErr := n.readFile(filepath.Join(dir, e.Name()))
		if readErr != nil && !errors.Is(readErr, fs.ErrNotExist) { // it may be released meanwhile
			err = errors.Join(err, readErr)
		}
		id, _, _ := strings.Cut(text, "\n")
		if id = strings.TrimSpace(id); id != "" {
			leases[e.Name()] = id
		}
	}
	return err
}

// settled is the age from which a directory of logs belongs to a pod that Docker
// has, or had: the kubelet makes it before the pod.
const settled = 10 * time.Minute

func (n *node) collectLogs(l leftovers) leftovers {
	dirs, err := entries(n.path(n.PodLogsDir))
	l.err = errors.Join(l.err, err)
	for _, e := range dirs {
		// NAMESPACE_NAME_UID, none of which has an underscore.
		parts := strings.Split(e.Name(), "_")
		info, err := e.Info()
		if err != nil || !e.IsDir() || len(parts) != 3 || n.now.Sub(info.ModTime()) < settled {
			continue
		}
		l.logs[filepath.Join(n.PodLogsDir, e.Name())] = parts[2]
	}
	return l
}

// mountsBelow returns the mount points below a directory.
func (n *node) mountsBelow(dir string) ([]string, error) {
	mounts, err := n.mounts()
	var found []string
	for _, m := range mounts {
		if strings.HasPrefix(m.Point, dir+"/") {
			found = append(found, m.Point)
		}
	}
	return found, err
}

// mounts returns all mounts of the node.
func (n *node) mounts() ([]mountinfo.Mount, error) {
	text, err := n.readFile("/proc/self/mountinfo")
	var all []mountinfo.Mount
	for line := range strings.Lines(text) {
		if m, ok := mountinfo.Parse(line); ok {
			all = append(all, m)
		}
	}
	return all, err
}

// entries returns a directory's content; that of a missing one is empty.
func entries(dir string) ([]fs.DirEntry, error) {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return list, err
}

// unknownLeftovers returns a result if files or pods could not be listed.
func (n *node) unknownLeftovers() (Result, bool) {
	if err := errors.Join(n.left.err, n.live.err); err != nil {
		return warning("Run this command as root, and again when Docker answers.", "What pods have left is unknown: %v.", err), true
	}
	return Result{}, false
}

const collectCure = "Restart cridock, which collects what pods have left at its start; its log names what it cannot."

func checkLeftAddresses(_ context.Context, n *node) Result {
	if n.cni == nil {
		return skipped("CNI's files are not usable.")
	}
	if r, done := n.unknownLeftovers(); done {
		return r
	}
	var left []string
	for address, id := range n.left.leases {
		if !n.live.ids[id] {
			left = append(left, address)
		}
	}
	slices.Sort(left)
	for _, id := range n.left.attached {
		if !n.live.ids[id] {
			left = append(left, "the attachment of "+id[:min(len(id), 12)])
		}
	}
	if len(left) == 0 {
		return ok("All addresses belong to pods that exist.")
	}
	return warning(collectCure, "Pods that are gone hold %s.", list(left))
}

func checkLeftNamespaces(_ context.Context, n *node) Result {
	if r, done := n.unknownLeftovers(); done {
		return r
	}
	if left := gone(n.left.pins, n.live.ids); len(left) > 0 {
		return warning(collectCure, "Network namespaces of pods that are gone are pinned: %s.", list(left))
	}
	return ok("All pinned network namespaces belong to pods that exist.")
}

func checkLeftMounts(_ context.Context, n *node) Result {
	if r, done := n.unknownLeftovers(); done {
		return r
	}
	var left []string
	for _, mount := range n.left.mounts {
		if !n.mountInUse(mount) {
			left = append(left, mount)
		}
	}
	if len(left) > 0 {
		return warning(collectCure, "Image volumes of containers that are gone are mounted: %s.", list(left))
	}
	return ok("All image volumes belong to containers that exist.")
}

// mountInUse reports whether a container mounts this or something below it.
func (n *node) mountInUse(mount string) bool {
	for source := range n.live.mounts {
		if source == mount || strings.HasPrefix(source, mount+"/") {
			return true
		}
	}
	return false
}

func checkLeftLogs(_ context.Context, n *node) Result {
	if r, done := n.unknownLeftovers(); done {
		return r
	}
	if left := gone(n.left.logs, n.live.uids); len(left) > 0 {
		return warning("Start the kubelet, which removes logs of pods that are gone; if it runs with another runtime, they may be that runtime's.",
			"There are logs of pods that Docker does not have: %s.", list(left))
	}
	return ok("All logs belong to pods that exist.")
}

// gone returns the keys whose values are not live, sorted.
func gone(owners map[string]string, live map[string]bool) []string {
	var left []string
	for key, owner := range owners {
		if !live[owner] {
			left = append(left, key)
		}
	}
	slices.Sort(left)
	return left
}
