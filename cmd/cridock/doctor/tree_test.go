package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/translate"
)

// livePod is the sandbox that the healthy node has.
const (
	livePod   = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	gonePod   = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	liveUID   = "5e9d1a4c-0000-0000-0000-000000000001"
	goneUID   = "5e9d1a4c-0000-0000-0000-000000000002"
	imageBase = "/run/cridock/image-volumes"
)

// tree is a node whose files are in a temporary directory. It is healthy until a
// test breaks it.
type tree struct {
	*node
	t        *testing.T
	docker   *fakeDocker
	cri      *fakeCRI
	programs map[string]program // by command line
	holders  int                // processes that hold sockets
}

type program struct {
	out string
	err error
}

// fakeDocker responds as a healthy engine would.
type fakeDocker struct {
	caps    engine.Capabilities
	err     error
	list    []container.Summary
	listErr error
	listed  int
	// between is called before the second list.
	between func()
}

func (d *fakeDocker) Refresh(context.Context) (*engine.Capabilities, error) {
	if d.err != nil {
		return nil, d.err
	}
	caps := d.caps
	return &caps, nil
}

func (d *fakeDocker) ContainerList(_ context.Context, f filters.Args) ([]container.Summary, error) {
	if !f.ExactMatch("label", translate.LabelType) {
		return nil, errors.New("the list is of other containers too")
	}
	if d.listed++; d.listed == 2 && d.between != nil {
		d.between()
	}
	return d.list, d.listErr
}

// fakeCRI is a cridock.
type fakeCRI struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	status *runtimeapi.StatusResponse
	err    error
}

func (c *fakeCRI) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return c.status, c.err
}

// plugin is a CNI plugin that supports three versions.
const plugin = `#!/bin/sh
[ "$CNI_COMMAND" != VERSION ] || echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}'
`

const conflist = `{"cniVersion": "1.1.0", "name": "pods", "plugins": [
 {"type": "bridge", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/16"}]]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}`

var healthyFiles = map[string]string{
	"/etc/docker/daemon.json":                                     `{"live-restore": true}`,
	"/proc/filesystems":                                           "nodev\tproc\nnodev\toverlay\n\text4\n",
	"/proc/sys/user/max_user_namespaces":                          "100000\n",
	"/proc/sys/kernel/osrelease":                                  "6.1.0-13-amd64\n",
	"/proc/sys/kernel/seccomp/actions_avail":                      "kill_process errno allow\n",
	"/sys/module/apparmor/parameters/enabled":                     "Y\n",
	"/sys/fs/selinux/enforce":                                     "1",
	"/sys/fs/cgroup/cgroup.controllers":                           "cpuset cpu io memory hugetlb pids rdma\n",
	"/proc/sys/net/bridge/bridge-nf-call-iptables":                "1\n",
	"/proc/sys/net/ipv4/ip_forward":                               "1\n",
	"/proc/sys/net/ipv6/conf/all/forwarding":                      "1\n",
	"/proc/sys/fs/inotify/max_user_instances":                     "8192\n",
	"/proc/sys/fs/inotify/max_user_watches":                       "524288\n",
	"/proc/net/unix":                                              "Num       RefCount Protocol Flags    Type St Inode Path\n",
	"/proc/self/mountinfo":                                        "21 1 0:1 / / rw - ext4 /dev/sda rw\n22 21 0:5 / " + imageBase + " rw - tmpfs cridock rw\n23 22 0:6 / " + imageBase + "/11111111111111111111/22222222222222222222 ro - overlay overlay ro\n",
	"/etc/cni/net.d/10-pods.conflist":                             conflist,
	"/opt/cni/bin/bridge":                                         plugin,
	"/opt/cni/bin/host-local":                                     plugin,
	"/opt/cni/bin/portmap":                                        plugin,
	"/etc/systemd/system/kubelet.service":                         "[Service]\nExecStart=/usr/bin/kubelet $KUBELET_CONFIG_ARGS $KUBELET_EXTRA_ARGS\nEnvironment=\"KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml\"\nEnvironmentFile=-/etc/default/kubelet\n",
	"/etc/systemd/system/kubelet.service.d/10-cridock.conf":       "[Service]\nEnvironment=KUBELET_EXTRA_ARGS=--container-runtime-endpoint=unix:///run/cridock/cridock.sock\n",
	"/var/lib/kubelet/config.yaml":                                "kind: KubeletConfiguration\ncgroupDriver: systemd\n",
	"/etc/systemd/system/multi-user.target.wants/cridock.service": "",
	"/run/systemd/system/.keep":                                   "",
	"/var/lib/cni/networks/pods/10.77.0.2":                        livePod + "\r\neth0",
	"/var/lib/cni/networks/pods/last_reserved_ip.0":               "10.77.0.2",
	"/var/lib/cni/networks/pods/lock":                             "",
	"/run/cridock/netns/" + livePod:                               "",
	"/var/log/pods/default_web_" + liveUID + "/web/0.log":         "",
	"/proc/self/comm":                                             "cridock\n",
}

