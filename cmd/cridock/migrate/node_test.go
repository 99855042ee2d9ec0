package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/needs"
	"github.com/cridock/cridock/internal/nodeconf"
	"github.com/cridock/cridock/translate"
)

const (
	sandboxID   = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	containerID = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	podLog      = "/var/log/pods/default_web_u1/web/2.log"
	dropInLogs  = "/etc/cridock/conf.d/zz-migrate.yaml"
)

// node is a node below a temporary directory, with a systemd whose units serve the CRI
// and act on logs and pins as the real ones do.
type node struct {
	*Host
	t     *testing.T
	units map[string]*fakeUnit
	out   *bytes.Buffer
	// list is Docker's.
	list []container.Summary
	// calls are the programs that ran, and fail the one that fails, by its arguments.
	calls []string
	fail  map[string]error
	// failLists is how many of Docker's next lists fail.
	failLists int
	// cridockLists is how many of the members cridock lists; -1 for all.
	cridockLists int
	// cridockIP is what cridock reports of the pod, and oldV1 whether the old adapter
	// speaks CRI v1.
	cridockIP, oldIP string
	oldV1            bool
	// kubeletDies: it exits soon after its start on cridock.
	kubeletDies bool
	servers     map[string]func()
	annotation  string
}

type fakeUnit struct {
	active, enabled bool
	pid             int
}

// nodeFiles are those of a node by kubeadm with cri-dockerd.
var nodeFiles = map[string]string{
	"/run/systemd/system/.keep":                              "",
	"/lib/systemd/system/cridock.service":                    "[Service]\nExecStart=/usr/bin/cridock serve\n",
	"/lib/systemd/system/cri-docker.service":                 "[Service]\nExecStart=/usr/bin/cri-dockerd --container-runtime-endpoint fd://\n",
	"/lib/systemd/system/cri-docker.socket":                  "[Socket]\nListenStream=%t/cri-dockerd.sock\n",
	"/lib/systemd/system/kubelet.service":                    "[Service]\nExecStart=/usr/bin/kubelet\n",
	"/lib/systemd/system/kubelet.service.d/kubeadm.conf":     "[Service]\nEnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\nEnvironmentFile=-/etc/default/kubelet\nExecStart=\nExecStart=/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS\n",
	"/var/lib/kubelet/kubeadm-flags.env":                     "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///var/run/cri-dockerd.sock --pod-infra-container-image=pause:3.9\"\n",
	"/var/lib/kubelet/config.yaml":                           "kind: KubeletConfiguration\ncontainerRuntimeEndpoint: \"\"\n",
	"/etc/default/kubelet":                                   "KUBELET_EXTRA_ARGS=\n",
	"/etc/cridock/cridock.yaml":                              "",
	"/etc/kubernetes/kubelet.conf":                           "",
	"/run/cridock/.keep":                                     "",
	"/var/log/pods/default_web_u1/web/.keep":                 "",
	"/var/lib/docker.log":                                    "docker's",
	"/var/lib/cridock/.keep":                                 "",
	"/var/lib/cni/cache/results/pods-" + sandboxID + "-eth0": `{"kind":"cniCacheV1","containerId":"` + sandboxID + `","config":"e30=","ifName":"eth0","networkName":"pods","capabilityArgs":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}}`,
}

func newNode(t *testing.T) *node {
	t.Helper()
	needs.Root(t, "files of the node belong to root")
	root, err := os.MkdirTemp("", "mig") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	n := &node{
		t: t, out: &bytes.Buffer{}, fail: map[string]error{}, cridockLists: -1, cridockIP: "10.77.0.2", oldIP: "10.77.0.2", oldV1: true,
		servers: map[string]func(){}, annotation: "unix:///var/run/cri-dockerd.sock",
		units: map[string]*fakeUnit{
			"kubelet.service": {active: true, enabled: true, pid: 1}, "cri-docker.service": {active: true, enabled: true, pid: 1},
			"cri-docker.socket": {active: true, enabled: true}, "cridock.service": {},
		},
		list: []container.Summary{
			{ID: sandboxID, Names: []string{"/k8s_POD_web_default_u1_0"}, State: "running", Labels: map[string]string{translate.LabelType: "podsandbox"}},
			{ID: containerID, Names: []string{"/k8s_web_web_default_u1_2"}, State: "running", Labels: map[string]string{translate.LabelType: "container", translate.LabelLogPath: podLog}},
			{ID: "cc", Names: []string{"/another"}, State: "running", Labels: map[string]string{translate.LabelType: "container"}},
		},
	}
	t.Cleanup(func() {
		for _, stop := range n.servers {
			stop()
		}
		_ = os.RemoveAll(root)
	})
	n.Host = &Host{
		Root: nodeconf.Root(root), Run: n.run, Hostname: func() (string, error) { return "Node1", nil },
		Unmount: func(string) error { return nil }, In: strings.NewReader(""), Out: n.out, Docker: func(string) (Engine, error) { return n, nil },
		Patience: time.Minute, Settle: 4 * time.Millisecond, Poll: 2 * time.Millisecond,
		Load: func(args []string) (Settings, error) {
			if !slices.Equal(args, []string{"serve"}) {
				t.Errorf("settings of a cridock with %q", args)
			}
			return Settings{
				Endpoint: "unix:///run/cridock/cridock.sock", DockerEndpoint: "unix:///run/docker.sock", RootDir: "/var/lib/cridock", RuntimeDir: "/run/cridock",
				PodLogsDir: "/var/log/pods", ConfigDir: "/etc/cridock/conf.d", NetworkPlugin: "cni", CNIConfDir: "/etc/cni/net.d",
				CNIBinDirs: []string{"/opt/cni/bin", "/usr/lib/cni"}, CNICacheDir: "/var/lib/cni/cache",
				PrepareRoot: func() error { return os.MkdirAll(filepath.Join(root, "var/lib/cridock"), 0o711) },
			}, nil
		},
	}
	for path, content := range nodeFiles {
		n.write(path, content)
	}
	n.link(podLog)
	n.serveCRI("/run/cri-dockerd.sock", true)
	return n
}

