package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cridock/cridock/shim/engine"
)

var engineChecks = []Check{
	{Name: "engine", run: checkEngine},
	{Name: "engine-age", run: checkEngineAge, needsEngine: true},
	{Name: "engine-warnings", run: checkEngineWarnings, needsEngine: true},
	{Name: "storage", run: checkStorage, needsEngine: true},
	{Name: "cgroup", run: checkCgroup, needsEngine: true},
	{Name: "live-restore", run: checkLiveRestore, needsEngine: true},
	{Name: "log-driver", run: checkLogDriver, needsEngine: true},
	{Name: "rootless", run: checkRootless, needsEngine: true},
}

var daemonChecks = []Check{
	{Name: "daemon-json", run: checkDaemonJSON},
	{Name: "daemon-ip-forward", run: checkDaemonIPForward},
	{Name: "userns-remap", run: checkUsernsRemap, needsEngine: true},
	{Name: "default-runtime", run: checkDefaultRuntime, needsEngine: true},
	{Name: "insecure-registries", run: checkInsecureRegistries, needsEngine: true},
	{Name: "no-new-privileges", run: checkNoNewPrivileges, needsEngine: true},
}

func checkEngine(_ context.Context, n *node) Result {
	switch err := n.engineErr; {
	case err == nil:
		return ok("Docker %s answers at %s with API %s.", n.caps.EngineVersion, n.DockerEndpoint, n.caps.APIVersion)
	case errors.Is(err, os.ErrPermission):
		return failure("Run this command as root.", "Docker at %s may not be asked: %v.", n.DockerEndpoint, err)
	case errdefs.IsUnavailable(err), errors.Is(err, context.DeadlineExceeded):
		return failure("Start Docker (systemctl start docker), or correct docker-endpoint.", "Docker does not answer at %s: %v.", n.DockerEndpoint, err)
	default:
		return failure("Install Docker 20.10 or later, or correct docker-endpoint.", "Docker at %s is not usable: %v.", n.DockerEndpoint, err)
	}
}

func checkEngineAge(_ context.Context, n *node) Result {
	if d, found := n.caps.Deprecated(engine.DeprecatedEngine); found {
		return warning(d.Cure, "%s", d.Why)
	}
	return ok("Docker %s is not deprecated.", n.caps.EngineVersion)
}

// uninteresting are parts of dockerd's warnings that other checks explain, or that
// are about features that pods do not have.
var uninteresting = []string{"blkio", "bridge-nf-call", "IPv4 forwarding", "IPv6 forwarding"}

func checkEngineWarnings(_ context.Context, n *node) Result {
	var left []string
	for _, text := range n.caps.Warnings {
		if !slices.ContainsFunc(uninteresting, func(part string) bool { return strings.Contains(text, part) }) {
			left = append(left, strings.TrimSpace(strings.TrimPrefix(text, "WARNING: ")))
		}
	}
	if len(left) == 0 {
		return ok("Docker warns of nothing that concerns pods.")
	}
	return warning("Change what Docker's message names; docker info shows it too.", "Docker warns: %s.", strings.Join(left, "; "))
}

// slowStorage are drivers that copy whole files or trees, or that Docker has
// removed from later releases.
var slowStorage = []string{"vfs", "devicemapper", "aufs", "overlay", "native"}

func checkStorage(_ context.Context, n *node) Result {
	store := "Docker's own image store"
	if n.caps.ContainerdStore {
		store = "containerd's image store"
	}
	if slices.Contains(slowStorage, n.caps.StorageDriver) {
		return warning(`Set "storage-driver": "overlay2" in daemon.json before the node has pods; images must be pulled again.`,
			"The storage driver is %s, with %s: it is slow, or gone from later releases of Docker.", n.caps.StorageDriver, store)
	}
	return ok("The storage driver is %s, with %s.", n.caps.StorageDriver, store)
}

func checkCgroup(_ context.Context, n *node) Result {
	version := "v2"
	v1, deprecated := n.caps.Deprecated(engine.DeprecatedCgroupV1)
	if deprecated {
		version = "v1"
	}
	switch driver := n.caps.CgroupDriver; {
	case driver != "systemd" && driver != "cgroupfs":
		return failure(`Set "exec-opts": ["native.cgroupdriver=systemd"] in daemon.json.`,
			"Docker's cgroup driver is %q, with cgroup %s; the kubelet knows only systemd and cgroupfs.", driver, version)
	case deprecated:
		return warning(v1.Cure, "The cgroup driver is %s. %s", driver, v1.Why)
	case driver == "cgroupfs" && n.exists("/run/systemd/system"):
		return warning(`Set "exec-opts": ["native.cgroupdriver=systemd"] in daemon.json on a drained node, and cgroupDriver: systemd for the kubelet.`,
			"The cgroup driver is cgroupfs, with cgroup v2, although systemd manages this node's cgroups.")
	default:
		return ok("The cgroup driver is %s, with cgroup %s.", driver, version)
	}
}

func checkLiveRestore(_ context.Context, n *node) Result {
	if n.caps.LiveRestore {
		return ok("Containers keep running while dockerd restarts.")
	}
	return warning(`Set "live-restore": true in daemon.json and reload Docker (systemctl reload docker).`,
		"live-restore is off: all pods stop whenever dockerd restarts.")
}

