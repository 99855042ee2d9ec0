package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// dropIns are command lines with which tools start cri-dockerd. NODE is where this
// test has what a node has below /.
var dropIns = []struct {
	tool, plugin, args string
	// activated: systemd makes the socket. Otherwise it is on the node's /var/run.
	activated bool
}{
	{
		"minikube", "cni",
		"--container-runtime-endpoint fd:// --pod-infra-container-image=localhost/pause:3.10.1 --network-plugin=cni" +
			" --cni-bin-dir=/usr/lib/cni --cni-cache-dir=NODE/cni/cache --cni-conf-dir=NODE/cni/net.d --hairpin-mode=hairpin-veth",
		true,
	},
	{
		"kubespray", "cni",
		"--container-runtime-endpoint unix:///var/run/cri-dockerd.sock --cni-conf-dir=NODE/cni/net.d --cni-bin-dir=/usr/lib/cni --network-plugin=cni" +
			" --pod-cidr=10.77.0.0/16,fd77::/64 --pod-infra-container-image=localhost/pause:3.10.1 --log-level info --ipv6-dual-stack=True --cni-cache-dir NODE/cni/cache",
		false,
	},
	// Its default endpoint, and Docker's network.
	{"the program alone", "docker", "--network-plugin=", false},
}

// TestDropIn starts the binary under the name cri-dockerd as tools start cri-dockerd,
// and runs a pod.
func TestDropIn(t *testing.T) {
	t.Parallel()
	c := installCridock(t, newNode(t), "cni")
	c.docker.build(t, "localhost/pause:3.10.1", "FROM "+c.image+"\nSTOPSIGNAL SIGKILL\nENTRYPOINT [\"sleep\", \"100000\"]\n")
	program := c.path("cri-dockerd")
	if err := os.Link(binary, program); err != nil {
		t.Fatal(err)
	}
	for _, row := range dropIns {
		t.Run(row.tool, func(t *testing.T) {
			// Where the node of this test has what others have in the default places.
			args := strings.Fields(strings.ReplaceAll(row.args, "NODE", c.dir) + " --docker-endpoint=unix://" + c.node.dir + "/docker.sock" +
				" --root-directory=" + c.root() + " --runtime-directory=" + c.path("run") + " --pod-logs-dir=" + c.path("logs"))
			c.plugin = row.plugin
			socket := filepath.Join("/proc", fmt.Sprint(c.pid), "root/run/cri-dockerd.sock") // /var/run as others see it
			if row.activated {
				socket = c.socket()
				c.activate(t, program, args)
			} else {
				c.connectTo(t, socket)
				if err := c.launchAs(c.command(append([]string{program}, args...)...)); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.endDropIn(t) })
			}
			if err := c.awaitReady(time.Minute); err != nil {
				t.Fatal(err)
			}
			c.checkPod(t, row.plugin)
			if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o660 {
				t.Errorf("the socket is %v, %v; want mode 0660", info, err)
			}
			// ExecReload of cri-dockerd's unit must not end it.
			if err := c.signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the configuration is read again", time.Minute, func() bool {
				b, err := os.ReadFile(c.logFile())
				return err == nil && strings.Contains(string(b), "Configuration reloaded")
			})
			if err := os.Truncate(c.logFile(), 0); err != nil {
				t.Fatal(err)
			}
			rpc(t, c.runtime.Version, &runtimeapi.VersionRequest{})
		})
	}
	if _, err := os.Stat(filepath.Join("/proc", fmt.Sprint(c.pid), "root/run/cri-dockerd.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket outlives cridock: %v", err)
	}
}

// activate starts the program as systemd does with a socket unit.
func (c *cridock) activate(t *testing.T, program string, args []string) {
	t.Helper()
	if err := os.MkdirAll(c.runDir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.socket(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.socket(), 0o660); err != nil {
		t.Fatal(err)
	}
	passed, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	// The PID is that on the node, so only the process itself knows it.
	cmd := c.command(append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh", program}, args...)...)
	cmd.ExtraFiles = []*os.File{passed}
	err = c.launchAs(cmd)
	_ = passed.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := os.Stat(c.socket()); err != nil {
			t.Errorf("cridock removed systemd's socket: %v", err)
		}
		_ = l.Close() // removes the socket, which a stop does not
		c.endDropIn(t)
	})
}

// connectTo makes the clients use another socket than usual.
func (c *cridock) connectTo(t *testing.T, socket string) {
	t.Helper()
	var err error
	c.conn, err = grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(reconnect),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	c.runtime, c.images = runtimeapi.NewRuntimeServiceClient(c.conn), runtimeapi.NewImageServiceClient(c.conn)
}

// endDropIn stops the process and forgets its socket.
func (c *cridock) endDropIn(t *testing.T) {
	t.Helper()
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// checkPod runs a pod with a container, and uses it.
func (c *cridock) checkPod(t *testing.T, plugin string) {
	t.Helper()
	t.Run("pod", func(t *testing.T) { // which removes it while cridock runs
		p := c.runPod(t)
		if got := p.start("main", "sleep 100000").sh("echo works"); got != "works" {
			t.Errorf("exec says %q", got)
		}
		network := p.status().GetNetwork()
		if network.GetIp() == "" {
			t.Error("the pod has no address")
		}
		if plugin == "cni" && len(network.GetAdditionalIps()) != 1 {
			t.Errorf("the pod has addresses %v; want two", network)
		}
	})
}
