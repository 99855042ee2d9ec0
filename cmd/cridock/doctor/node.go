package doctor

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/nodeconf"
	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/translate"
)

const pluginCNI = "cni"

// Settings are those of the cridock that is to run on the node, or that runs there.
type Settings struct {
	// Version is this cridock's.
	Version string
	// Root is the node's root directory; empty means /. All other paths are below
	// it.
	Root string
	// DaemonConfig is the engine's daemon.json.
	DaemonConfig string

	Endpoint       string // container-runtime-endpoint
	DockerEndpoint string
	RootDir        string
	// RegistryConfigDir has the mirrors of registries; empty for none.
	RegistryConfigDir string
	RuntimeDir        string
	PodLogsDir        string
	NetworkPlugin     string // cni or docker
	CNIConfDir        string
	CNIBinDirs        []string
	CNICacheDir       string
	PodCIDR           string // pod-cidr; empty: what the kubelet sends
	SocketLink        string // socket-link; empty: none
}

// Engine is what the checks ask Docker.
type Engine interface {
	Refresh(context.Context) (*engine.Capabilities, error)
	ContainerList(context.Context, filters.Args) ([]container.Summary, error)
}

// node is the view of the node that checks have. After look nothing changes it.
type node struct {
	Settings
	engine Engine

	// The node as far as it is not in files; tests replace these.
	command func(ctx context.Context, name string, args ...string) (string, error)
	disk    func(path string) (space, error)
	synced  func() (bool, error) // reports whether something keeps the clock right
	// isCridock reports whether a file is a program that contains cridock.
	isCridock func(path string) bool
	now       time.Time
	limit     time.Duration // of each check, and of each look at the node before them

	caps      *engine.Capabilities // nil: Docker does not answer, or is too old
	engineErr error
	files
	live pods
}

// space is that of a file system, each as a part of the whole.
type space struct{ free, freeInodes float64 }

func newNode(s Settings, e Engine) *node {
	if s.Root == "" {
		s.Root = "/"
	}
	return &node{Settings: s, engine: e, command: runCommand, disk: diskSpace, synced: clockSynced, isCridock: isCridock, now: time.Now(), limit: checkTimeout}
}

// look collects what several checks need.
func (n *node) look(ctx context.Context) {
	var before, after pods
	n.within(ctx, func(ctx context.Context) { n.caps, n.engineErr = n.engine.Refresh(ctx) })
	if n.engineErr == nil {
		n.within(ctx, func(ctx context.Context) { before = listPods(ctx, n.engine) })
	}
	n.within(ctx, func(ctx context.Context) {
		var err error
		if n.files, err = bounded(ctx, n.readFiles); err != nil {
			err = fmt.Errorf("files of the node are not readable within %v: %w", n.limit, err)
			n.files = files{daemon: daemonConfig{readErr: err}, cniErr: err, kubelet: kubelet{readErr: err}, left: leftovers{err: err}, sockets: sockets{err: err}}
		}
	})
	if n.engineErr == nil {
		n.within(ctx, func(ctx context.Context) { after = listPods(ctx, n.engine) })
	}
	// A pod that came or went meanwhile has left nothing behind.
	n.live = before.and(after)
}

// within runs f with a deadline. f returns when its context ends.
func (n *node) within(ctx context.Context, f func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, n.limit)
	defer cancel()
	f(ctx)
}

// files is what the node's files say.
type files struct {
	daemon  daemonConfig
	cni     *network.CNI // nil without CNI, or with cniErr
	cniErr  error
	ipv6    bool // pods have IPv6 addresses
	ipv4    bool // pods have IPv4 addresses, or the network does not say
	kubelet kubelet
	left    leftovers
	socket  string // see servedPath
	sockets sockets
}

