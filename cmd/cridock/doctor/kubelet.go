package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"sigs.k8s.io/yaml"

	"github.com/cridock/cridock/internal/nodeconf"
)

var kubeletChecks = []Check{
	{Name: "kubelet-endpoint", run: checkKubeletEndpoint},
	{Name: "kubelet-cgroup-driver", run: checkKubeletCgroupDriver, needsEngine: true},
	{Name: "kubelet-pod-logs", run: checkKubeletPodLogs},
}

// kubelet is how the node's kubelet runs, or would if it were started.
type kubelet struct {
	readErr error // a file could not be read
	err     error // the configuration is wrong
	present bool
	source  string // where the settings are from

	Endpoint     string `json:"containerRuntimeEndpoint"`
	CgroupDriver string `json:"cgroupDriver"`
	PodLogsDir   string `json:"podLogsDir"`
}

const (
	kubeletDir           = "/var/lib/kubelet"
	defaultKubeletConfig = kubeletDir + "/config.yaml"
)

// readKubelet reads the command line of a running kubelet, else of its systemd unit,
// and the configuration file that it names. Flags override the file.
func (n *node) readKubelet() kubelet {
	k := kubelet{source: "the running kubelet"}
	line := n.kubeletProcess()
	if line == "" {
		k.source = "the kubelet's unit"
		line, k.readErr = n.kubeletUnit()
	}
	config := nodeconf.FlagValue(line, "config")
	if config == "" && n.exists(defaultKubeletConfig) {
		config = defaultKubeletConfig
	}
	k.present = line != "" || config != ""
	if config != "" {
		text, err := n.readFile(config)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // kubeadm makes it later
			k.readErr = errors.Join(k.readErr, err)
		}
		if err := yaml.Unmarshal([]byte(text), &k); err != nil {
			k.err = fmt.Errorf("%s: %w", config, err)
		}
		if line == "" {
			k.source = config
		}
	}
	for name, field := range map[string]*string{"container-runtime-endpoint": &k.Endpoint, "cgroup-driver": &k.CgroupDriver} {
		if v := nodeconf.FlagValue(line, name); v != "" {
			*field = v
		}
	}
	return k
}

// kubeletProcess returns the arguments of a running kubelet, "" if there is none. A
// process of another user, or in a container, may only call itself kubelet.
func (n *node) kubeletProcess() string {
	own, _ := os.Readlink(n.path("/proc/self/ns/mnt")) // "" matches no process
	dirs, _ := filepath.Glob(n.path("/proc/[0-9]*"))   // the pattern is valid
	for _, dir := range dirs {
		args := strings.Split(strings.TrimSuffix(n.read(n.shown(filepath.Join(dir, "cmdline"))), "\x00"), "\x00")
		if filepath.Base(args[0]) != "kubelet" {
			continue
		}
		mounts, err := os.Readlink(filepath.Join(dir, "ns/mnt"))
		if err == nil && mounts == own && ownedBySelf(dir) {
			return strings.Join(args, " ")
		}
	}
	return ""
}

func ownedBySelf(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// kubeletUnit returns the command line of the kubelet's unit, "" if there is none.
func (n *node) kubeletUnit() (string, error) {
	u, err := n.conf().ReadUnit("kubelet.service")
	if err != nil {
		return "", err
	}
	words, err := n.conf().ServiceCommand(u)
	return strings.Join(words, " "), err
}

// unknownKubelet returns a result if there is nothing to compare.
func (n *node) unknownKubelet() (Result, bool) {
	switch k := n.kubelet; {
	case k.readErr != nil:
		return unknown("The kubelet's configuration is unknown: %v.", k.readErr), true
	case k.err != nil:
		return failure("Correct the file; the kubelet does not start with it.", "The kubelet's configuration is wrong: %v.", k.err), true
	case !k.present:
		return skipped("This node has no kubelet yet."), true
	}
	return Result{}, false
}

func checkKubeletEndpoint(_ context.Context, n *node) Result {
	if r, done := n.unknownKubelet(); done {
		return r
	}
	const cure = "Set the kubelet's containerRuntimeEndpoint, or install deploy/systemd/kubelet-10-cridock.conf, and restart the kubelet."
	switch used := n.kubelet.Endpoint; {
	case used == "":
		return warning(cure, "The kubelet has no endpoint (%s), and uses containerd's instead of %s.", n.kubelet.source, n.Endpoint)
	case n.reaches(used):
		return ok("The kubelet uses cridock's endpoint %s.", used)
	case n.servedByCridock(used):
		return warning(settingsCure, "The kubelet uses %s (%s), which cridock serves; the settings of this command have %s.", used, n.kubelet.source, n.Endpoint)
	case n.socket == "":
		return skipped("The kubelet uses %s (%s); systemd passes cridock's socket, and no unit of cridock says where it is.", used, n.kubelet.source)
	default:
		return warning(cure, "The kubelet uses %s (%s), and not cridock's %s.", used, n.kubelet.source, n.Endpoint)
	}
}

func checkKubeletCgroupDriver(_ context.Context, n *node) Result {
	if r, done := n.unknownKubelet(); done {
		return r
	}
	switch driver := n.kubelet.CgroupDriver; driver {
	case "":
		return ok("The kubelet has no cgroup driver of its own: from 1.31 on it asks cridock, earlier ones need cgroupDriver: %s.", n.caps.CgroupDriver)
	case n.caps.CgroupDriver:
		return ok("The kubelet and Docker have the same cgroup driver, %s.", driver)
	default:
		return failure("Set cgroupDriver: "+n.caps.CgroupDriver+" for the kubelet, and restart it.",
			"The kubelet's cgroup driver is %s (%s), Docker's is %s.", driver, n.kubelet.source, n.caps.CgroupDriver)
	}
}

func checkKubeletPodLogs(_ context.Context, n *node) Result {
	if r, done := n.unknownKubelet(); done {
		return r
	}
	dir := n.kubelet.PodLogsDir
	if dir == "" {
		dir = "/var/log/pods"
	}
	if filepath.Clean(dir) != filepath.Clean(n.PodLogsDir) {
		return failure("Set pod-logs-dir to the kubelet's podLogsDir.", "The kubelet wants the logs of pods in %s (%s); cridock's pod-logs-dir is %s.", dir, n.kubelet.source, n.PodLogsDir)
	}
	return ok("The kubelet and cridock keep the logs of pods in %s.", dir)
}
