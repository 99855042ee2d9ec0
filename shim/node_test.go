package shim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/version"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	dockernet "github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/registry"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/cridock/cridock/internal/leakcheck"
	"github.com/cridock/cridock/internal/syncbuffer"
	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/shim"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/engine/enginetest"
	"github.com/cridock/cridock/translate"
)

const (
	// testImage is on every node of these tests.
	testImage = "busybox:1"
	// secret is in every environment, exec and credential of these tests. No log
	// line may contain it; each node checks this when the test ends.
	secret = "hunter2-do-not-log"
	// testTimeout limits how long one test waits.
	testTimeout = 2 * time.Minute
)

// node is a machine with Docker, CNI plugins and one cridock, which a test
// calls over its socket. It outlives the cridock process: see stop and start.
type node struct {
	t       testing.TB
	ctx     context.Context // ends with the test, or after testTimeout
	docker  *enginetest.Server
	plugins *plugins
	imageID string
	dir     string
	cfg     shim.Config
	cni     *network.Config // nil: Docker's networks
	logs    *syncbuffer.Buffer
	netns   int // a thread in its own network namespace; 0 for none
	// verbosity of the log.
	verbosity int

	// These belong to the running process.
	svc     *shim.Service
	engine  *hookedEngine
	metrics *shim.Metrics
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
	// stop stops the client and then the process, shutDown only the latter.
	stop, shutDown func()
}

// newNode creates a node whose pods use one of Docker's networks, and starts
// cridock on it. change may alter the settings before the start.
func newNode(t testing.TB, change ...func(*node)) *node {
	t.Helper()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	before := leakcheck.Now(t)
	t.Cleanup(func() { before.Await(t, time.Minute) })
	dir, err := os.MkdirTemp("", "shim") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Pods may have survived; what they must not leave behind is checked where it
		// matters.
		pins, _ := filepath.Glob(filepath.Join(dir, "netns", "*"))
		for _, pin := range pins {
			if err := network.UnpinNetNS(pin); err != nil {
				t.Error(err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	n := &node{t: t, dir: dir, logs: &syncbuffer.Buffer{}, verbosity: 5, docker: enginetest.New(t), plugins: &plugins{held: map[string]bool{}}}
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	n.ctx = ctx
	n.imageID = n.docker.AddImage(testImage, enginetest.Image{Files: map[string]string{
		"/etc/passwd": "root:x:0:0::/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n",
		"/etc/group":  "root:x:0:\nextra:x:7000:web\n",
	}})
	n.cfg = shim.Config{Version: "test", RootDir: filepath.Join(dir, "root"), NetNSDir: filepath.Join(dir, "netns"), DockerNetwork: "bridge",
		PodLogsDir: filepath.Join(dir, "pods"), Seal: testSeal(t), CgroupRoot: filepath.Join(dir, "cgroup")}
	for _, c := range change {
		c(n)
	}
	t.Cleanup(func() {
		n.stop()
		if strings.Contains(n.logs.String(), secret) {
			t.Errorf("a secret is in the log:\n%s", n.logs.Lines(secret))
		}
		if t.Failed() {
			t.Logf("log of the last process:\n%s", n.logs)
		}
	})
	n.stop = func() {}
	n.start()
	return n
}

// newCNINode is newNode with CNI. Sandboxes share one network namespace, as the
// fake engine runs nothing.
func newCNINode(t testing.TB, change ...func(*node)) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes and mounts a network namespace")
	}
	return newNode(t, append([]func(*node){func(n *node) {
		n.cfg.DockerNetwork = ""
		n.cni = &network.Config{
			ConfDir: filepath.Join(n.dir, "net.d"), BinDirs: []string{"/nowhere"}, CacheDir: filepath.Join(n.dir, "cache"),
			NetNSDir: n.cfg.NetNSDir, Exec: n.plugins,
		}
		n.netns = newNetNS(t)
		conf := `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"fake"}]}`
		n.must(os.MkdirAll(n.cni.ConfDir, 0o755))
		n.must(os.WriteFile(filepath.Join(n.cni.ConfDir, "10-pods.conflist"), []byte(conf), 0o600))
	}}, change...)...)
}

// away starts the node with Docker stopped.
func away(n *node) { n.docker.Stop() }

// start starts cridock, and waits until it is ready, if Docker is up.
func (n *node) start() {
	n.t.Helper()
	n.launch()
	if n.dockerUp() {
		n.waitReady()
	}
}

// launch starts cridock: a new process, except that it shares the test's memory.
func (n *node) launch() {
	n.t.Helper()
	logger := textlogger.NewLogger(textlogger.NewConfig(textlogger.Verbosity(n.verbosity), textlogger.Output(n.logs)))
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), logger))
	client, err := engine.New(n.docker.Endpoint(), nil)
	n.must(err)
	n.engine = &hookedEngine{Client: client}
	n.engine.pid.Store(int64(n.netns))
	var cni *network.CNI
	if n.cni != nil {
		cni, err = network.New(*n.cni)
		n.must(err)
	}
	n.metrics = shim.NewMetrics()
	n.svc, err = shim.New(n.cfg, n.engine, cni, n.metrics)
	n.must(err)
	endpoint := "unix://" + filepath.Join(n.dir, "cri.sock")
	l, err := shim.Listen(ctx, endpoint)
	n.must(err)
	var work sync.WaitGroup
	for name, run := range map[string]func() error{
		"Run":   func() error { return n.svc.Run(ctx) },
		"Serve": func() error { return n.svc.Serve(ctx, l) },
	} {
		work.Go(func() {
			if err := run(); err != nil {
				n.t.Errorf("%s: %v", name, err)
			}
		})
	}
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	n.must(err)
	n.runtime, n.images = runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	n.shutDown = sync.OnceFunc(func() {
		cancel()
		work.Wait()
		_ = client.Close()
	})
	n.stop = func() {
		_ = conn.Close()
		n.shutDown()
	}
}

