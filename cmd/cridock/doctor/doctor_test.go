package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine"
)

func TestHealthyNode(t *testing.T) {
	x := newTree(t)
	x.serve(0o660)
	r := x.examine()
	for _, result := range r.Results {
		if result.State != OK || result.Cure != "" || result.Why == "" {
			t.Errorf("%+v", result)
		}
	}
	if r.State != OK || r.Version != "v1.0.0" || len(r.Results) != len(Checks()) {
		t.Errorf("state %s of version %s with %d results", r.State, r.Version, len(r.Results))
	}
}

// breakage is one thing that is wrong with a node.
type breakage struct {
	check   string
	name    string
	breaks  func(*tree)
	state   State
	why     string   // part of the reason
	also    []string // checks that it changes as well
	stopped bool     // cridock does not run
}

func caps(change func(*engine.Capabilities)) func(*tree) {
	return func(x *tree) { change(&x.docker.caps) }
}

func file(path, content string) func(*tree) { return func(x *tree) { x.write(path, content) } }

func without(path string) func(*tree) { return func(x *tree) { x.remove(path) } }

// allOfDocker are skipped without Docker.
func allOfDocker() (names []string) {
	for _, c := range Checks() {
		if c.needsEngine {
			names = append(names, c.Name)
		}
	}
	return names
}

// allOfCNI are skipped with another network plugin.
func allOfCNI() (names []string) {
	for _, c := range Checks() {
		if c.needsCNI {
			names = append(names, c.Name)
		}
	}
	return names
}

var engineBreakages = []breakage{
	{"engine", "nobody listens", func(x *tree) { x.docker.err = fmt.Errorf("%w: refused", errdefs.ErrUnavailable) }, Error, "does not answer at unix:///var/run/docker.sock", allOfDocker(), false},
	{"engine", "no permission", func(x *tree) { x.docker.err = fmt.Errorf("%w: %w", errdefs.ErrUnavailable, os.ErrPermission) }, Error, "may not be asked", allOfDocker(), false},
	{"engine", "too old", func(x *tree) { x.docker.err = errors.New("docker 19.03 speaks API 1.40") }, Error, "API 1.40", allOfDocker(), false},
	{"engine-age", "API 1.43", caps(func(c *engine.Capabilities) { c.EngineVersion, c.APIVersion = "24.0.9", "1.43" }), Warning, "24.0.9 speaks API 1.43", nil, false},
	{"engine-warnings", "a warning", caps(func(c *engine.Capabilities) { c.Warnings = []string{"WARNING: No swap limit support"} }), Warning, "No swap limit support", nil, false},
	{"storage", "vfs", caps(func(c *engine.Capabilities) { c.StorageDriver = "vfs" }), Warning, "vfs", nil, false},
	{"storage", "copying snapshotter", caps(func(c *engine.Capabilities) { c.StorageDriver, c.ContainerdStore = "native", true }), Warning, "containerd's image store", nil, false},
	{"cgroup", "no driver", caps(func(c *engine.Capabilities) { c.CgroupDriver = "none" }), Error, `"none"`, []string{"kubelet-cgroup-driver"}, false},
	{"cgroup", "v1", caps(func(c *engine.Capabilities) { c.CgroupV2 = false }), Warning, "cgroup v1", nil, false},
	{"cgroup", "cgroupfs beside systemd", caps(func(c *engine.Capabilities) { c.CgroupDriver = "cgroupfs" }), Warning, "systemd manages", []string{"kubelet-cgroup-driver"}, false},
	{"live-restore", "off", caps(func(c *engine.Capabilities) { c.LiveRestore = false }), Warning, "live-restore is off", nil, false},
	{"log-driver", "none", caps(func(c *engine.Capabilities) { c.LoggingDriver = "none" }), Warning, "have no log", nil, false},
	{"log-driver", "journald", caps(func(c *engine.Capabilities) { c.LoggingDriver = "journald" }), Warning, "journald", nil, false},
	{"rootless", "rootless", caps(func(c *engine.Capabilities) { c.Rootless = true }), Error, "rootless", nil, false},
	{"daemon-json", "not JSON", file("/etc/docker/daemon.json", "{"), Error, "will not start again", []string{"daemon-ip-forward"}, false},
	{"daemon-json", "a wrong type", file("/etc/docker/daemon.json", `{"ip-forward": "yes"}`), Error, "ip-forward", []string{"daemon-ip-forward"}, false},
	{"daemon-json", "unreadable", unreadable("/etc/docker/daemon.json"), Warning, "is unknown: read", []string{"daemon-ip-forward"}, false},
	{"daemon-json", "no iptables for Docker's network", func(x *tree) {
		x.NetworkPlugin = "docker"
		x.write("/etc/docker/daemon.json", `{"iptables": false}`)
	}, Warning, "no way out", allOfCNI(), false},
	{"daemon-ip-forward", "off", file("/etc/docker/daemon.json", `{"ip-forward": false}`), Warning, "ip-forward is false", nil, false},
	{"userns-remap", "on", caps(func(c *engine.Capabilities) { c.UsernsRemap = true }), Warning, "another user", nil, false},
	{"default-runtime", "another", caps(func(c *engine.Capabilities) { c.DefaultRuntime = "nvidia" }), Warning, "run with nvidia", nil, false},
	{"insecure-registries", "one", caps(func(c *engine.Capabilities) { c.InsecureRegistries = []string{"10.0.0.0/8", "127.0.0.0/8"} }), Warning, "from 10.0.0.0/8:", nil, false},
	{"insecure-registries", "one that looks local", caps(func(c *engine.Capabilities) { c.InsecureRegistries = []string{"127.example.com:5000"} }), Warning, "from 127.example.com:5000", nil, false},
	{"no-new-privileges", "reported by Docker", caps(func(c *engine.Capabilities) { c.NoNewPrivileges = true }), Warning, "set-user-ID", nil, false},
	{"no-new-privileges", "in the file", file("/etc/docker/daemon.json", `{"no-new-privileges": true}`), Warning, "set-user-ID", nil, false},
}