func newTree(t *testing.T) *tree {
	t.Helper()
	// Not t.TempDir: a long test name could exceed the limit for socket paths.
	root, err := os.MkdirTemp("", "doctor")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	docker := &fakeDocker{
		caps: engine.Capabilities{
			APIVersion: "1.45", EngineVersion: "26.1.5", CgroupDriver: "systemd", CgroupV2: true, Seccomp: true, AppArmor: true, SELinux: true,
			LiveRestore: true, DefaultRuntime: "runc", StorageDriver: "overlay2", RootDir: "/var/lib/docker", LoggingDriver: "json-file",
			InsecureRegistries: []string{"127.0.0.0/8", "::1/128"},
			Warnings:           []string{"WARNING: No blkio throttle.read_bps_device support"},
		},
		list: []container.Summary{{
			ID: livePod, Labels: map[string]string{translate.LabelPodUID: liveUID},
			Mounts: []container.MountPoint{{Source: imageBase + "/11111111111111111111/22222222222222222222/below"}},
		}},
	}
	x := &tree{t: t, docker: docker, node: newNode(Settings{
		Version: "v1.0.0", Root: root, DaemonConfig: "/etc/docker/daemon.json",
		Endpoint: "unix:///run/cridock/cridock.sock", DockerEndpoint: "unix:///var/run/docker.sock",
		RootDir: "/var/lib/cridock", RuntimeDir: "/run/cridock", PodLogsDir: "/var/log/pods", NetworkPlugin: "cni",
		RegistryConfigDir: "/etc/cridock/certs.d", CNIConfDir: "/etc/cni/net.d", CNIBinDirs: []string{"/opt/cni/bin"}, CNICacheDir: "/var/lib/cni/cache",
	}, docker)}
	for path, content := range healthyFiles {
		x.write(path, content)
	}
	x.now = time.Now().Add(time.Hour) // the logs are old
	x.limit = time.Minute             // a slow machine runs hundreds of checks at once
	x.programs = map[string]program{
		"iptables --version":  {out: "iptables v1.8.9 (nf_tables)\n"},
		"iptables -S":         {out: "-P FORWARD ACCEPT\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -j DOCKER\n-A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n-A DOCKER-USER -j RETURN\n"},
		"ip6tables --version": {out: "ip6tables v1.8.9 (nf_tables)\n"},
		"ip6tables -S":        {out: "-P FORWARD ACCEPT\n"},
	}
	x.command = func(_ context.Context, name string, args ...string) (string, error) {
		p, ok := x.programs[strings.Join(append([]string{name}, args...), " ")]
		if !ok {
			t.Errorf("unexpected program %s %q", name, args)
		}
		return p.out, p.err
	}
	x.disk = func(string) (space, error) { return space{free: 0.5, freeInodes: 0.5}, nil }
	x.synced = func() (bool, error) { return true, nil }
	x.isCridock = func(path string) bool {
		content, err := os.ReadFile(path)
		return err == nil && string(content) == cridockProgram
	}
	x.cri = &fakeCRI{status: &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Status: true}}},
		Info:   map[string]string{"config": `{"version":"v1.0.0","rootDirectory":"/var/lib/cridock"}`},
	}}
	return x
}

func (x *tree) write(path, content string) {
	x.t.Helper()
	full := x.path(path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		x.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), 0o755); err != nil {
		x.t.Fatal(err)
	}
}

func (x *tree) link(target, path string) {
	x.t.Helper()
	full := x.path(path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		x.t.Fatal(err)
	}
	if err := os.Symlink(target, full); err != nil {
		x.t.Fatal(err)
	}
}