func checkLogDriver(_ context.Context, n *node) Result {
	switch driver := n.caps.LoggingDriver; driver {
	case "json-file":
		return ok("Docker's log driver is json-file.")
	case "none":
		return warning(`Set "log-driver": "json-file" in daemon.json before another adapter makes more pods.`,
			"Docker's log driver is none: pods that another adapter made have no log; cridock's own have json-file.")
	default:
		return warning(`Set "log-driver": "json-file" in daemon.json before another adapter makes more pods.`,
			"Docker's log driver is %s: logs of pods that another adapter made are read through Docker; cridock's own have json-file.", driver)
	}
}

func checkRootless(_ context.Context, n *node) Result {
	if n.caps.Rootless {
		return failure("Use an engine that runs as root.", "Docker runs rootless, and its containers are in namespaces that the kubelet and CNI do not see.")
	}
	return ok("Docker runs as root.")
}

// daemonConfig is what matters here in daemon.json.
type daemonConfig struct {
	missing bool
	readErr error // its content is unknown
	err     error // its content is wrong

	IPForward       *bool `json:"ip-forward"`
	IPTables        *bool `json:"iptables"`
	NoNewPrivileges bool  `json:"no-new-privileges"`
}

func (n *node) readDaemonConfig() (c daemonConfig) {
	b, err := os.ReadFile(n.path(n.DaemonConfig))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.missing = true
	case err != nil:
		c.readErr = err
	default:
		if err := json.Unmarshal(b, &c); err != nil {
			c = daemonConfig{err: err}
		}
	}
	return c
}

func checkDaemonJSON(_ context.Context, n *node) Result {
	switch c := n.daemon; {
	case c.missing:
		return ok("There is no %s; Docker uses its defaults.", n.DaemonConfig)
	case c.readErr != nil:
		return unknown("Whether Docker will start again with %s is unknown: %v.", n.DaemonConfig, c.readErr)
	case c.err != nil:
		return failure("Correct the file; dockerd --validate shows more.", "Docker will not start again with %s: %v.", n.DaemonConfig, c.err)
	case c.IPTables != nil && !*c.IPTables && n.NetworkPlugin != pluginCNI:
		return warning(`Remove "iptables" from daemon.json and restart Docker.`,
			"iptables is false in %s: Docker's networks have no way out, and publish no host ports.", n.DaemonConfig)
	default:
		return ok("Docker can read %s.", n.DaemonConfig)
	}
}

func checkDaemonIPForward(_ context.Context, n *node) Result {
	if n.daemon.readErr != nil || n.daemon.err != nil {
		return skipped("%s is not usable.", n.DaemonConfig)
	}
	if f := n.daemon.IPForward; f != nil && !*f {
		return warning(`Remove "ip-forward" from daemon.json, or set net.ipv4.ip_forward in /etc/sysctl.d.`,
			"ip-forward is false in %s: Docker does not turn on forwarding, which pods need.", n.DaemonConfig)
	}
	return ok("Docker turns on IP forwarding if nothing else has.")
}

func checkUsernsRemap(_ context.Context, n *node) Result {
	if n.caps.UsernsRemap {
		return warning(`Remove "userns-remap" from daemon.json on a drained node; images must be pulled again.`,
			"userns-remap is on: root in a pod is another user on the node, who cannot write to most volumes.")
	}
	return ok("Users in pods are the same on the node: userns-remap is off.")
}

func checkDefaultRuntime(_ context.Context, n *node) Result {
	name := n.caps.DefaultRuntime
	if slices.Contains([]string{"", "runc", "io.containerd.runc.v2"}, name) {
		return ok("Pods without a RuntimeClass run with runc.")
	}
	return warning(`Remove "default-runtime" from daemon.json, and give a RuntimeClass to the pods that need this runtime.`,
		"Pods without a RuntimeClass run with %s.", name)
}

func checkInsecureRegistries(_ context.Context, n *node) Result {
	var others []string
	for _, registry := range n.caps.InsecureRegistries {
		if !loopback(registry) {
			others = append(others, registry)
		}
	}
	if len(others) == 0 {
		return ok("Docker pulls without TLS only from loopback.")
	}
	return warning(`Give these registries certificates, and remove "insecure-registries" from daemon.json.`,
		"Docker pulls without verified TLS from %s: who is on the way can change images and read credentials.", strings.Join(others, ", "))
}

// loopback reports whether a registry, or a network of them, is on this machine.
// Docker trusts these without being told.
func loopback(registry string) bool {
	if prefix, err := netip.ParsePrefix(registry); err == nil {
		return prefix.Addr().IsLoopback()
	}
	host := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || strings.EqualFold(host, "localhost")
}

func checkNoNewPrivileges(_ context.Context, n *node) Result {
	if n.caps.NoNewPrivileges || n.daemon.NoNewPrivileges {
		return warning(`Remove "no-new-privileges" from daemon.json, and set allowPrivilegeEscalation: false in the pods that can do without.`,
			"no-new-privileges is on for all containers: set-user-ID programs such as sudo do not work in any pod.")
	}
	return ok("Pods decide about no_new_privs themselves.")
}

// list joins names for a sentence, the first few of them.
func list(names []string) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