var imageBreakages = []breakage{
	{"mirrors", "one is down", file("/etc/cridock/certs.d/quay.io/hosts.toml", `[host."http://127.0.0.1:1"]`), Warning, "http://127.0.0.1:1/v2 for quay.io", nil, false},
	{"mirrors", "a wrong file", file("/etc/cridock/certs.d/quay.io/hosts.toml", "mirror = 1"), Error, "unknown key", nil, false},
	{"mirrors", "unreadable", file("/etc/cridock/certs.d", ""), Warning, "unknown", nil, false},
}

var kernelBreakages = []breakage{
	{"overlay", "missing", file("/proc/filesystems", "\text4\n\tnooverlay\n"), Warning, "no overlay", nil, false},
	{"user-namespaces", "forbidden", file("/proc/sys/user/max_user_namespaces", "0\n"), Warning, "are off", nil, false},
	{"user-namespaces", "not built in", without("/proc/sys/user"), Warning, "are off", nil, false},
	{"user-namespaces", "unreadable", unreadable("/proc/sys/user/max_user_namespaces"), Warning, "unknown", nil, false},
	{"id-mapped-mounts", "Linux 5.10", file("/proc/sys/kernel/osrelease", "5.10.0-26-amd64\n"), Warning, "mount_setattr", nil, false},
	{"id-mapped-mounts", "unknown", without("/proc/sys/kernel/osrelease"), Warning, "unknown", nil, false},
	{"seccomp", "not in the kernel", without("/proc/sys/kernel/seccomp"), Error, "kernel has no seccomp", nil, false},
	{"seccomp", "not in Docker", caps(func(c *engine.Capabilities) { c.Seccomp = false }), Error, "Docker has no seccomp", nil, false},
	{"apparmor", "not in Docker", caps(func(c *engine.Capabilities) { c.AppArmor = false }), Warning, "Docker does not use it", nil, false},
	{"selinux", "not in Docker", caps(func(c *engine.Capabilities) { c.SELinux = false }), Warning, "does not label", nil, false},
	{"cgroup-controllers", "no memory", file("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io hugetlb pids\n"), Error, "v2 lacks controllers that the kubelet needs: memory", nil, false},
	{"cgroup-controllers", "no hugetlb", file("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"), Warning, "hugetlb", nil, false},
	{"cgroup-controllers", "v2 without pids", file("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb\n"), Error, "v2 lacks controllers that the kubelet needs: pids", nil, false},
	{"cgroup-controllers", "v1 without cpuacct", cgroupV1("cpu", "cpuset", "memory", "pids", "blkio", "hugetlb"), Error, "v1 lacks controllers that the kubelet needs: cpuacct", nil, false},
	{"cgroup-controllers", "v1 without pids", cgroupV1("cpu,cpuacct", "cpuset", "memory", "blkio", "hugetlb"), Warning, "v1 lacks controllers that some pods need: pids", nil, false},
	{"cgroup-controllers", "unreadable", unreadable("/sys/fs/cgroup/cgroup.controllers"), Warning, "unknown", nil, false},
	{"br-netfilter", "not loaded", without("/proc/sys/net/bridge"), Warning, "not loaded", nil, false},
	{"br-netfilter", "unreadable", unreadable("/proc/sys/net/bridge/bridge-nf-call-iptables"), Warning, "unknown", nil, false},
	{"br-netfilter", "off", file("/proc/sys/net/bridge/bridge-nf-call-iptables", "0\n"), Warning, "is 0", nil, false},
	{"ip-forwarding", "off", file("/proc/sys/net/ipv4/ip_forward", "0\n"), Error, "does not forward IPv4", nil, false},
	{"ip-forwarding", "off for IPv6", func(x *tree) {
		x.write("/proc/sys/net/ipv6/conf/all/forwarding", "0\n")
		x.write("/etc/cni/net.d/10-pods.conflist", dualStack)
	}, Error, "does not forward IPv6", nil, false},
	{"ip-forwarding", "no IPv6 on the node", func(x *tree) {
		x.remove("/proc/sys/net/ipv6")
		x.write("/etc/cni/net.d/10-pods.conflist", dualStack)
	}, Error, "has no IPv6", nil, false},
	{"ip-forwarding", "unreadable", unreadable("/proc/sys/net/ipv4/ip_forward"), Warning, "unknown", nil, false},
	{"inotify", "few instances", file("/proc/sys/fs/inotify/max_user_instances", "128\n"), Warning, "128 inotify instances", nil, false},
	{"inotify", "unreadable", unreadable("/proc/sys/fs/inotify/max_user_watches"), Warning, "unknown", nil, false},
	{"inotify", "few watches", file("/proc/sys/fs/inotify/max_user_watches", "8192\n"), Warning, "8192 watches", nil, false},
	{"clock", "not synchronized", func(x *tree) { x.synced = func() (bool, error) { return false, nil } }, Warning, "Nothing keeps the clock right", nil, false},
	{"clock", "unknown", func(x *tree) { x.synced = func() (bool, error) { return false, os.ErrPermission } }, Warning, "unknown", nil, false},
}