func (n *node) dockerUp() bool {
	_, err := os.Stat(strings.TrimPrefix(n.docker.Endpoint(), "unix://"))
	return err == nil
}

func (n *node) waitReady() {
	n.t.Helper()
	select {
	case <-n.svc.Ready():
	case <-n.ctx.Done():
		n.t.Fatalf("not ready in time; log:\n%s", n.logs)
	}
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// eventually waits for something that happens in the background.
func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	for !ok() {
		if n.ctx.Err() != nil {
			n.t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// metric returns a sample's exported value, "" if there is none.
func (n *node) metric(sample string) string {
	n.t.Helper()
	w := httptest.NewRecorder()
	n.metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	_, rest, _ := strings.Cut(w.Body.String(), "\n"+sample+" ")
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

// waiting waits until that many requests wait for something.
func (n *node) waiting(what string, count int) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("%d requests wait for a %s", count, what), func() bool {
		return n.metric(`cridock_requests_waiting{for="`+what+`"}`) == strconv.Itoa(count)
	})
}

// podConfig returns what a kubelet would send, and creates the log directory.
func (n *node) podConfig(name string) *runtimeapi.PodSandboxConfig {
	n.t.Helper()
	logs := filepath.Join(n.dir, "pods", name)
	n.must(os.MkdirAll(logs, 0o755))
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		Hostname: name, LogDirectory: logs,
		DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"10.0.0.10"}},
		Labels:    map[string]string{"app": name}, Annotations: map[string]string{"note": "for " + name},
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{}},
	}
}

func containerConfig(name string, command ...string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: testImage},
		Command:  command,
		Envs:     []*runtimeapi.KeyValue{{Key: "TOKEN", Value: []byte(secret)}},
		Labels:   map[string]string{"name": name}, LogPath: name + "_0.log",
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{}},
	}
}

func (n *node) runPod(cfg *runtimeapi.PodSandboxConfig) string {
	n.t.Helper()
	id, err := n.tryRunPod(cfg)
	n.must(err)
	return id
}

func (n *node) tryRunPod(cfg *runtimeapi.PodSandboxConfig) (string, error) {
	r, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg})
	return r.GetPodSandboxId(), err
}

func (n *node) create(sandbox string, cfg *runtimeapi.ContainerConfig) string {
	n.t.Helper()
	r, err := n.tryCreate(sandbox, cfg)
	n.must(err)
	return r.ContainerId
}

func (n *node) tryCreate(sandbox string, cfg *runtimeapi.ContainerConfig) (*runtimeapi.CreateContainerResponse, error) {
	return n.runtime.CreateContainer(n.ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: cfg})
}

func (n *node) startContainer(id string) {
	n.t.Helper()
	n.must(n.tryStart(id))
}