// readFiles reads n's settings only.
func (n *node) readFiles() files {
	f := files{daemon: n.readDaemonConfig(), kubelet: n.readKubelet(), socket: n.servedPath()}
	if n.NetworkPlugin == pluginCNI {
		f.cni, f.cniErr = network.New(n.cniConfig())
	}
	conf, err := n.networkConfig(f.cni)
	f.ipv4, f.ipv6 = n.podFamilies(f.cni, conf)
	f.left = n.collect(f.cni, conf)
	f.left.err = errors.Join(f.left.err, err)
	paths := []string{f.socket, f.kubelet.Endpoint}
	for _, e := range otherEndpoints {
		paths = append(paths, e.path)
	}
	f.sockets = n.readSockets(paths)
	return f
}

func (n *node) cniConfig() network.Config {
	dirs := make([]string, len(n.CNIBinDirs))
	for i, dir := range n.CNIBinDirs {
		dirs[i] = n.path(dir)
	}
	return network.Config{ConfDir: n.path(n.CNIConfDir), BinDirs: dirs, CacheDir: n.path(n.CNICacheDir), NetNSDir: n.netnsDir()}
}

// conf reads the node's files.
func (n *node) conf() nodeconf.Root { return nodeconf.Root(n.Root) }

func (n *node) path(parts ...string) string          { return n.conf().Path(parts...) }
func (n *node) shown(path string) string             { return n.conf().Shown(path) }
func (n *node) readFile(path string) (string, error) { return n.conf().ReadFile(path) }
func (n *node) exists(path string) bool              { return n.conf().Exists(path) }

func (n *node) netnsDir() string       { return n.path(n.RuntimeDir, "netns") }
func (n *node) imageVolumeDir() string { return n.path(n.RuntimeDir, "image-volumes") }

// read returns a file's content, "" if it cannot be read.
func (n *node) read(path string) string {
	text, err := n.readFile(path)
	if err != nil {
		return ""
	}
	return text
}

// number returns the number in a file of one line. The error is fs.ErrNotExist for a
// missing file.
func (n *node) number(path string) (int, error) {
	text, err := n.readFile(path)
	if err != nil {
		return 0, err
	}
	v, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// pods are the members of pods that Docker has.
type pods struct {
	err    error
	ids    map[string]bool // of sandboxes and containers
	uids   map[string]bool // of pods
	mounts map[string]bool // sources of the containers' mounts
}

// listPods asks for all members of pods, whichever adapter made them.
func listPods(ctx context.Context, e Engine) pods {
	list, err := e.ContainerList(ctx, filters.NewArgs(filters.Arg("label", translate.LabelType)))
	p := pods{err: err, ids: map[string]bool{}, uids: map[string]bool{}, mounts: map[string]bool{}}
	for _, c := range list {
		p.ids[c.ID] = true
		p.uids[c.Labels[translate.LabelPodUID]] = true
		for _, m := range c.Mounts {
			p.mounts[m.Source] = true
		}
	}
	return p
}

// and returns the members in either.
func (p pods) and(q pods) pods {
	all := pods{err: cmp.Or(p.err, q.err), ids: map[string]bool{}, uids: map[string]bool{}, mounts: map[string]bool{}}
	for _, from := range []pods{p, q} {
		maps.Copy(all.ids, from.ids)
		maps.Copy(all.uids, from.uids)
		maps.Copy(all.mounts, from.mounts)
	}
	return all
}

// runCommand returns a program's standard output.
func runCommand(ctx context.Context, name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // iptables, with constant arguments
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// diskSpace returns that of the file system at path or its nearest parent that
// exists.
func diskSpace(path string) (space, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(path, &st)
		if errors.Is(err, unix.ENOENT) && path != filepath.Dir(path) {
			path = filepath.Dir(path)
			continue
		}
		if err != nil {
			return space{}, &fs.PathError{Op: "statfs", Path: path, Err: err}
		}
		return space{free: part(st.Bavail, st.Blocks), freeInodes: part(st.Ffree, st.Files)}, nil
	}
}

// part returns 1 for file systems without a limit.
func part(free, total uint64) float64 {
	if total == 0 {
		return 1
	}
	return float64(free) / float64(total)
}

// clockSynced reports whether the kernel is told that its clock is right, as NTP
// daemons do.
func clockSynced() (bool, error) {
	var t unix.Timex // no modes: reads only
	state, err := unix.Adjtimex(&t)
	return state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, err
}