// unreadable puts a directory in a file's place: root may read everything else.
func unreadable(path string) func(*tree) {
	return func(x *tree) {
		x.remove(path)
		x.write(path+"/file", "")
	}
}

// cgroupV1 mounts a hierarchy for each list of controllers.
func cgroupV1(hierarchies ...string) func(*tree) {
	return func(x *tree) {
		x.remove("/sys/fs/cgroup/cgroup.controllers")
		mounts := x.read("/proc/self/mountinfo")
		for _, h := range hierarchies {
			mounts += "31 30 0:28 / /sys/fs/cgroup/" + h + " rw,relatime - cgroup cgroup rw," + h + "\n"
		}
		x.write("/proc/self/mountinfo", mounts)
	}
}

// dualStack has addresses of both families.
var dualStack = strings.Replace(conflist, `[{"subnet": "10.77.0.0/16"}]`, `[{"subnet": "10.77.0.0/16"}], [{"subnet": "fd77::/64"}]`, 1)

const (
	dropped = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -i docker0 -o docker0 -j ACCEPT\n-A FORWARD -j KUBE-FORWARD\n"
	// single has one plugin, and the STATUS verb.
	single = `{"cniVersion": "1.1.0", "name": "pods", "plugins": [{"type": "bridge"}]}`
)

func rules(command, out string) func(*tree) {
	return func(x *tree) { x.programs[command] = program{out: out} }
}

var noNetwork = []string{"cni-plugins", "cni-status", "host-ports"}

var networkBreakages = []breakage{
	{"cni-config", "no directory", without("/etc/cni"), Error, "no CNI network configuration in", noNetwork, false},
	{"cni-config", "only a broken file", file("/etc/cni/net.d/10-pods.conflist", "{"), Error, "10-pods.conflist", noNetwork, false},
	{"cni-config", "a broken file beside it", file("/etc/cni/net.d/20-old.conflist", "{"), Warning, "20-old.conflist", nil, false},
	{"cni-config", "an unreadable cache", file("/var/lib/cni/cache/results", ""), Error, "not usable", append([]string{"leftover-addresses"}, noNetwork...), false},
	{"cni-plugins", "one is missing", without("/opt/cni/bin/portmap"), Error, "needs the plugin portmap", []string{"cni-status"}, false},
	{"cni-plugins", "IPAM's is missing", without("/opt/cni/bin/host-local"), Warning, "The IPAM plugin host-local is in none of /opt/cni/bin: cridock does not look for it, so NetworkReady may be true", nil, false},
	{"cni-plugins", "one does not run", file("/opt/cni/bin/bridge", "#!/bin/sh\nexit 1\n"), Error, "does not answer VERSION", []string{"cni-status"}, false},
	{"cni-plugins", "one is too old", func(x *tree) {
		x.write("/opt/cni/bin/portmap", strings.Replace(plugin, `,"1.1.0"]`, "]", 1))
	}, Error, "for CNI 1.1.0; the plugin /opt/cni/bin/portmap speaks 0.4.0, 1.0.0", []string{"cni-status"}, false},
	{"cni-status", "a plugin is not ready", func(x *tree) {
		x.write("/opt/cni/bin/bridge", plugin+"[ \"$CNI_COMMAND\" != STATUS ] || { echo '{\"code\":50,\"msg\":\"no route to the controller\"}'; exit 1; }\n")
	}, Error, "no route to the controller", nil, false},
	{"host-ports", "no plugin", file("/etc/cni/net.d/10-pods.conflist", single), Warning, "hostPort in a pod has no effect", nil, false},
	{"forward-policy", "DROP", rules("iptables -S", dropped), Error, "over IPv4 they reach nothing", nil, false},
	{"forward-policy", "a chain that returns", rules("iptables -S", dropped+"-A FORWARD -j FLANNEL-FWD\n-A FLANNEL-FWD -j LOG\n-A FLANNEL-FWD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FLANNEL-FWD -j RETURN\n-A FLANNEL-FWD -j ACCEPT\n"), Error, "no rule accepts", nil, false},
	{"forward-policy", "DROP for IPv6", func(x *tree) {
		x.write("/etc/cni/net.d/10-pods.conflist", dualStack)
		x.programs["iptables -S"] = program{out: dropped + "-A FORWARD -i cni0 -j ACCEPT\n"}
		x.programs["ip6tables -S"] = program{out: "-P FORWARD DROP\n"}
	}, Error, "over IPv6 they reach nothing", nil, false},
	{"forward-policy", "iptables fails", func(x *tree) { x.programs["iptables -S"] = program{err: os.ErrPermission} }, Warning, "chain of iptables is unknown", nil, false},
	{"forward-policy", "ip6tables fails", func(x *tree) {
		x.write("/etc/cni/net.d/10-pods.conflist", dualStack)
		x.programs["ip6tables -S"] = program{err: os.ErrPermission}
	}, Warning, "chain of ip6tables is unknown", nil, false},
}

