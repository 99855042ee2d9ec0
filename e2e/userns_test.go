package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// inUserNamespace asks for a user namespace as the kubelet does.
func inUserNamespace(hostID uint32) podOption {
	return func(cfg *runtimeapi.PodSandboxConfig) {
		cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions = usernsOptions(hostID)
	}
}

func usernsOptions(hostID uint32) *runtimeapi.UserNamespace {
	m := []*runtimeapi.IDMapping{{HostId: hostID, Length: 65536}}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: m, Gids: m}
}

// mapped mounts a host path with the pod's mappings.
func mapped(hostID uint32, host, path string) ctrOption {
	return func(cfg *runtimeapi.ContainerConfig) {
		o := usernsOptions(hostID)
		cfg.Mounts = append(cfg.Mounts, &runtimeapi.Mount{HostPath: host, ContainerPath: path, UidMappings: o.Uids, GidMappings: o.Gids})
	}
}

func capability(name string) ctrOption {
	return func(cfg *runtimeapi.ContainerConfig) {
		cfg.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{name}}
	}
}

// builtRuntime compiles cridock-runtime as it is shipped, once for all tests.
var builtRuntime = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(workDir, "cridock-runtime")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/cridock-runtime")
	cmd.Dir, cmd.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cridock-runtime: %w: %s", err, out)
	}
	return path, nil
})