func (n *node) write(path, content string) {
	n.t.Helper()
	full := n.Root.Path(path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(content), 0o640)); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) read(path string) string {
	n.t.Helper()
	text, err := n.Root.ReadFile(path)
	if err != nil {
		n.t.Fatal(err)
	}
	return text
}

func (n *node) link(path string) {
	_ = os.Remove(n.Root.Path(path))
	if err := os.Symlink(n.Root.Path("/var/lib/docker.log"), n.Root.Path(path)); err != nil {
		n.t.Fatal(err)
	}
}

// state is all that a migration may change: files with modes and owners, and units.
func (n *node) state() map[string]string {
	n.t.Helper()
	all := map[string]string{"annotation": n.annotation}
	for name, u := range n.units {
		all[name] = fmt.Sprint(u.active, u.enabled)
	}
	err := filepath.WalkDir(string(n.Root), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch info.Mode().Type() {
		case 0:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(b)
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " " + target
		}
		all[n.Root.Shown(path)] = text
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return all
}

// run is systemctl and kubectl.
func (n *node) run(ctx context.Context, name string, args ...string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	call := name + " " + strings.Join(args, " ")
	n.calls = append(n.calls, call)
	if err := n.fail[call]; err != nil {
		return "", err
	}
	switch {
	case name == "kubectl" && slices.Contains(args, "get"):
		return n.annotation, nil
	case name == "kubectl":
		_, n.annotation, _ = strings.Cut(args[len(args)-1], "=")
		return "", nil
	case name != "systemctl":
		n.t.Errorf("unexpected program %s", call)
		return "", nil
	case args[0] == "show":
		return n.show(args[len(args)-1]), nil
	case args[0] == "daemon-reload":
		return "", nil
	}
	u := n.units[args[1]]
	if u == nil {
		n.t.Errorf("%s: no such unit", call)
		return "", errors.New("no such unit")
	}
	switch args[0] {
	case "enable", "disable":
		u.enabled = args[0] == "enable"
	case "stop":
		n.stop(args[1])
	case "start":
		n.start(args[1])
	case "restart":
		n.stop(args[1])
		n.start(args[1])
	default:
		n.t.Errorf("unexpected %s", call)
	}
	return "", nil
}

func (n *node) show(name string) string {
	u, ok := n.units[name]
	if !ok {
		return "Id=" + name + "\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\nMainPID=0\n"
	}
	if name == kubeletService && n.kubeletDies && u.active && n.units[cridockService].active {
		u.pid++ // systemd starts it again and again
	}
	active, enabled := "inactive", "disabled"
	if u.active {
		active = "active"
	}
	if u.enabled {
		enabled = "enabled"
	}
	return fmt.Sprintf("Id=%s\nLoadState=loaded\nActiveState=%s\nUnitFileState=%s\nMainPID=%d\n", name, active, enabled, u.pid)
}

func (n *node) start(name string) {
	if n.units[name].active {
		return
	}
	n.units[name].active = true
	n.units[name].pid = 10
	adapters := 0
	for _, a := range []string{"cri-docker.service", "cridock.service"} {
		if n.units[a] != nil && n.units[a].active {
			adapters++
		}
	}
	if adapters > 1 {
		n.t.Error("two adapters run")
	}
	switch name {
	case "kubelet.service":
		n.checkKubelet()
	case "cri-docker.service":
		n.serveCRI("/run/cri-dockerd.sock", true)
	case "cridock.service":
		if n.units["kubelet.service"].active {
			n.t.Error("cridock starts while the kubelet runs")
		}
		n.serveCRI("/run/cridock/cridock.sock", false)
		n.write("/run/cridock/netns/"+sandboxID, "")
		n.convert()
	}
}

// convert replaces a link by a log, or a log by a link.
func (n *node) convert() {
	if n.Root.Exists(dropInLogs) {
		n.link(podLog)
		return
	}
	_ = os.Remove(n.Root.Path(podLog))
	n.write(podLog, "a log")
}

// checkKubelet: it finds its adapter, whose logs it can read.
func (n *node) checkKubelet() {
	k, err := (&migration{Host: n.Host}).kubelet()
	if err != nil {
		n.t.Error(err)
		return
	}
	unit := "cri-docker.service"
	if sameSocket(k.endpoint, "unix:///run/cridock/cridock.sock") {
		unit = "cridock.service"
	} else if info, err := os.Lstat(n.Root.Path(podLog)); err != nil || info.Mode().Type() != fs.ModeSymlink {
		n.t.Errorf("the kubelet starts on the old adapter with a log that is no link (%v)", err)
	} else if n.Root.Exists("/run/cridock/netns/" + sandboxID) {
		n.t.Error("the kubelet starts on the old adapter with a pin of cridock's")
	}
	if u := n.units[unit]; u != nil && !u.active {
		n.t.Errorf("the kubelet starts with endpoint %s, and %s does not run", k.endpoint, unit)
	}
}

func (n *node) stop(name string) {
	n.units[name].active, n.units[name].pid = false, 0
	switch name {
	case "cri-docker.service":
		n.stopCRI("/run/cri-dockerd.sock")
	case "cridock.service":
		n.stopCRI("/run/cridock/cridock.sock")
	}
}

func (n *node) stopCRI(path string) {
	if stop := n.servers[path]; stop != nil {
		stop()
		delete(n.servers, path)
	}
}

func (n *node) serveCRI(path string, old bool) {
	full := n.Root.Path(path)
	_ = os.Remove(full)
	l, err := net.Listen("unix", full)
	if err != nil {
		n.t.Fatal(err)
	}
	server := grpc.NewServer()
	if !old || n.oldV1 {
		runtimeapi.RegisterRuntimeServiceServer(server, &fakeCRI{node: n, old: old})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	n.servers[path] = func() {
		server.Stop()
		<-done
	}
}

// fakeCRI lists the node's pod, and the sandbox ownID if it runs.
type fakeCRI struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	*node
	old bool
}

func (f *fakeCRI) lists(i int) bool { return f.old || f.cridockLists < 0 || i < f.cridockLists }

func (f *fakeCRI) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	r := &runtimeapi.ListPodSandboxResponse{}
	if f.lists(0) {
		r.Items = []*runtimeapi.PodSandbox{{Id: sandboxID, Metadata: &runtimeapi.PodSandboxMetadata{}, State: runtimeapi.PodSandboxState_SANDBOX_READY}}
	}
	if f.lists(2) && slices.ContainsFunc(f.list, func(c container.Summary) bool { return c.ID == ownID && c.State == "running" }) {
		r.Items = append(r.Items, &runtimeapi.PodSandbox{Id: ownID, Metadata: &runtimeapi.PodSandboxMetadata{}, State: runtimeapi.PodSandboxState_SANDBOX_READY})
	}
	return r, nil
}