var kubeletBreakages = []breakage{
	{"kubelet-endpoint", "another adapter's", func(x *tree) {
		x.process("77", "mnt:[1]", "/usr/bin/kubelet", "--config", "/var/lib/kubelet/config.yaml", "--container-runtime-endpoint=unix:///run/cri-dockerd.sock")
	}, Warning, "uses unix:///run/cri-dockerd.sock (the running kubelet)", nil, false},
	{"kubelet-endpoint", "the drop-in is overridden", file("/etc/default/kubelet", "KUBELET_EXTRA_ARGS=\n"), Warning, "no endpoint (the kubelet's unit)", nil, false},
	{"kubelet-endpoint", "in kubeadm's flags", func(x *tree) {
		x.write("/etc/systemd/system/kubelet.service.d/10-kubeadm.conf", "[Service]\nEnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\nExecStart=\nExecStart=/usr/bin/kubelet $KUBELET_EXTRA_ARGS $KUBELET_KUBEADM_ARGS\n")
		x.write("/var/lib/kubelet/kubeadm-flags.env", `KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=unix:///var/run/cri-dockerd.sock --v=2"`+"\n")
	}, Warning, "uses unix:///var/run/cri-dockerd.sock", nil, false},
	{"kubelet-endpoint", "in the configuration", func(x *tree) {
		x.remove("/etc/systemd/system/kubelet.service")
		x.write("/var/lib/kubelet/config.yaml", "containerRuntimeEndpoint: unix:///run/crio/crio.sock\ncgroupDriver: systemd\n")
	}, Warning, "uses unix:///run/crio/crio.sock (/var/lib/kubelet/config.yaml)", nil, false},
	{"kubelet-endpoint", "cridock's, with other settings", func(x *tree) {
		x.listen("/run/cri-dockerd.sock", cridockProgram)
		x.process("77", "mnt:[1]", "/usr/bin/kubelet", "--config", "/var/lib/kubelet/config.yaml", "--container-runtime-endpoint=unix:///run/cri-dockerd.sock")
	}, Warning, "which cridock serves", nil, false},
	{"kubelet-endpoint", "an unreadable configuration", unreadable("/var/lib/kubelet/config.yaml"), Warning, "configuration is unknown", []string{"kubelet-cgroup-driver", "kubelet-pod-logs"}, false},
	{"kubelet-endpoint", "a broken configuration", file("/var/lib/kubelet/config.yaml", "{"), Error, "is wrong: /var/lib/kubelet/config.yaml", []string{"kubelet-cgroup-driver", "kubelet-pod-logs"}, false},
	{"kubelet-cgroup-driver", "another", file("/var/lib/kubelet/config.yaml", "cgroupDriver: cgroupfs\n"), Error, "is cgroupfs", nil, false},
	{"kubelet-pod-logs", "elsewhere", file("/var/lib/kubelet/config.yaml", "cgroupDriver: systemd\npodLogsDir: /data/pods\n"), Error, "/data/pods", nil, false},
}

// conditions are cridock's Status with one of them false.
func conditions(kind string) func(*tree) {
	return func(x *tree) {
		x.cri.status.Status.Conditions = append(x.cri.status.Status.Conditions, &runtimeapi.RuntimeCondition{Type: kind, Message: "the reason"})
	}
}

func full(s space) func(*tree) {
	return func(x *tree) {
		x.disk = func(path string) (space, error) {
			if path == x.path("/var/lib/docker") {
				return s, nil
			}
			return space{free: 0.9, freeInodes: 0.9}, nil
		}
	}
}

// fullAt is full for a directory on a file system of its own.
func fullAt(path string, s space) func(*tree) {
	return func(x *tree) {
		full(space{free: 0.9, freeInodes: 0.9})(x)
		others := x.disk
		x.disk = func(at string) (space, error) {
			if at == x.path(path) {
				return s, nil
			}
			return others(at)
		}
	}
}