// buildRuntime puts cridock-runtime into a node's directory.
func buildRuntime(t *testing.T, n *node) string {
	t.Helper()
	path := filepath.Join(n.dir, "cridock-runtime")
	built, err := builtRuntime()
	if err == nil {
		err = os.Link(built, path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// usernsTest is a cridock with its runtime directory in the usual place, which every
// user of the node can get through.
type usernsTest struct {
	*cridock
	runtimeBinary               string
	dockerSocket, dockerPIDFile string
}

func newUsernsTest(t *testing.T, flags ...string) *usernsTest {
	t.Helper()
	return newUsernsTestOn(t, newNode(t), flags...)
}

func newUsernsTestOn(t *testing.T, n *node, flags ...string) *usernsTest {
	t.Helper()
	flags = append(flags, "--container-runtime-endpoint=unix:///run/cridock/cridock.sock", "--runtime-directory=/run/cridock")
	c := installCridock(t, n, "cni", flags...)
	c.runDir = fmt.Sprintf("/proc/%d/root/run/cridock", n.pid)
	return &usernsTest{c, buildRuntime(t, n), filepath.Join(n.dir, "docker.sock"), filepath.Join(n.dir, "dockerd.pid")}
}

// register runs cridock runtime COMMAND on the node.
func (u *usernsTest) register(command string) (string, error) {
	out, err := u.command(binary, "runtime", command, "--docker-endpoint=unix://"+u.dockerSocket, "--runtime-directory=/run/cridock",
		"--daemon-json="+filepath.Join(u.node.dir, "daemon.json"), "--docker-pid-file="+u.dockerPIDFile, "--runtime-binary="+u.runtimeBinary).CombinedOutput()
	return string(out), err
}

// mustRegister runs cridock runtime install. A cridock that runs has to be restarted.
func (u *usernsTest) mustRegister(t *testing.T) {
	t.Helper()
	if out, err := u.register("install"); err != nil {
		t.Fatalf("cridock runtime install: %v: %s", err, out)
	}
}

// mustOffer checks that user namespaces are advertised.
func (u *usernsTest) mustOffer(t *testing.T) {
	t.Helper()
	if !u.advertised(t) {
		out, err := u.register("status")
		t.Fatalf("it is not advertised; cridock runtime status: %v: %s", err, out)
	}
}

// records lists the IDs of containers that have a record.
func (u *usernsTest) records(t *testing.T) []string {
	t.Helper()
	names, err := entries(filepath.Join(u.runDir, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// checkSeamLeft checks that no record and no id-mapped mount is left.
func (u *usernsTest) checkSeamLeft(t *testing.T) {
	t.Helper()
	if left := u.records(t); len(left) > 0 {
		t.Errorf("records left behind: %v", left)
	}
	mounts, err := u.mounts()
	if left := containing(mounts, "/run/cridock/mnt"); err != nil || len(left) > 0 {
		t.Errorf("mounts left behind: %v, %v", left, err)
	}
}

// onHost returns what the node says of a file.
func (u *usernsTest) onHost(t *testing.T, format, path string) string {
	t.Helper()
	return strings.TrimSpace(u.run(t, "stat", "-c", format, path))
}

// advertised reports whether the default runtime handler has user namespaces.
func (u *usernsTest) advertised(t *testing.T) bool {
	t.Helper()
	for _, h := range rpc(t, u.runtime.Status, &runtimeapi.StatusRequest{}).RuntimeHandlers {
		if h.Name == "cridock" {
			t.Error("cridock-runtime is a runtime handler")
		}
		if h.Name == "" {
			return h.Features.UserNamespaces
		}
	}
	t.Fatal("there is no default handler")
	return false
}

// TestUserNamespaces runs pods with user namespaces of their own.
func TestUserNamespaces(t *testing.T) {
	t.Parallel()
	u := newUsernsTest(t)
	if err := u.start(); err != nil {
		t.Fatal(err)
	}
	t.Run("not registered", u.notRegistered)
	crun, err := exec.LookPath("crun")
	if err == nil {
		err = os.WriteFile(filepath.Join(u.node.dir, "daemon.json"), fmt.Appendf(nil, `{"runtimes": {"crun": {"path": %q}}}`, crun), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	u.mustRegister(t)
	u.restart(t, nil)
	u.mustOffer(t)
	inPod := inUserNamespace(100000)
	for name, test := range map[string]func(*testing.T){
		"inside": u.inside, "volumes": u.volumes, "a volume of the image": u.imageVolume, "network": u.network, "two ranges": u.twoRanges, "an image as a volume": u.imageAsVolume, "host name": u.hostName, "devices": u.devices, "streams": u.streams,
		"copy": u.copies, "debugger": u.debugger, "refused": u.refused, "missing record": u.missingRecord,
		"exec sessions": func(t *testing.T) { u.streamExecs(t, inPod) },
		"attach":        func(t *testing.T) { u.attaches(t, inPod) },
		"port-forward":  func(t *testing.T) { u.forwards(t, 8080, inPod) },
		"limits":        func(t *testing.T) { u.limits(t, inPod) },
		"statistics":    func(t *testing.T) { u.measures(t, inPod) },
	} {
		t.Run(name, test)
	}
	t.Run("restart", u.restarted)
	t.Run("crun", u.otherRuntime)
	t.Run("power cut", u.afterPowerCut)
	u.checkSeamLeft(t)
	if out, err := u.register("remove"); err != nil {
		t.Errorf("cridock runtime remove: %v: %s", err, out)
	}
	if out, err := u.register("status"); err == nil || !strings.Contains(out, "not registered") {
		t.Errorf("status after the removal: %v: %s", err, out)
	}
}

func (u *usernsTest) notRegistered(t *testing.T) {
	if u.advertised(t) {
		t.Error("user namespaces are advertised without cridock-runtime")
	}
	_, err := try(u.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: u.podConfig(t, inUserNamespace(100000))})
	wantCode(t, err, codes.FailedPrecondition, "cridock runtime install")
}

// inside looks at a container from both sides.
func (u *usernsTest) inside(t *testing.T) {
	p := u.runPod(t, inUserNamespace(100000))
	if o := p.status().Linux.Namespaces.Options.UsernsOptions; o.GetUids()[0].GetHostId() != 100000 {
		t.Errorf("the status has %v", o)
	}
	c := p.start("main", "sleep 1000")
	for script, want := range map[string]string{
		"cat /proc/self/uid_map | tr -s ' '":                                                                   "0 100000 65536",
		"cat /proc/self/gid_map | tr -s ' '":                                                                   "0 100000 65536",
		"stat -c %u:%g / /bin/busybox /etc/hosts /etc/resolv.conf /etc/hostname /proc/1":                       strings.TrimSuffix(strings.Repeat("0:0\n", 6), "\n"),
		"id -u; touch /f && chown 1000:2000 /f && stat -c %u:%g /f":                                            "0\n1000:2000",
		"grep -c 10.96.0.10 /etc/resolv.conf; echo '1.2.3.4 more' >>/etc/hosts; tail -n1 /etc/hosts; hostname": "1\n1.2.3.4 more\n" + p.cfg.Hostname,
		"echo x >/dev/shm/x && cat /dev/shm/x":                                                                 "x",
		"echo 1 >/proc/sys/kernel/panic; echo $?":                                                              "1",
		"cat /proc/sys/net/ipv4/ping_group_range | xargs":                                                      "0 65535",
	} {
		if got := c.sh(script + " 2>/dev/null"); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	for _, id := range []string{p.id, c.id} {
		pid := u.docker.inspect(t, id).State.Pid
		if got := strings.Join(strings.Fields(u.run(t, "cat", fmt.Sprintf("/proc/%d/uid_map", pid))), " "); got != "0 100000 65536" {
			t.Errorf("%s: outside its map is %q", id, got)
		}
		if got := u.run(t, "grep", "^Uid:", fmt.Sprintf("/proc/%d/status", pid)); strings.Contains(got, "\t0\t") {
			t.Errorf("%s: outside it runs as %s", id, got)
		}
	}
	var inspect struct {
		GraphDriver struct{ Data struct{ UpperDir string } }
	}
	u.docker.must(t, http.MethodGet, "/containers/"+c.id+"/json", nil, &inspect)
	if upper := inspect.GraphDriver.Data.UpperDir; upper == "" {
		t.Log("Docker does not say where the writable layer is")
	} else if got := u.onHost(t, "%u:%g", upper+"/f"); got != "1000:2000" {
		t.Errorf("in the layer the file belongs to %s", got)
	}
	if got := p.output("user", "id -u; echo again >/dev/stdout; touch /denied 2>/dev/null || echo denied", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
	}); got != "1000\nagain\ndenied\n" {
		t.Errorf("as user 1000: %q", got)
	}
}

// volumes: files on id-mapped volumes keep their owners.
func (u *usernsTest) volumes(t *testing.T) {
	host := filepath.Join(u.node.dir, "volumes")
	u.run(t, "sh", "-ec", "mkdir -p "+host+"/a "+host+"/b; cd "+host+"; touch a/root a/user b/root; chown 1000:1000 a/user; chmod 644 a/* b/*; mkdir locked; mount -t tmpfs -o nosuid,nodev,noexec none locked; touch locked/root")
	t.Cleanup(func() { u.run(t, "umount", host+"/locked") })
	p := u.runPod(t, inUserNamespace(100000))
	c := p.start("main", "sleep 1000", mapped(100000, host+"/a", "/a"), func(cfg *runtimeapi.ContainerConfig) {
		cfg.Mounts = append(cfg.Mounts, &runtimeapi.Mount{HostPath: host + "/b", ContainerPath: "/b"},
			&runtimeapi.Mount{HostPath: host + "/locked", ContainerPath: "/locked", Readonly: true, UidMappings: cfg.Mounts[0].UidMappings, GidMappings: cfg.Mounts[0].GidMappings},
			&runtimeapi.Mount{HostPath: host + "/a", ContainerPath: "/ro", Readonly: true, UidMappings: cfg.Mounts[0].UidMappings, GidMappings: cfg.Mounts[0].GidMappings})
	})
	if got := c.sh("stat -c %u /a/root /a/user /b/root /ro/user /locked/root | xargs; echo w >/a/new; chown 1000 /a/root; echo w >/b/root || echo denied; echo w >/ro/root || echo read-only"); got != "0 1000 65534 1000 0\ndenied\nread-only" {
		t.Errorf("inside: %q", got)
	}
	for file, want := range map[string]string{"a/new": "0", "a/root": "1000", "a/user": "1000", "b/root": "0"} {
		if got := u.onHost(t, "%u", filepath.Join(host, file)); got != want {
			t.Errorf("on the node %s belongs to %s, want %s", file, got, want)
		}
	}
}

// imageVolume: volumes that an image asks for belong to whom the image says.
func (u *usernsTest) imageVolume(t *testing.T) {
	const image = "localhost/e2e/volume:1"
	u.docker.build(t, image, "FROM "+u.image+"\nRUN mkdir /vol && touch /vol/root /vol/user && chown 1000 /vol/user\nVOLUME /vol\n")
	p := u.runPod(t, inUserNamespace(100000))
	got := p.output("main", "stat -c %u /vol /vol/root /vol/user | xargs; touch /vol/new && stat -c %u /vol/new", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Image.Image = image
	})
	if got != "0 0 1000\n0\n" {
		t.Errorf("%q", got)
	}
}

// imageAsVolume: the files of an image that is mounted belong to whom the image says.
func (u *usernsTest) imageAsVolume(t *testing.T) {
	const image = "localhost/e2e/as-volume:1"
	u.docker.build(t, image, "FROM "+u.image+"\nRUN mkdir /sub && echo content >/sub/root && touch /sub/user && chown 1000 /sub/user && chmod 600 /sub/root && ln -s /etc /sub/out\nRUN echo new >>/sub/root\n")
	p := u.runPod(t, inUserNamespace(100000))
	c := p.start("main", "sleep 1000", func(cfg *runtimeapi.ContainerConfig) {
		o := usernsOptions(100000)
		cfg.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/whole", Image: &runtimeapi.ImageSpec{Image: image}, Readonly: true, UidMappings: o.Uids, GidMappings: o.Gids},
			{ContainerPath: "/sub", Image: &runtimeapi.ImageSpec{Image: image}, ImageSubPath: "sub", Readonly: true},
		}
	})
	for _, dir := range []string{"/whole/sub", "/sub"} {
		if got := c.sh("cd " + dir + " && stat -c %u . root user | xargs; cat root; touch new 2>/dev/null || echo read-only"); got != "0 0 1000\ncontent\nnew\nread-only" {
			t.Errorf("%s: %q", dir, got)
		}
	}
}

// devices: a container has the requested device, whatever the node has on its path.
func (u *usernsTest) devices(t *testing.T) {
	node := filepath.Join(u.node.dir, "zero")
	u.run(t, "sh", "-ec", "mknod -m 640 "+node+" c 1 5; chown 0:2000 "+node)
	p := u.runPod(t, inUserNamespace(100000))
	c := p.start("main", "sleep 1000", withDevice(node, "/dev/asked", "rw"), withDevice(node, "/dev/kmsg", "r"), withDevice("/dev/full", "/dev/full", "rw"))
	if got := c.sh("for d in asked kmsg; do stat -c '%t:%T %u:%g %a' /dev/$d; head -c2 /dev/$d | wc -c; done; stat -c '%t:%T' /dev/full"); got != strings.Repeat("1:5 0:2000 640\n2\n", 2)+"1:7" {
		t.Errorf("%q", got)
	}
	if got := u.onHost(t, "%u:%g", node); got != "0:2000" {
		t.Errorf("on the node it belongs to %s", got)
	}
}

// hostName: all containers of the pod see the host name that one has set.
func (u *usernsTest) hostName(t *testing.T) {
	p := u.runPod(t, inUserNamespace(100000))
	first, admin := p.start("first", "sleep 1000"), p.start("admin", "sleep 1000", capability("SYS_ADMIN"))
	if got := admin.sh("hostname changed; hostname"); got != "changed" {
		t.Errorf("where it was changed it is %q", got)
	}
	later := p.start("later", "sleep 1000")
	for _, c := range []*ctr{first, later} {
		if got := c.sh("hostname"); got != "changed" {
			t.Errorf("in %s it is %q", c.cfg.Metadata.Name, got)
		}
	}
	if got := u.runPod(t, inUserNamespace(100000)).output("other", "hostname"); got == "changed\n" {
		t.Error("another pod has it")
	}
}

// network: the pod's network namespace belongs to its user namespace, and CNI has set
// it up.
func (u *usernsTest) network(t *testing.T) {
	p, other := u.runPod(t, inUserNamespace(100000)), u.runPod(t)
	p.start("server", "echo served >/tmp/index.html; exec httpd -f -p 8080 -h /tmp")
	if got := other.output("client", "for i in $(seq 600); do wget -qO- http://"+p.status().Network.Ip+":8080/ && exit; sleep 0.1; done; exit 1"); lastLine(got) != "served" {
		t.Errorf("another pod's client got %q", got)
	}
	admin := p.start("admin", "sleep 1000", capability("NET_ADMIN"))
	if got := admin.sh("ip addr add 10.99.0.1/32 dev lo && ip -o addr show dev lo | grep -c 10.99.0.1; ping -c5 -w60 " + other.status().Network.Ip + " >/dev/null && echo pong"); got != "1\npong" {
		t.Errorf("with NET_ADMIN: %q", got)
	}
}

// twoRanges: pods share the layers of an image, and nothing else.
func (u *usernsTest) twoRanges(t *testing.T) {
	a, b := u.runPod(t, inUserNamespace(100000)), u.runPod(t, inUserNamespace(300000))
	first, second := a.start("main", "sleep 1000"), b.start("main", "sleep 1000")
	for c, want := range map[*ctr]string{first: "0 100000 65536", second: "0 300000 65536"} {
		if got := c.sh("tr -s ' ' </proc/self/uid_map; stat -c %u /bin/busybox"); got != want+"\n0" {
			t.Errorf("%q, want %s", got, want)
		}
	}
	sandbox, member := u.docker.inspect(t, a.id).State.Pid, u.docker.inspect(t, first.id).State.Pid
	same := func(x, y int) bool {
		return u.onHost(t, "%N", fmt.Sprintf("/proc/%d/ns/user", x)) != "" &&
			strings.TrimSpace(u.run(t, "readlink", fmt.Sprintf("/proc/%d/ns/user", x))) == strings.TrimSpace(u.run(t, "readlink", fmt.Sprintf("/proc/%d/ns/user", y)))
	}
	if !same(sandbox, member) || same(sandbox, u.docker.inspect(t, b.id).State.Pid) {
		t.Error("the user namespace is not the pod's")
	}
}

// streams: the log, and an exec that opens its standard streams.
func (u *usernsTest) streams(t *testing.T) {
	p := u.runPod(t, inUserNamespace(100000))
	main := p.start("main", "echo one; echo two >/dev/stdout; echo three >/proc/self/fd/2")
	if s := main.exited(); s.ExitCode != 0 {
		t.Errorf("exit code %d", s.ExitCode)
	}
	if out, err := join(main.logLines(), "stdout"), join(main.logLines(), "stderr"); out != "one\ntwo\n" || err != "three\n" {
		t.Errorf("the log has %q and %q", out, err)
	}
	c := p.start("exec", "sleep 1000")
	if got := c.sh("echo one >/dev/stdout"); got != "one" {
		t.Errorf("exec printed %q", got)
	}
	if r, err := c.exec(longTimeout, "sh", "-c", "exit 3"); err != nil || r.ExitCode != 3 {
		t.Errorf("exec: %v, %v", r, err)
	}
	c.stop(0)
	if s := c.status(); s.ExitCode != 137 {
		t.Errorf("exit code %d", s.ExitCode)
	}
}

// copies: kubectl cp, which runs tar in a session, keeps contents and owners.
func (u *usernsTest) copies(t *testing.T) {
	c := u.runPod(t, inUserNamespace(100000)).start("main", "mkdir /from /to; echo content >/from/root; echo more >/from/user; chown 1000:2000 /from/user; exec sleep 1000")
	c.sh("until [ -e /from/user ] && [ $(stat -c %u /from/user) = 1000 ]; do usleep 20000; done")
	for protocol := range executors {
		var archive bytes.Buffer
		if err := c.streamExec(t.Context(), t, protocol, remotecommand.StreamOptions{Stdout: &archive}, "tar", "-C", "/from", "-cf", "-", "."); err != nil {
			t.Fatalf("%s, out of it: %v", protocol, err)
		}
		if err := c.streamExec(t.Context(), t, protocol, remotecommand.StreamOptions{Stdin: &archive}, "tar", "-C", "/to", "-xf", "-"); err != nil {
			t.Fatalf("%s, into it: %v", protocol, err)
		}
		if got := c.sh("cd /to; stat -c %u:%g root user; cat root user; rm root user"); got != "0:0\n1000:2000\ncontent\nmore" {
			t.Errorf("%s: %q", protocol, got)
		}
	}
}

// debugger: an ephemeral container sees its target's processes and, through them, its
// files, and has the pod's users.
func (u *usernsTest) debugger(t *testing.T) {
	p := u.runPod(t, inUserNamespace(100000))
	target := p.start("target", "echo secret >/file; chmod 600 /file; exec sleep 4711")
	target.sh("until [ \"$(stat -c %a /file)\" = 600 ]; do usleep 20000; done")
	c := p.start("debugger", "sleep 1000", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: target.id, UsernsOptions: usernsOptions(100000)}
	}, capability("SYS_PTRACE"))
	if got := c.sh("tr '\\0' ' ' </proc/1/cmdline; echo; cat /proc/1/root/file; tr -s ' ' </proc/self/uid_map"); got != "sleep 4711 \nsecret\n 0 100000 65536" {
		t.Errorf("it sees %q", got)
	}
	for _, ns := range []string{"user", "pid", "net", "ipc", "uts"} {
		if got, want := c.sh("readlink /proc/self/ns/"+ns), target.sh("readlink /proc/self/ns/"+ns); got != want {
			t.Errorf("its %s namespace is %s, that of its target %s", ns, got, want)
		}
	}
}

func (u *usernsTest) refused(t *testing.T) {
	_, err := try(u.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: u.podConfig(t, inUserNamespace(100000), hostNetwork)})
	wantCode(t, err, codes.InvalidArgument, "host's network")
	_, err = try(u.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: u.podConfig(t), RuntimeHandler: "cridock"})
	wantCode(t, err, codes.InvalidArgument, "cridock")
	// Whoever starts a container with the runtime by hand gets an error and no container.
	id := u.createByHand(t)
	_, err = u.docker.call(http.MethodPost, "/containers/"+id+"/start", nil, nil)
	u.docker.must(t, http.MethodDelete, "/containers/"+id+"?force=1", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "no record of container "+id) {
		t.Errorf("started by hand: %v", err)
	}
}

func (u *usernsTest) createByHand(t *testing.T) string {
	t.Helper()
	var created struct{ ID string }
	u.docker.must(t, http.MethodPost, "/containers/create", map[string]any{
		"Image": u.image, "Cmd": []string{"true"}, "HostConfig": map[string]any{"Runtime": "cridock", "NetworkMode": "none"},
	}, &created)
	return created.ID
}

// missingRecord: a container whose record is gone does not start.
func (u *usernsTest) missingRecord(t *testing.T) {
	p := u.runPod(t, inUserNamespace(100000))
	c := p.create("main", "sleep 1000")
	if got := u.records(t); len(got) != 2 {
		t.Errorf("a pod with one container has the records %v", got)
	}
	if got := u.onHost(t, "%a %u", "/run/cridock/oci/"+c.id+".json"); got != "600 0" {
		t.Errorf("the record has mode and owner %s", got)
	}
	u.run(t, "rm", "/run/cridock/oci/"+c.id+".json")
	_, err := try(u.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: c.id})
	if err == nil || !strings.Contains(err.Error(), "no record of container "+c.id) {
		t.Errorf("the start: %v", err)
	}
	if s := c.exited(); !strings.Contains(s.Message, "no record") || s.Reason != "ContainerCannotRun" {
		t.Errorf("it is %v: %s", s.Reason, s.Message)
	}
	// The pod is none the worse.
	if got := p.output("again", "echo works"); got != "works\n" {
		t.Errorf("%q", got)
	}
}