func (f *fakeCRI) ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	r := &runtimeapi.ListContainersResponse{}
	if f.lists(1) {
		r.Containers = []*runtimeapi.Container{{Id: containerID, Metadata: &runtimeapi.ContainerMetadata{Attempt: 2}, State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	}
	return r, nil
}

func (f *fakeCRI) PodSandboxStatus(_ context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	switch r.PodSandboxId {
	case sandboxID:
	case ownID:
		return &runtimeapi.PodSandboxStatusResponse{}, nil
	default:
		return nil, status.Error(codes.NotFound, r.PodSandboxId)
	}
	ip := f.cridockIP
	if f.old {
		ip = f.oldIP
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{Network: &runtimeapi.PodSandboxNetworkStatus{Ip: ip}}}, nil
}

func (n *node) ContainerList(_ context.Context, f filters.Args) ([]container.Summary, error) {
	var list []container.Summary
	for _, c := range n.list {
		if f.Contains("label") && f.Get("label")[0] == translate.LabelType+"=podsandbox" && c.Labels[translate.LabelType] != "podsandbox" {
			continue
		}
		list = append(list, c)
	}
	if n.failLists > 0 {
		n.failLists--
		return nil, errors.New("no answer")
	}
	return list, nil
}

func (n *node) ContainerInspect(_ context.Context, id string) (container.InspectResponse, error) {
	return container.InspectResponse{ContainerJSONBase: &container.ContainerJSONBase{ID: id, HostConfig: &container.HostConfig{LogConfig: container.LogConfig{Type: "json-file"}}}}, nil
}

func (n *node) Close() error { return nil }

// migrate runs the command.
func (n *node) migrate(ctx context.Context, r Request) error {
	r.Yes = true
	return Run(ctx, n.Host, r)
}

// changes returns the calls that change the node.
func (n *node) changes() []string {
	return slices.DeleteFunc(slices.Clone(n.calls), func(c string) bool {
		return strings.Contains(c, " show ") || strings.Contains(c, " get node ")
	})
}

// without returns the state but for what any run of adapters leaves.
func without(state map[string]string, prefixes ...string) map[string]string {
	all := maps.Clone(state)
	for path := range all {
		for _, prefix := range append(prefixes, "/run/cridock/netns", "/run/cridock/cridock.sock", "/run/cri-dockerd.sock") {
			if strings.HasPrefix(path, prefix) {
				delete(all, path)
			}
		}
	}
	return all
}