var adapterBreakages = []breakage{
	{"disk-space", "full", full(space{free: 0.1, freeInodes: 0.9}), Error, "10 % of the space and 90 % of the inodes below /var/lib/docker are free: the kubelet evicts", nil, false},
	{"disk-space", "no inodes", full(space{free: 0.9, freeInodes: 0.01}), Error, "1 % of the inodes", nil, false},
	{"disk-space", "nearly full", full(space{free: 0.18, freeInodes: 0.9}), Warning, "will soon evict", nil, false},
	{"disk-space", "the kubelet's is full", fullAt("/var/lib/kubelet", space{free: 0.09, freeInodes: 0.9}), Error, "9 % of the space and 90 % of the inodes below /var/lib/kubelet are free: the kubelet evicts", nil, false},
	{"disk-space", "the kubelet's is nearly full", fullAt("/var/lib/kubelet", space{free: 0.12, freeInodes: 0.9}), Warning, "below /var/lib/kubelet are free: the kubelet will soon evict", nil, false},
	{"disk-space", "logs elsewhere are full", fullAt("/var/log/pods", space{free: 0.09, freeInodes: 0.9}), Warning, "does not look at this file system", nil, false},
	{"disk-space", "unknown", func(x *tree) { x.disk = func(string) (space, error) { return space{}, os.ErrPermission } }, Warning, "unknown", nil, false},
	{"other-sockets", "cri-dockerd serves", func(x *tree) { x.listen("/run/cri-dockerd.sock", otherProgram) }, Error, "cri-dockerd serves /run/cri-dockerd.sock", nil, false},
	{"other-sockets", "dockershim serves", func(x *tree) { x.listen("/run/dockershim.sock", otherProgram) }, Error, "dockershim serves", nil, false},
	{"other-sockets", "CRI-O serves", func(x *tree) { x.listen("/run/crio/crio.sock", otherProgram) }, Warning, "CRI-O serves", nil, false},
	{"other-sockets", "systemd would start cri-dockerd", func(x *tree) {
		x.write("/etc/systemd/system/cri-docker.socket", "[Socket]\nListenStream=%t/cri-dockerd.sock\n")
		x.write("/etc/systemd/system/cri-docker.service", "[Service]\nExecStart=/usr/bin/cri-dockerd\n")
		x.write("/usr/bin/cri-dockerd", otherProgram)
		x.systemd("/run/cri-dockerd.sock")
	}, Error, "cri-dockerd serves /run/cri-dockerd.sock", nil, false},
	{"other-sockets", "a server that is not visible", func(x *tree) {
		x.staleSocket("/run/cri-dockerd.sock")
		x.bound("/run/cri-dockerd.sock")
	}, Error, "cri-dockerd serves /run/cri-dockerd.sock", nil, false},
	{"other-sockets", "cri-dockerd serves cridock's socket", func(x *tree) {
		x.Endpoint = "unix:///var/run/cri-dockerd.sock"
		x.listen("/run/cri-dockerd.sock", otherProgram)
	}, Error, "cri-dockerd serves", []string{"kubelet-endpoint", "served-status", "served-settings"}, true},
	{"other-sockets", "two serve", func(x *tree) {
		x.listen("/run/crio/crio.sock", otherProgram)
		x.listen("/run/dockershim.sock", otherProgram)
		x.listen("/run/cri-dockerd.sock", otherProgram)
	}, Error, "cri-dockerd serves /run/cri-dockerd.sock: it acts on the same pods as cridock, and kubeadm may choose it. dockershim serves", nil, false},
	{"other-sockets", "the list of sockets is unreadable", unreadable("/proc/net/unix"), Warning, "unknown", []string{"served-socket", "served-status", "served-settings"}, true},

	{"other-sockets", "a stale socket", func(x *tree) { x.staleSocket("/run/cri-dockerd.sock") }, Warning, "Nobody listens on /run/cri-dockerd.sock", nil, false},
	{"other-units", "enabled", file("/etc/systemd/system/sockets.target.wants/cri-docker.socket", ""), Warning, "cri-docker.socket", nil, false},
	{"served-socket", "missing, the kubelet wants it", without("/etc/systemd/system/multi-user.target.wants"), Error, "There is no socket", []string{"served-status", "served-settings"}, true},
	{"served-socket", "missing, its unit is enabled", without("/etc/systemd/system/kubelet.service.d"), Error, "There is no socket", []string{"served-status", "served-settings", "kubelet-endpoint"}, true},
	{"served-socket", "stale", func(x *tree) { x.staleSocket("/run/cridock/cridock.sock") }, Error, "Nobody listens", []string{"served-status", "served-settings"}, true},
	{"served-socket", "missing, in cri-dockerd's place", func(x *tree) {
		x.dropIn()
		x.Endpoint = "unix:///var/run/cri-dockerd.sock"
	}, Error, "There is no socket /run/cri-dockerd.sock", []string{"served-status", "served-settings", "kubelet-endpoint"}, true},
	{"served-socket", "served elsewhere", func(x *tree) {
		x.remove("/etc/systemd/system/kubelet.service.d")
		x.listen("/run/cri-dockerd.sock", cridockProgram)
	}, Warning, "cridock serves /run/cri-dockerd.sock", []string{"served-status", "served-settings", "kubelet-endpoint"}, true},
	{"served-socket", "a file", file("/run/cridock/cridock.sock", ""), Error, "is not a socket", []string{"served-status", "served-settings"}, true},
	{"served-socket", "open to all", func(x *tree) { x.serve(0o666) }, Error, "All users may connect", nil, true},
	{"served-status", "runtime not ready", conditions("RuntimeReady"), Error, "RuntimeReady is false: the reason", nil, false},
	{"served-status", "network not ready", conditions("NetworkReady"), Error, "NetworkReady is false: the reason", nil, false},
	{"served-status", "no host ports", conditions("HostPortsReady"), Warning, "HostPortsReady is false: the reason", nil, false},
	{"served-status", "it fails", func(x *tree) { x.cri.err = errors.New("broken") }, Error, "does not answer Status", []string{"served-settings"}, false},
	{"served-settings", "another root directory", func(x *tree) { x.cri.status.Info["config"] = `{"version":"v1.0.0","rootDirectory":"/data"}` }, Warning, "root-directory /data", nil, false},
	{"served-settings", "another version", func(x *tree) { x.cri.status.Info["config"] = `{"version":"v0.9.0","rootDirectory":"/var/lib/cridock"}` }, Warning, "cridock v0.9.0 runs", nil, false},
	{"served-settings", "not cridock", func(x *tree) { x.cri.status.Info = nil }, Error, "is not cridock", nil, false},
}

// result is an entry of CNI's cache.
const result = `{"kind":"cniCacheV1","containerId":"` + gonePod + `","config":"e30=","ifName":"eth0","networkName":"pods","netns":"/proc/7/ns/net","result":{"cniVersion":"1.1.0"}}`