func (n *node) tryStart(id string) error {
	_, err := n.runtime.StartContainer(n.ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
	return err
}

// runContainer creates and starts a container.
func (n *node) runContainer(sandbox string, cfg *runtimeapi.ContainerConfig) string {
	n.t.Helper()
	id := n.create(sandbox, cfg)
	n.startContainer(id)
	return id
}

func (n *node) stopContainer(id string, grace int64) error {
	_, err := n.runtime.StopContainer(n.ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: grace})
	return err
}

func (n *node) removeContainer(id string) error {
	_, err := n.runtime.RemoveContainer(n.ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	return err
}

func (n *node) stopPod(id string) error {
	_, err := n.runtime.StopPodSandbox(n.ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	return err
}

func (n *node) removePod(id string) error {
	_, err := n.runtime.RemovePodSandbox(n.ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

func (n *node) status(id string) *runtimeapi.ContainerStatus {
	n.t.Helper()
	r, err := n.runtime.ContainerStatus(n.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	n.must(err)
	return r.Status
}

func (n *node) podStatus(id string) *runtimeapi.PodSandboxStatus {
	n.t.Helper()
	r, err := n.runtime.PodSandboxStatus(n.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	n.must(err)
	return r.Status
}

// listed returns the container as it is listed; nil if it is not.
func (n *node) listed(id string) *runtimeapi.Container {
	n.t.Helper()
	r, err := n.runtime.ListContainers(n.ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: id}})
	n.must(err)
	if len(r.Containers) == 0 {
		return nil
	}
	return r.Containers[0]
}

func (n *node) sandboxes() []*runtimeapi.PodSandbox {
	n.t.Helper()
	r, err := n.runtime.ListPodSandbox(n.ctx, &runtimeapi.ListPodSandboxRequest{})
	n.must(err)
	return r.Items
}

// call returns a client of Docker, as another user of the machine would use.
func (n *node) call() *engine.Client {
	n.t.Helper()
	c, err := engine.New(n.docker.Endpoint(), nil)
	n.must(err)
	n.t.Cleanup(func() { _ = c.Close() })
	return c
}

// foreign creates and starts a container that does not belong to Kubernetes.
func (n *node) foreign(name string, labels map[string]string) string {
	n.t.Helper()
	c := n.call()
	id, err := c.ContainerCreate(n.ctx, name, &container.Config{Image: testImage, Cmd: []string{"sleep", "1"}, Labels: labels}, &container.HostConfig{}, nil)
	n.must(err)
	n.must(c.ContainerStart(n.ctx, id))
	return id
}

// remains is everything that a request can leave behind.
type remains struct {
	Containers, Files, Mounts, Attached []string
}

func (n *node) remains() remains {
	n.t.Helper()
	r := remains{Containers: n.docker.Containers(), Attached: n.plugins.attached()}
	n.must(filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		parent := filepath.Base(filepath.Dir(path))
		if err == nil && (!d.IsDir() || parent == "sandboxes" || parent == "pods") {
			r.Files = append(r.Files, strings.TrimPrefix(path, n.dir))
		}
		return err
	}))
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	n.must(err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, n.dir) {
			r.Mounts = append(r.Mounts, strings.Fields(line)[4])
		}
	}
	return r
}

// unchanged checks that nothing has been added or removed since before.
func (n *node) unchanged(t testing.TB, before remains) {
	t.Helper()
	if diff := cmp.Diff(before, n.remains()); diff != "" {
		t.Errorf("left behind or gone (-before +after):\n%s", diff)
	}
}

// wantCode checks an error's code, and that its message contains all the words.
func wantCode(t testing.TB, err error, want codes.Code, words ...string) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("code = %v (%v), want %v", got, err, want)
		return
	}
	for _, w := range words {
		if !strings.Contains(status.Convert(err).Message(), w) {
			t.Errorf("message %q does not name %q", status.Convert(err).Message(), w)
		}
	}
}

// hookedEngine is the engine as the service sees it. The fake's PIDs belong to
// no process, so it replaces a sandbox's by that of a thread in a network
// namespace.
type hookedEngine struct {
	*engine.Client
	pid atomic.Int64
	// app is the PID of containers that are not sandboxes; 0 for the fake's.
	app  atomic.Int64
	hook atomic.Pointer[func(call string)]
}

// on calls hook before each engine call, until it is called with nil.
func (e *hookedEngine) on(hook func(call string)) {
	if hook == nil {
		e.hook.Store(nil)
		return
	}
	e.hook.Store(&hook)
}

