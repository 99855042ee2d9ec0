package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cniBinDir is where Debian's package installs the plugins.
const cniBinDir = "/usr/lib/cni"

// cridock is one installation of cridock on a node: its directories, and the
// process while it runs.
type cridock struct {
	*node
	dir     string
	runDir  string // of the socket and the namespace pins, as the tests see it
	plugin  string // --network-plugin
	flags   []string
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient

	conn *grpc.ClientConn
	cmd  *exec.Cmd     // closed when it has exited
	done chan struct{} // closed when it has ended
}

func (c *cridock) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}
func (c *cridock) socket() string   { return filepath.Join(c.runDir, "cridock.sock") }
func (c *cridock) root() string     { return c.path("root") }
func (c *cridock) netns() string    { return filepath.Join(c.runDir, "netns") }
func (c *cridock) confDir() string  { return c.path("cni", "net.d") }
func (c *cridock) binDir() string   { return c.path("cni", "bin") }
func (c *cridock) cacheDir() string { return c.path("cni", "cache") }
func (c *cridock) ipamDir() string  { return c.path("cni", "ipam") }
func (c *cridock) logFile() string  { return c.path("cridock.log") }

// conflist returns the configuration of the network that cridock's pods join;
// more plugins can be inserted before portmap.
func (c *cridock) conflist(more ...string) string {
	plugins := append([]string{fmt.Sprintf(`{
   "type": "bridge", "bridge": "e2e0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": %q,
    "ranges": [[{"subnet": "10.77.0.0/16"}], [{"subnet": "fd77::/64"}]],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}`, c.ipamDir())}, more...)
	plugins = append(plugins, `{"type": "portmap", "capabilities": {"portMappings": true}}`)
	return `{"cniVersion": "1.0.0", "name": "e2e", "plugins": [` + strings.Join(plugins, ",\n  ") + "]}"
}

// install creates the directories of a cridock, and its CNI configuration.
func install(n *node, plugin string, flags ...string) (*cridock, error) {
	dir := filepath.Join(n.dir, "cridock")
	c := &cridock{node: n, dir: dir, runDir: filepath.Join(dir, "run"), plugin: plugin, flags: flags}
	for _, dir := range []string{c.confDir(), c.binDir(), c.ipamDir(), c.path("logs")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"bridge", "host-local", "portmap", "loopback"} {
		if _, err := os.Stat(filepath.Join(cniBinDir, name)); err != nil {
			return nil, fmt.Errorf("needs the CNI plugins (Debian: containernetworking-plugins): %w", err)
		}
	}
	return c, c.writeConf(c.conflist())
}

func (c *cridock) writeConf(content string) error {
	return os.WriteFile(filepath.Join(c.confDir(), "10-e2e.conflist"), []byte(content), 0o644)
}

// serve returns cridock's command line.
func (c *cridock) serve() []string {
	return append([]string{
		"serve", "--container-runtime-endpoint=unix://" + c.socket(), "--docker-endpoint=unix://" + c.node.dir + "/docker.sock",
		"--root-directory=" + c.root(), "--runtime-directory=" + c.path("run"), "--pod-logs-dir=" + c.path("logs"), "--network-plugin=" + c.plugin,
		"--cni-conf-dir=" + c.confDir(), "--cni-bin-dir=" + c.binDir() + "," + cniBinDir, "--cni-cache-dir=" + c.cacheDir(), "--v=4",
	}, c.flags...)
}

// launch starts the process and does not wait for anything. Its output is
// appended to the log of earlier ones.
func (c *cridock) launch() error {
	return c.launchAs(c.command(append([]string{binary}, c.serve()...)...))
}

// launchAs is launch for any CRI server on cridock's socket.
func (c *cridock) launchAs(cmd *exec.Cmd) error {
	log, err := os.OpenFile(c.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	c.cmd, c.done = cmd, done
	go func() {
		_ = cmd.Wait() // ProcessState has the result
		close(done)
	}()
	return c.connect()
}

// reconnect is how the kubelet reconnects; gRPC's own delays grow to minutes.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
	MinConnectTimeout: 5 * time.Second,
}

// connect creates the clients; gRPC connects when they are first used.
func (c *cridock) connect() (err error) {
	if c.conn == nil {
		c.conn, err = grpc.NewClient("unix://"+c.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(reconnect),
			grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(40<<20)))
		c.runtime, c.images = runtimeapi.NewRuntimeServiceClient(c.conn), runtimeapi.NewImageServiceClient(c.conn)
	}
	return err
}

// start starts the process and waits until it is ready.
func (c *cridock) start() error {
	if err := c.launch(); err != nil {
		return err
	}
	return c.awaitReady(time.Minute)
}