var leftoverBreakages = []breakage{
	{"leftover-addresses", "a lease", file("/var/lib/cni/networks/pods/10.77.0.3", gonePod+"\r\neth0"), Warning, "hold 10.77.0.3", nil, false},
	{"leftover-addresses", "a lease elsewhere", func(x *tree) {
		x.write("/etc/cni/net.d/10-pods.conflist", strings.Replace(conflist, `"type": "host-local",`, `"type": "host-local", "dataDir": "/data/leases",`, 1))
		x.write("/data/leases/pods/10.77.0.4", gonePod+"\neth0")
	}, Warning, "hold 10.77.0.4", nil, false},
	{"leftover-addresses", "an attachment", file("/var/lib/cni/cache/results/pods-"+gonePod+"-eth0", result), Warning, "the attachment of bbbbbbbbbbbb", nil, false},
	{"leftover-namespaces", "a pin", file("/run/cridock/netns/"+gonePod, ""), Warning, "/run/cridock/netns/" + gonePod, nil, false},
	{"leftover-mounts", "an image volume", func(x *tree) { x.docker.list[0].Mounts = nil }, Warning, imageBase + "/11111111111111111111/22222222222222222222", nil, false},
	{"leftover-logs", "a directory", file("/var/log/pods/default_web_"+goneUID+"/web/0.log", ""), Warning, "default_web_" + goneUID, nil, false},
	{"leftover-addresses", "an unreadable lease", unreadable("/var/lib/cni/networks/pods/10.77.0.2"), Warning, "10.77.0.2: is a directory", []string{"leftover-namespaces", "leftover-mounts", "leftover-logs"}, false},
	{"leftover-logs", "Docker cannot list", func(x *tree) { x.docker.listErr = errors.New("broken") }, Warning, "unknown: broken", []string{"leftover-addresses", "leftover-namespaces", "leftover-mounts"}, false},
}

func breakages() []breakage {
	return slices.Concat(engineBreakages, imageBreakages, kernelBreakages, networkBreakages, kubeletBreakages, adapterBreakages, leftoverBreakages)
}

// TestBrokenNode: each breakage is found by its check, with a reason and a
// cure, and no other check complains about it. docs/doctor.md shows what was
// found.
func TestBrokenNode(t *testing.T) {
	document, err := os.ReadFile("../../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range breakages() {
		t.Run(b.check+"/"+b.name, func(t *testing.T) {
			t.Parallel()
			x := newTree(t)
			b.breaks(x)
			if !b.stopped {
				x.serve(0o660)
			}
			r := x.examine()
			for _, got := range r.Results {
				switch {
				case got.Check == b.check:
					if got.State != b.state || !strings.Contains(got.Why, b.why) || got.Cure == "" {
						t.Errorf("%+v, want %s because of %q, with a cure", got, b.state, b.why)
					}
					row := fmt.Sprintf("| `%s` | %s | %s | %s |\n", b.check, b.name, got.State, strings.ReplaceAll(got.Why, x.Root, ""))
					if !strings.Contains(string(document), row) {
						t.Errorf("docs/doctor.md lacks the row\n%s", row)
					}
				case got.State != OK && !slices.Contains(b.also, got.Check):
					t.Errorf("also %+v", got)
				}
			}
			if r.State.severity() < b.state.severity() {
				t.Errorf("the report is %s", r.State)
			}
		})
	}
}

// TestEveryCheckCanFail: there is a breakage for each check, and a description.
func TestEveryCheckCanFail(t *testing.T) {
	broken := map[string]bool{}
	for _, b := range breakages() {
		broken[b.check] = true
	}
	document, err := os.ReadFile("../../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, c := range Checks() {
		if !strings.Contains(string(document), "\n| `"+c.Name+"` | ") {
			t.Errorf("docs/doctor.md lacks %s", c.Name)
		}
		if !broken[c.Name] {
			t.Errorf("no test breaks %s", c.Name)
		}
		if names[c.Name] {
			t.Errorf("two checks are called %s", c.Name)
		}
		names[c.Name] = true
	}
}