func (e *hookedEngine) before(call string) {
	if h := e.hook.Load(); h != nil {
		(*h)(call)
	}
}

func (e *hookedEngine) ContainerCreate(ctx context.Context, name string, cfg *container.Config, host *container.HostConfig, nc *dockernet.NetworkingConfig) (string, error) {
	e.before("container create")
	return e.Client.ContainerCreate(ctx, name, cfg, host, nc)
}

func (e *hookedEngine) ContainerStart(ctx context.Context, id string) error {
	e.before("container start")
	return e.Client.ContainerStart(ctx, id)
}

func (e *hookedEngine) ImagePull(ctx context.Context, ref string, auth registry.AuthConfig) (io.ReadCloser, error) {
	e.before("image pull")
	return e.Client.ImagePull(ctx, ref, auth)
}

func (e *hookedEngine) ContainerKill(ctx context.Context, id, signal string) error {
	e.before("container kill " + signal + " " + id)
	return e.Client.ContainerKill(ctx, id, signal)
}

func (e *hookedEngine) ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error) {
	r, err := e.Client.ContainerInspect(ctx, id)
	if pid := int(e.pid.Load()); err == nil && pid != 0 && r.State.Running && r.Config.Labels["io.kubernetes.docker.type"] == "podsandbox" {
		r.State.Pid = pid
	}
	if pid := int(e.app.Load()); err == nil && pid != 0 && r.State.Running && r.Config.Labels["io.kubernetes.docker.type"] == "container" {
		r.State.Pid = pid
	}
	return r, err
}

func (e *hookedEngine) ImageHistory(ctx context.Context, ref string) ([]image.HistoryResponseItem, error) {
	e.before("image history")
	return e.Client.ImageHistory(ctx, ref)
}

// newNetNS returns the ID of a thread in a new network namespace, until the
// test ends.
func newNetNS(t testing.TB) int {
	t.Helper()
	tid, end, gone := make(chan int, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		runtime.LockOSThread() // never undone: the thread exits with its goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("network namespace: %v", err)
		}
		tid <- unix.Gettid()
		<-end
	}()
	t.Cleanup(func() {
		close(end)
		<-gone
	})
	return <-tid
}

// plugins stands in for CNI's plugins. It holds an address for each container
// for which ADD was called, even if ADD failed, until DEL.
type plugins struct {
	version.PluginDecoder
	mu    sync.Mutex
	held  map[string]bool
	calls []string // "ADD <container>"
	// answer decides the result; nil means success.
	answer func(ctx context.Context, command, id string) error
}

const cniResult = `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/ns"}],
 "ips":[{"interface":0,"address":"10.1.0.2/24"},{"interface":0,"address":"fd00::2/64"}]}`

func (p *plugins) FindInPath(plugin string, paths []string) (string, error) {
	return filepath.Join(paths[0], plugin), nil
}

func (p *plugins) ExecPlugin(ctx context.Context, _ string, stdin []byte, environ []string) ([]byte, error) {
	env := map[string]string{}
	for _, e := range environ {
		k, v, _ := strings.Cut(e, "=")
		env[k] = v
	}
	if !json.Valid(stdin) {
		return nil, fmt.Errorf("no configuration: %q", stdin)
	}
	command, id := env["CNI_COMMAND"], env["CNI_CONTAINERID"]
	p.mu.Lock()
	p.calls = append(p.calls, command+" "+id)
	if command == "ADD" {
		p.held[id] = true
	}
	answer := p.answer
	p.mu.Unlock()
	if answer != nil {
		if err := answer(ctx, command, id); err != nil {
			return nil, err
		}
	}
	switch command {
	case "ADD":
		return []byte(cniResult), nil
	case "DEL":
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.held, id)
	}
	return nil, nil
}

func (p *plugins) respond(answer func(ctx context.Context, command, id string) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

// count returns how often a command was called.
func (p *plugins) count(command string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := 0
	for _, call := range p.calls {
		if strings.HasPrefix(call, command+" ") {
			c++
		}
	}
	return c
}

func (p *plugins) attached() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ids []string
	for id := range p.held {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

var sortStrings = cmp.Transformer("sort", func(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
})

// testSeal returns a seal that all processes of a test share.
func testSeal(t testing.TB) *translate.Seal {
	t.Helper()
	seal, err := translate.NewSeal([]byte("the seal of cridock's own tests."))
	if err != nil {
		t.Fatal(err)
	}
	return seal
}
