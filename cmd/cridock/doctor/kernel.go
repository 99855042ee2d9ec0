package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

var kernelChecks = []Check{
	{Name: "overlay", run: checkOverlay},
	{Name: "user-namespaces", run: checkUserNamespaces},
	{Name: "id-mapped-mounts", run: checkIDMappedMounts},
	{Name: "seccomp", run: checkSeccomp, needsEngine: true},
	{Name: "apparmor", run: checkAppArmor, needsEngine: true},
	{Name: "selinux", run: checkSELinux, needsEngine: true},
	{Name: "cgroup-controllers", run: checkControllers},
	{Name: "br-netfilter", run: checkBridgeNetfilter},
	{Name: "ip-forwarding", run: checkIPForwarding},
	{Name: "inotify", run: checkInotify},
	{Name: "clock", run: checkClock},
}

func checkOverlay(_ context.Context, n *node) Result {
	for line := range strings.Lines(n.read("/proc/filesystems")) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[len(fields)-1] == "overlay" {
			return ok("The kernel has overlay file systems.")
		}
	}
	return warning("Run modprobe overlay, and name the module in /etc/modules-load.d.",
		"The kernel has no overlay file system, or has not loaded it: storage drivers and image volumes need it.")
}

func checkUserNamespaces(_ context.Context, n *node) Result {
	limit, err := n.number("/proc/sys/user/max_user_namespaces")
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return unknown("Whether the kernel has user namespaces is unknown: %v.", err)
	case err != nil || limit == 0:
		return warning("Set user.max_user_namespaces in /etc/sysctl.d to a number above 0.",
			"User namespaces are off: pods with hostUsers: false are refused, and programs that make their own, such as image builders, fail in pods.")
	}
	return ok("The kernel has user namespaces; pods with hostUsers: false also need cridock-runtime (cridock runtime status shows what is missing).")
}

func checkIDMappedMounts(_ context.Context, n *node) Result {
	release := strings.TrimSpace(n.read("/proc/sys/kernel/osrelease"))
	major, minor, known := kernelVersion(release)
	switch {
	case !known:
		return warning("Make /proc readable for this command.", "The kernel's release %q is unknown.", release)
	case major < 5 || major == 5 && minor < 12:
		return warning("Update the kernel to 5.12 or later.",
			"Linux %s has no mount_setattr (5.12): no recursive read-only mounts and no id-mapped mounts.", release)
	default:
		return ok("Linux %s has mount_setattr, for recursive read-only and id-mapped mounts.", release)
	}
}

func kernelVersion(release string) (major, minor int, known bool) {
	_, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	return major, minor, err == nil
}

func checkSeccomp(_ context.Context, n *node) Result {
	kernel := n.exists("/proc/sys/kernel/seccomp/actions_avail")
	switch {
	case !kernel:
		return failure("Use a kernel with CONFIG_SECCOMP_FILTER.", "The kernel has no seccomp: pods with a seccomp profile do not start.")
	case !n.caps.Seccomp:
		return failure("Use a dockerd and a runc that are built with seccomp.", "Docker has no seccomp: pods with a seccomp profile do not start.")
	case n.caps.SeccompCustom:
		return ok("Docker applies its operator's seccomp profile to pods with RuntimeDefault.")
	default:
		return ok("Docker applies its own seccomp profile to pods with RuntimeDefault.")
	}
}

func checkAppArmor(_ context.Context, n *node) Result {
	kernel := strings.HasPrefix(n.read("/sys/module/apparmor/parameters/enabled"), "Y")
	switch {
	case kernel && !n.caps.AppArmor:
		return warning("Install apparmor_parser (package apparmor) and restart Docker.",
			"The kernel has AppArmor, but Docker does not use it: pods with an AppArmor profile are refused.")
	case kernel:
		return ok("Docker confines pods with AppArmor.")
	default:
		return ok("This node has no AppArmor; pods with an AppArmor profile are refused.")
	}
}

func checkSELinux(_ context.Context, n *node) Result {
	enforce := n.exists("/sys/fs/selinux/enforce")
	switch {
	case enforce && !n.caps.SELinux:
		return warning(`Set "selinux-enabled": true in daemon.json and restart Docker.`,
			"The node has SELinux, but Docker does not label containers: pods run without SELinux confinement.")
	case enforce:
		return ok("Docker labels containers for SELinux.")
	default:
		return ok("This node has no SELinux.")
	}
}

// What the kubelet needs of each version of cgroup. On v1 it does not start without
// the first list: validateSystemRequirements in its pkg/kubelet/cm/
// container_manager_linux.go. On v2 it starts with what there is, of the controllers
// in getSupportedUnifiedControllers of cgroup_v2_manager_linux.go there; kubeadm
// refuses a node without the first list (kubernetes/system-validators), because pods
// would have no limits.
var (
	requiredV1 = []string{"cpu", "cpuacct", "cpuset", "memory"}
	usefulV1   = []string{"pids", "hugetlb", "blkio"}
	requiredV2 = []string{"cpu", "cpuset", "memory", "pids"}
	usefulV2   = []string{"hugetlb", "io"}
)