func (x *tree) remove(path string) {
	x.t.Helper()
	if err := os.RemoveAll(x.path(path)); err != nil {
		x.t.Fatal(err)
	}
}

// The content of programs.
const (
	cridockProgram = "cridock"
	otherProgram   = "another"
)

// hold makes a process hold the socket with an inode.
func (x *tree) hold(pid int, program string, inode int) {
	x.t.Helper()
	dir := "/proc/" + strconv.Itoa(pid)
	x.write(dir+"/exe", program)
	x.link("socket:["+strconv.Itoa(inode)+"]", dir+"/fd/"+strconv.Itoa(inode))
}

// bound lists a socket that listens, under the name that it was bound to, and
// returns its inode.
func (x *tree) bound(name string) int {
	x.t.Helper()
	x.holders++
	inode := 7000 + x.holders
	x.write("/proc/net/unix", x.read("/proc/net/unix")+fmt.Sprintf("0000000000000000: 00000002 00000000 00010000 0001 01 %5d %s\n", inode, name))
	return inode
}

// systemd makes systemd listen on a socket, without any service yet.
func (x *tree) systemd(path string) {
	x.t.Helper()
	x.staleSocket(path)
	x.write("/proc/1/comm", "systemd\n")
	x.hold(1, otherProgram, x.bound(path))
}

// dropIn installs cridock as cri-dockerd, with cri-dockerd's units.
func (x *tree) dropIn() {
	x.t.Helper()
	x.Endpoint = "fd://"
	x.write("/usr/bin/cri-dockerd", cridockProgram)
	x.write("/lib/systemd/system/cri-docker.service", "[Service]\nExecStart=/usr/bin/cri-dockerd --container-runtime-endpoint fd://\n")
	x.write("/lib/systemd/system/cri-docker.socket", "[Socket]\nListenStream=%t/cri-dockerd.sock\nSocketGroup=docker\n")
	x.remove("/etc/systemd/system/multi-user.target.wants")
	x.link("/lib/systemd/system/cri-docker.service", "/etc/systemd/system/multi-user.target.wants/cri-docker.service")
	x.link("/lib/systemd/system/cri-docker.socket", "/etc/systemd/system/sockets.target.wants/cri-docker.socket")
}

// listen makes a process listen on a socket of the node.
func (x *tree) listen(path, program string) {
	x.t.Helper()
	x.bind(path, 0o660)
	inode := x.bound(path)
	x.hold(inode, program, inode)
}

// bind makes a socket that is not in the kernel's list.
func (x *tree) bind(path string, mode os.FileMode) net.Listener {
	x.t.Helper()
	if err := os.MkdirAll(filepath.Dir(x.path(path)), 0o755); err != nil {
		x.t.Fatal(err)
	}
	l, err := net.Listen("unix", x.path(path))
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { _ = l.Close() })
	if err := os.Chmod(x.path(path), mode); err != nil {
		x.t.Fatal(err)
	}
	return l
}

// staleSocket leaves a socket on which nobody listens.
func (x *tree) staleSocket(path string) {
	l := x.bind(path, 0o660)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
}

// serve runs the node's cridock.
func (x *tree) serve(mode os.FileMode) { x.serveAt("/run/cridock/cridock.sock", mode) }

func (x *tree) serveAt(path string, mode os.FileMode) {
	x.t.Helper()
	l := x.bind(path, mode)
	x.hold(99, cridockProgram, x.bound(path))
	server := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(server, x.cri)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	x.t.Cleanup(func() {
		server.Stop()
		<-done
	})
}

// process adds a process to the node, in the mount namespace mnt.
func (x *tree) process(pid, mnt string, args ...string) {
	x.t.Helper()
	x.write("/proc/"+pid+"/cmdline", strings.Join(args, "\x00")+"\x00")
	for _, p := range []struct{ of, ns string }{{pid, mnt}, {"self", "mnt:[1]"}} {
		if err := os.MkdirAll(x.path("/proc", p.of, "ns"), 0o755); err != nil {
			x.t.Fatal(err)
		}
		if err := os.Symlink(p.ns, x.path("/proc", p.of, "ns/mnt")); err != nil && !errors.Is(err, os.ErrExist) {
			x.t.Fatal(err)
		}
	}
}

func (x *tree) examine() Report {
	x.t.Helper()
	return examine(x.t.Context(), x.node)
}