// restarted: pods outlive cridock, and new containers join them.
func (u *usernsTest) restarted(t *testing.T) {
	p := u.runPod(t, inUserNamespace(100000))
	c, created := p.start("main", "sleep 1000"), p.create("created", "stat -c %u /")
	gone := p.start("gone", "sleep 1000")
	before := len(u.records(t))
	u.restart(t, func() { u.docker.must(t, http.MethodDelete, "/containers/"+gone.id+"?force=1", nil, nil) })
	eventually(t, "the record of the removed container is gone", time.Minute, func() bool { return len(u.records(t)) == before-1 })
	if got := c.sh("echo works"); got != "works" {
		t.Errorf("exec printed %q", got)
	}
	rpc(t, u.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: created.id})
	if s := created.exited(); s.ExitCode != 0 || created.logText() != "0\n" {
		t.Errorf("started after the restart: %d, %q", s.ExitCode, created.logText())
	}
	if got := p.output("new", "tr -s ' ' </proc/self/uid_map"); strings.TrimSpace(got) != "0 100000 65536" {
		t.Errorf("a new container has the map %q", got)
	}
}

// afterPowerCut restarts the machine under a pod, which can be removed, and runs again
// with the owners that its volume had.
func (u *usernsTest) afterPowerCut(t *testing.T) {
	dir := filepath.Join(u.node.dir, "kept")
	u.run(t, "mkdir", dir)
	p := u.runPod(t, inUserNamespace(100000))
	c := p.start("main", "chown 1000 /data; exec sleep 1000", mapped(100000, dir, "/data"), imageVolume(u.image, ""))
	eventually(t, "the volume has its owner", time.Minute, func() bool { return u.onHost(t, "%u", dir) == "1000" })
	u.powerCut(t)
	<-u.done
	u.runDir = fmt.Sprintf("/proc/%d/root/run/cridock", u.pid)
	if err := errors.Join(u.check(), u.conn.Close()); err != nil {
		t.Fatal(err)
	}
	u.conn = nil // the socket has another path
	// The new engine has a new daemon.json.
	u.mustRegister(t)
	if err := u.start(); err != nil {
		t.Fatal(err)
	}
	checkExited(t, "after the power cut", c, 255, "Error")
	if left := u.records(t); len(left) > 0 {
		t.Errorf("records after the power cut: %v", left)
	}
	u.comesAgain(t, "after the power cut", p)
	again := u.runPod(t, inUserNamespace(200000))
	if got := again.output("main", "stat -c %u /data; tr -s ' ' </proc/self/uid_map", mapped(200000, dir, "/data")); got != "1000\n 0 200000 65536\n" {
		t.Errorf("a new pod has %q", got)
	}
}