// fine are nodes that look broken but are not, or not for that reason.
var fine = []struct {
	check, name string
	breaks      func(*tree)
	state       State
	why         string
}{
	{"daemon-json", "none", without("/etc/docker"), OK, "uses its defaults"},
	{"cgroup", "cgroupfs without systemd", func(x *tree) {
		x.docker.caps.CgroupDriver = "cgroupfs"
		x.remove("/run/systemd")
	}, OK, "cgroupfs"},
	{"apparmor", "none", func(x *tree) {
		x.docker.caps.AppArmor = false
		x.remove("/sys/module/apparmor")
	}, OK, "no AppArmor"},
	{"selinux", "none", func(x *tree) {
		x.docker.caps.SELinux = false
		x.remove("/sys/fs/selinux")
	}, OK, "no SELinux"},
	{"ip-forwarding", "no IPv6 pods", file("/proc/sys/net/ipv6/conf/all/forwarding", "0\n"), OK, "does not have"},
	{"insecure-registries", "local ones", caps(func(c *engine.Capabilities) {
		c.InsecureRegistries = []string{"localhost", "localhost:5000", "127.0.0.0/8", "127.0.0.1:5000", "::1/128", "[::1]:5000", "[::1]"}
	}), OK, "only from loopback"},
	{"user-namespaces", "on", func(*tree) {}, OK, "hostUsers: false also need cridock-runtime"},
	{"cgroup-controllers", "v1", cgroupV1("cpu,cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb"), OK, "cgroup v1"},
	{"disk-space", "the kubelet's directory needs less than images", fullAt("/var/lib/kubelet", space{free: 0.16, freeInodes: 0.9}), OK, "enough"},
	{"disk-space", "little more than the limits of images", full(space{free: 0.21, freeInodes: 0.11}), OK, "enough"},
	{"ip-forwarding", "a default route is no address", func(x *tree) {
		x.write("/proc/sys/net/ipv6/conf/all/forwarding", "0\n")
		x.write("/etc/cni/net.d/10-pods.conflist", strings.Replace(conflist, `"type": "host-local",`, `"type": "host-local", "routes": [{"dst": "::/0"}],`, 1))
	}, OK, "does not have"},
	{"ip-forwarding", "IPv6 pods alone", func(x *tree) {
		x.write("/proc/sys/net/ipv4/ip_forward", "0\n")
		x.PodCIDR = "fd77::/64"
		x.write("/etc/cni/net.d/10-pods.conflist", single)
	}, OK, "forwards IPv6"},
	{"forward-policy", "an add-on's rule", rules("iptables -S", dropped+"-A FORWARD -j CNI-FORWARD\n-A CNI-FORWARD -m comment --comment \"a -j DROP\" -s 10.77.0.2/32 -j ACCEPT\n"), OK, "-s 10.77.0.2/32"},
	{"forward-policy", "the plugin firewall without pods", func(x *tree) {
		x.programs["iptables -S"] = program{out: dropped + "-A FORWARD -j CNI-FORWARD\n"}
		x.write("/etc/cni/net.d/10-pods.conflist", strings.Replace(conflist, `"portmap"`, `"firewall"`, 1))
	}, OK, "plugin firewall"},
	{"forward-policy", "an operator's rule", rules("iptables -S", dropped+"-A DOCKER-USER -i cni0 -j ACCEPT\n"), OK, "-i cni0"},
	{"forward-policy", "no IPv6 pods", rules("ip6tables -S", "-P FORWARD DROP\n"), OK, "ACCEPT"},
	{"forward-policy", "no table of the old kind", func(x *tree) {
		x.programs = map[string]program{"iptables --version": {out: "iptables v1.8.9 (legacy)\n"}}
	}, OK, "ACCEPT"},
	{"forward-policy", "no iptables", func(x *tree) {
		x.programs = map[string]program{"iptables --version": {err: &exec.Error{Name: "iptables", Err: exec.ErrNotFound}}}
	}, Skipped, "no iptables"},
	{"forward-policy", "Docker's network", func(x *tree) { x.NetworkPlugin = "docker" }, Skipped, "network-plugin is docker"},
	{"kubelet-endpoint", "no kubelet", func(x *tree) {
		x.remove("/etc/systemd/system")
		x.remove("/var/lib/kubelet")
	}, Skipped, "no kubelet"},
	{"kubelet-endpoint", "a process in a container", func(x *tree) {
		x.process("77", "mnt:[2]", "kubelet", "--container-runtime-endpoint=unix:///run/evil.sock")
	}, OK, "uses cridock's endpoint"},
	{"kubelet-endpoint", "through cridock's link", func(x *tree) {
		x.SocketLink = "/var/run/cri-dockerd.sock"
		x.process("77", "mnt:[1]", "/usr/bin/kubelet", "--container-runtime-endpoint=unix:///run/cri-dockerd.sock")
	}, OK, "uses cridock's endpoint"},
	{"kubelet-endpoint", "systemd passes the socket", func(x *tree) {
		x.dropIn()
		x.process("77", "mnt:[1]", "/usr/bin/kubelet", "--container-runtime-endpoint=unix:///run/cri-dockerd.sock")
	}, OK, "uses cridock's endpoint"},
	{"kubelet-endpoint", "by another name", func(x *tree) {
		x.process("77", "mnt:[1]", "/usr/bin/kubelet", "--container-runtime-endpoint", "/var/run/cridock/cridock.sock")
	}, OK, "uses cridock's endpoint"},
	{"kubelet-cgroup-driver", "none", file("/var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\n"), OK, "it asks cridock"},
	{"other-units", "another name of cridock's", func(x *tree) {
		x.write("/etc/systemd/system/multi-user.target.wants/cri-docker.service", "")
		x.link("cridock.service", "/usr/lib/systemd/system/cri-docker.service")
	}, OK, "No unit"},
	{"other-units", "cri-dockerd in /etc hides the package's name", func(x *tree) {
		x.write("/etc/systemd/system/multi-user.target.wants/cri-docker.service", "")
		x.write("/etc/systemd/system/cri-docker.service", "")
		x.link("cridock.service", "/usr/lib/systemd/system/cri-docker.service")
	}, Warning, "cri-docker.service"},
	{"other-units", "cridock in cri-dockerd's place", (*tree).dropIn, OK, "No unit"},
	{"other-sockets", "cridock's link", func(x *tree) {
		x.serve(0o660)
		x.link("/run/cridock/cridock.sock", "/run/cri-dockerd.sock")
	}, OK, "/run/cri-dockerd.sock is cridock's"},
	{"other-sockets", "the link of a cridock that was killed", func(x *tree) { x.link("/run/cridock/cridock.sock", "/run/cri-dockerd.sock") }, OK, "is cridock's"},
	{"other-sockets", "cridock under cri-dockerd's name", func(x *tree) {
		x.Endpoint = "unix:///var/run/cri-dockerd.sock"
		x.serveAt("/run/cri-dockerd.sock", 0o660)
	}, OK, "is cridock's"},
	{"other-sockets", "a socket that systemd passes to cridock", func(x *tree) {
		x.dropIn()
		x.systemd("/run/cri-dockerd.sock")
		x.hold(99, cridockProgram, x.bound("/var/run/cri-dockerd.sock"))
	}, OK, "is cridock's"},
	{"other-sockets", "a socket for which systemd starts cridock", func(x *tree) {
		x.dropIn()
		x.systemd("/run/cri-dockerd.sock")
	}, OK, "is cridock's"},
	{"other-sockets", "cridock with other settings", func(x *tree) { x.listen("/run/cri-dockerd.sock", cridockProgram) }, OK, "is cridock's"},
	{"served-socket", "systemd listens", func(x *tree) {
		x.dropIn()
		x.systemd("/run/cri-dockerd.sock")
	}, OK, "systemd listens on /run/cri-dockerd.sock"},
	{"served-status", "a server that is not visible", func(x *tree) {
		x.staleSocket("/run/cridock/cridock.sock")
		x.bound("/run/cridock/cridock.sock")
	}, Skipped, "run this command as root"},
	{"served-status", "systemd listens", func(x *tree) {
		x.dropIn()
		x.systemd("/run/cri-dockerd.sock")
	}, Skipped, "cridock has not started yet"},
	{"served-status", "systemd passed the socket", func(x *tree) {
		x.dropIn()
		x.serveAt("/run/cri-dockerd.sock", 0o660)
	}, OK, "ready"},
	{"served-socket", "no unit has the socket", func(x *tree) { x.Endpoint = "fd://" }, Skipped, "no unit of cridock says where"},
	{"served-socket", "before the installation", func(x *tree) { x.remove("/etc/systemd/system") }, OK, "nothing expects it to"},
	{"leftover-addresses", "an unreadable cache", file("/var/lib/cni/cache/results", ""), Skipped, "not usable"},
	{"leftover-logs", "a new directory", func(x *tree) {
		x.write("/var/log/pods/default_web_"+goneUID+"/web/0.log", "")
		x.now = time.Now()
	}, OK, ""},
	{"leftover-namespaces", "a pod that came meanwhile", func(x *tree) {
		x.write("/run/cridock/netns/"+gonePod, "")
		x.docker.between = func() { x.docker.list = append(x.docker.list, container.Summary{ID: gonePod}) }
	}, OK, ""},
	{"leftover-namespaces", "a pod that went meanwhile", func(x *tree) {
		x.docker.between = func() { x.docker.list = nil }
	}, OK, ""},
}