func checkControllers(_ context.Context, n *node) Result {
	have, version, err := n.controllers()
	if err != nil {
		return unknown("The cgroup controllers are unknown: %v.", err)
	}
	required, useful := requiredV2, usefulV2
	if version == "v1" {
		required, useful = requiredV1, usefulV1
	}
	missing := func(names []string) (absent []string) {
		for _, name := range names {
			if !have[name] {
				absent = append(absent, name)
			}
		}
		return absent
	}
	if absent := missing(required); len(absent) > 0 {
		return failure("Enable them on the kernel's command line, such as cgroup_enable=memory.",
			"cgroup %s lacks controllers that the kubelet needs: %s.", version, strings.Join(absent, ", "))
	}
	if absent := missing(useful); len(absent) > 0 {
		return warning("Use a kernel that has them, if pods need limits of huge pages or of processes, or statistics of input and output.",
			"cgroup %s lacks controllers that some pods need: %s.", version, strings.Join(absent, ", "))
	}
	return ok("cgroup %s has the controllers that pods need.", version)
}

// controllers returns the names of the mounted controllers. Those of v1 are options of
// their mounts, where the kubelet looks for them too.
func (n *node) controllers() (names map[string]bool, version string, err error) {
	names = map[string]bool{}
	text, err := n.readFile("/sys/fs/cgroup/cgroup.controllers")
	if err == nil {
		for _, name := range strings.Fields(text) {
			names[name] = true
		}
		return names, "v2", nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, "", err
	}
	mounts, err := n.mounts()
	for _, m := range mounts {
		if m.FSType == "cgroup" {
			for name := range strings.SplitSeq(m.SuperOptions, ",") {
				names[name] = true
			}
		}
	}
	return names, "v1", err
}

func checkBridgeNetfilter(_ context.Context, n *node) Result {
	const cure = "Run modprobe br_netfilter, set net.bridge.bridge-nf-call-iptables = 1 in /etc/sysctl.d, and name the module in /etc/modules-load.d."
	value, err := n.number("/proc/sys/net/bridge/bridge-nf-call-iptables")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return warning(cure, "br_netfilter is not loaded: on a bridge, packets between pods bypass kube-proxy and network policies.")
	case err != nil:
		return unknown("Whether iptables sees packets on a bridge is unknown: %v.", err)
	case value == 0:
		return warning(cure, "bridge-nf-call-iptables is 0: on a bridge, packets between pods bypass kube-proxy and network policies.")
	default:
		return ok("iptables sees the packets between pods on a bridge.")
	}
}

func checkIPForwarding(_ context.Context, n *node) Result {
	var results []Result
	for _, f := range n.families() {
		results = append(results, n.forwarding(f))
	}
	if !n.ipv6 {
		if value, err := n.number(ipv6.forwarding()); err == nil && value == 0 {
			results = append(results, ok("It does not forward IPv6, which the pods' network does not have."))
		}
	}
	return worst(results)
}

func (n *node) forwarding(f family) Result {
	value, err := n.number(f.forwarding())
	switch {
	case f == ipv6 && errors.Is(err, fs.ErrNotExist):
		return failure("Remove ipv6.disable=1 from the kernel's command line.", "The pods' network has IPv6 addresses, but the node has no IPv6.")
	case err != nil:
		return unknown("Whether the node forwards %s packets is unknown: %v.", f.name, err)
	case value == 0:
		return failure("Set "+f.sysctl+" = 1 in /etc/sysctl.d and run sysctl --system, before Docker starts.",
			"The node does not forward %s packets, so pods reach only their own node.", f.name)
	}
	return ok("The node forwards %s packets.", f.name)
}

// forwarding returns the file of the family's sysctl.
func (f family) forwarding() string {
	return "/proc/sys/" + strings.ReplaceAll(f.sysctl, ".", "/")
}

// Below these, a full node fails with "too many open files" or "no space left on
// device" when the kubelet or a pod watches files.
const (
	minInotifyInstances = 512
	minInotifyWatches   = 65536
)

func checkInotify(_ context.Context, n *node) Result {
	instances, err := n.number("/proc/sys/fs/inotify/max_user_instances")
	watches, watchesErr := n.number("/proc/sys/fs/inotify/max_user_watches")
	if err := errors.Join(err, watchesErr); err != nil {
		return unknown("How many inotify instances and watches a user may have is unknown: %v.", err)
	}
	if instances < minInotifyInstances || watches < minInotifyWatches {
		return warning("Set fs.inotify.max_user_instances = "+strconv.Itoa(minInotifyInstances)+" and fs.inotify.max_user_watches = "+strconv.Itoa(minInotifyWatches)+" or more in /etc/sysctl.d.",
			"A user may have %d inotify instances and %d watches, which pods of the same user share: too few for a full node.", instances, watches)
	}
	return ok("A user may have %d inotify instances and %d watches.", instances, watches)
}

func checkClock(_ context.Context, n *node) Result {
	synced, err := n.synced()
	switch {
	case err != nil:
		return warning("Check the clock with timedatectl.", "The state of the clock is unknown: %v.", err)
	case !synced:
		return warning("Run an NTP daemon such as chrony or systemd-timesyncd.",
			"Nothing keeps the clock right: certificates and tokens fail when it is off.")
	default:
		return ok("The clock is synchronized.")
	}
}