// otherRuntime: a RuntimeClass selects the runtime that is executed in the end.
func (u *usernsTest) otherRuntime(t *testing.T) {
	u.hideHybridCgroup(t)
	const null = "/dev/null"
	before := u.onHost(t, "%u:%g %a", null)
	t.Cleanup(func() {
		if owner := u.onHost(t, "%u:%g %a", null); owner != before {
			t.Errorf("the host's %s belonged to %s, and now to %s", null, before, owner)
		}
	})
	p := u.runPodWith(t, "crun", inUserNamespace(100000))
	c := p.start("main", "sleep 1000")
	if got := c.sh("tr -s ' ' </proc/self/uid_map; stat -c %u /; echo one >/dev/stdout"); got != "0 100000 65536\n0\none" {
		t.Errorf("%q", got)
	}
	if got := u.run(t, "sh", "-c", "cat /run/cridock/oci/"+c.id+".json"); !strings.Contains(got, "crun") {
		t.Errorf("the record is %s", got)
	}
}

// TestUserNamespacesLiveRestore restarts dockerd under a pod, which goes on as it was.
func TestUserNamespacesLiveRestore(t *testing.T) {
	t.Parallel()
	e := newOwnEngine(t, "--live-restore")
	u := newUsernsTestOn(t, e.node, "--docker-endpoint=unix://"+e.socket())
	u.dockerSocket, u.dockerPIDFile = e.socket(), filepath.Join(e.dir, "pid")
	if err := u.start(); err != nil {
		t.Fatal(err)
	}
	u.mustRegister(t)
	u.restart(t, nil)
	u.mustOffer(t)
	volume := filepath.Join(u.node.dir, "live")
	u.run(t, "mkdir", volume)
	for _, signal := range []string{"TERM", "KILL"} {
		t.Run(signal, func(t *testing.T) { u.survivesDocker(t, e, signal, volume) })
	}
	u.checkSeamLeft(t)
}