// awaitReady waits until the runtime is ready, and with CNI the network too.
func (c *cridock) awaitReady(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var last any
	for {
		s, err := c.runtime.Status(ctx, &runtimeapi.StatusRequest{})
		if err == nil && conditionsMet(s) {
			return nil
		}
		if err == nil {
			last = s.GetStatus()
		}
		select {
		case <-c.done:
			return fmt.Errorf("cridock ended: %v\n%s", c.cmd.ProcessState, c.logTail())
		case <-ctx.Done():
			return fmt.Errorf("cridock is not ready within %v: %w, last status %v\n%s", limit, err, last, c.logTail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func conditionsMet(s *runtimeapi.StatusResponse) bool {
	for _, condition := range s.GetStatus().GetConditions() {
		if !condition.GetStatus() && condition.GetType() != "HostPortsReady" {
			return false
		}
	}
	return len(s.GetStatus().GetConditions()) >= 2
}

// process returns the PID of cridock itself, not of nsenter, as the tests see
// it.
func (c *cridock) process() (int, error) {
	pid := c.cmd.Process.Pid
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, err
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("children of nsenter: %w", err)
	}
	return child, nil
}

// signal sends a signal to cridock.
func (c *cridock) signal(s syscall.Signal) error {
	pid, err := c.process()
	if err != nil {
		return err
	}
	return syscall.Kill(pid, s)
}

// kill is kill -9.
func (c *cridock) kill() error {
	if err := c.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-c.done
	return c.check()
}

// stop does what systemd does. It succeeds if cridock does not run.
func (c *cridock) stop() error {
	if c.cmd == nil {
		return nil
	}
	if err := c.signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("cridock had ended by itself: %w\n%s", err, c.logTail())
	}
	select {
	case <-c.done:
	case <-time.After(time.Minute):
		return errors.Join(fmt.Errorf("cridock does not end within a minute of SIGTERM\n%s", c.logTail()), c.kill())
	}
	if err := c.check(); err != nil {
		return err
	}
	if state := c.cmd.ProcessState; !state.Success() {
		return fmt.Errorf("cridock ended with %v after SIGTERM\n%s", state, c.logTail())
	}
	if _, err := os.Stat(c.socket()); err == nil {
		return errors.New("the socket outlives a graceful stop")
	}
	c.cmd = nil
	return nil
}

// check searches the log for output that cridock must never print.
func (c *cridock) check() error {
	b, err := os.ReadFile(c.logFile())
	if err != nil {
		return err
	}
	for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
		if i := bytes.Index(b, []byte(bad)); i >= 0 {
			return fmt.Errorf("cridock's log has %q:\n%s", bad, b[max(0, i-200):min(len(b), i+6000)])
		}
	}
	return nil
}

// logTail returns the end of cridock's log.
func (c *cridock) logTail() string {
	b, _ := os.ReadFile(c.logFile())
	return "cridock's log ends with:\n" + string(b[max(0, len(b)-4000):])
}

// close stops cridock and checks that it has left nothing on the node. All pods
// have been removed before.
func (c *cridock) close() error {
	err := c.leftovers()
	err = errors.Join(err, c.stop(), c.unmountImageVolumes())
	if c.conn != nil {
		err = errors.Join(err, c.conn.Close())
	}
	return err
}

// imageVolumes is where image volumes are mounted, on a file system of their
// own.
func (c *cridock) imageVolumes() string {
	return filepath.Join(filepath.Dir(c.netns()), "image-volumes")
}

func (c *cridock) unmountImageVolumes() error {
	mounts, err := c.mounts()
	if err != nil || !slices.Contains(mounts, c.imageVolumes()) {
		return err
	}
	return c.command("umount", c.imageVolumes()).Run()
}

// newCridock returns a running cridock on a node that only one test uses.
func newCridock(t *testing.T, n *node, plugin string, flags ...string) *cridock {
	t.Helper()
	c := installCridock(t, n, plugin, flags...)
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// installCridock is newCridock without starting it.
func installCridock(t *testing.T, n *node, plugin string, flags ...string) *cridock {
	t.Helper()
	c, err := install(n, plugin, flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(c.logTail())
		}
	})
	return c
}

// shared are the nodes for tests that do not disturb each other, by network
// plugin.
var shared struct {
	sync.Mutex
	cridocks map[string]*cridock
	failed   map[string]error
}

// sharedCridock returns the shared cridock of a network plugin.
func sharedCridock(t *testing.T, plugin string) *cridock {
	t.Helper()
	needEngine(t)
	shared.Lock()
	defer shared.Unlock()
	if c := shared.cridocks[plugin]; c != nil {
		return c
	}
	if shared.failed[plugin] != nil {
		t.Fatal(shared.failed[plugin])
	}
	if shared.cridocks == nil {
		shared.cridocks, shared.failed = map[string]*cridock{}, map[string]error{}
	}
	c, err := startShared(plugin)
	if err != nil {
		shared.failed[plugin] = err
		t.Fatal(err)
	}
	shared.cridocks[plugin] = c
	return c
}

func startShared(plugin string) (*cridock, error) {
	n, err := startNode(plugin)
	if err != nil {
		return nil, err
	}
	c, err := install(n, plugin)
	if err == nil {
		err = c.start()
	}
	if err != nil {
		return nil, errors.Join(err, n.remove())
	}
	return c, nil
}

func closeShared() error {
	var err error
	for _, c := range shared.cridocks {
		err = errors.Join(err, c.close(), c.remove())
	}
	return err
}

// onBothNetworks runs a test with CNI and with Docker's network.
func onBothNetworks(t *testing.T, test func(t *testing.T, c *cridock)) {
	t.Helper()
	t.Parallel()
	for _, plugin := range []string{"cni", "docker"} {
		t.Run(plugin, func(t *testing.T) {
			t.Parallel()
			test(t, sharedCridock(t, plugin))
		})
	}
}

// rpcTimeout is longer than any call may take.
const rpcTimeout = 10 * time.Minute

// method is a unary call of a CRI client.
type method[Req, Resp any] func(context.Context, Req, ...grpc.CallOption) (Resp, error)

// try makes a call.
func try[Req, Resp any](m method[Req, Resp], req Req) (Resp, error) {
	ctx, cancel := context.WithTimeout(context.Background(), rpcTimeout)
	defer cancel()
	return m(ctx, req)
}

// rpc makes a call that must succeed.
func rpc[Req, Resp any](t testing.TB, m method[Req, Resp], req Req) Resp {
	t.Helper()
	resp, err := try(m, req)
	if err != nil {
		t.Fatalf("%T: %v", req, err)
	}
	return resp
}