// TestFine: a check finds no fault in a correct node.
func TestFine(t *testing.T) {
	for _, tt := range fine {
		t.Run(tt.check+"/"+tt.name, func(t *testing.T) {
			t.Parallel()
			x := newTree(t)
			tt.breaks(x)
			for _, got := range x.examine().Results {
				if got.Check == tt.check && (got.State != tt.state || !strings.Contains(got.Why, tt.why)) {
					t.Errorf("%+v, want %s because of %q", got, tt.state, tt.why)
				}
			}
		})
	}
}

// hangingDocker accepts calls and never answers.
type hangingDocker struct{}

func (hangingDocker) Refresh(ctx context.Context) (*engine.Capabilities, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (hangingDocker) ContainerList(ctx context.Context, _ filters.Args) ([]container.Summary, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestHangingDocker: the report is complete anyway, and soon.
func TestHangingDocker(t *testing.T) {
	x := newTree(t)
	x.NetworkPlugin = "docker" // no programs in the bubble
	x.engine, x.limit = hangingDocker{}, checkTimeout
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		r := examine(context.Background(), x.node)
		if r.Results[0].State != Error || !strings.Contains(r.Results[0].Why, "does not answer") {
			t.Errorf("%+v", r.Results[0])
		}
		if took := time.Since(start); took > 2*checkTimeout {
			t.Errorf("it took %v", took)
		}
	})
}

// TestHangingCheck: a check that ignores its context does not hold up the report.
func TestHangingCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		c := Check{Name: "hangs", run: func(context.Context, *node) Result {
			<-release
			return ok("late")
		}}
		r := c.result(context.Background(), &node{limit: checkTimeout})
		if r.Check != "hangs" || r.State != Error || !strings.Contains(r.Why, "did not finish within 10s") || r.Cure == "" {
			t.Errorf("%+v", r)
		}
	})
}

// TestRealNode: the functions that tests replace work on this machine.
func TestRealNode(t *testing.T) {
	here := t.TempDir()
	below, err := diskSpace(here + "/not/there")
	if err != nil || below.free < 0 || below.free > 1 || below.freeInodes < 0 || below.freeInodes > 1 {
		t.Errorf("space %+v, %v", below, err)
	}
	if _, err := clockSynced(); err != nil {
		t.Error(err)
	}
	self, err := os.Executable()
	if err != nil || !isCridock(self) || isCridock("/bin/sh") || isCridock(here+"/not/there") {
		t.Errorf("cridock's test is not cridock, or another program is: %v", err)
	}
	if out, err := runCommand(t.Context(), "echo", "one", "two"); out != "one two\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := runCommand(t.Context(), "sh", "-c", "echo why >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "exit status 3: why") {
		t.Errorf("%v", err)
	}
	if _, err := runCommand(t.Context(), "doctor-has-no-such-program"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("%v", err)
	}
}