// survivesDocker ends dockerd and starts it again, with cridock killed meanwhile.
func (u *usernsTest) survivesDocker(t *testing.T, e *ownEngine, signal, volume string) {
	p := u.runPod(t, inUserNamespace(100000))
	main := p.start("main", "exec sleep 1000", mapped(100000, volume, "/data"))
	end := "end-" + signal
	ends, created := p.start("ends", "until [ -e /data/"+end+" ]; do usleep 20000; done; exit 3", mapped(100000, volume, "/data")), p.create("created", "stat -c %u /; tr -s ' ' </proc/self/uid_map")
	pids := func() []int {
		return []int{u.docker.inspect(t, p.id).State.Pid, u.docker.inspect(t, main.id).State.Pid}
	}
	before, records := pids(), u.records(t)
	e.restartDockerd(t, u.cridock, signal, func() {
		u.run(t, "touch", filepath.Join(volume, end))
		if err := errors.Join(u.kill(), u.launch()); err != nil {
			t.Fatal(err)
		}
	})
	if after := pids(); !slices.Equal(before, after) {
		t.Errorf("the processes were %v and are %v", before, after)
	}
	if after := u.records(t); !slices.Equal(records, after) {
		t.Errorf("the records were %v and are %v", records, after)
	}
	if o := p.status().Linux.Namespaces.Options.UsernsOptions; o.GetUids()[0].GetHostId() != 100000 {
		t.Errorf("the status has %v", o)
	}
	// 255 is Docker's code for an exit that neither it nor containerd has seen.
	if s := ends.exited(); s.ExitCode != 3 && s.ExitCode != 255 {
		t.Errorf("what ended meanwhile has the exit code %d", s.ExitCode)
	}
	if got := main.sh("tr -s ' ' </proc/self/uid_map; touch /data/" + signal + "; stat -c %u /data/" + signal); got != "0 100000 65536\n0" {
		t.Errorf("in the container that went on: %q", got)
	}
	if got := u.onHost(t, "%u", filepath.Join(volume, signal)); got != "0" {
		t.Errorf("on the node its file belongs to %s", got)
	}
	rpc(t, u.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: created.id})
	if s := created.exited(); s.ExitCode != 0 || created.logText() != "0\n 0 100000 65536\n" {
		t.Errorf("created before, started after: exit code %d, %q", s.ExitCode, created.logText())
	}
	if got := p.output("late", "tr -s ' ' </proc/self/uid_map"); got != " 0 100000 65536\n" {
		t.Errorf("a new container has the map %q", got)
	}
	p.remove()
}
