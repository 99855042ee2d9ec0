package app

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/tracecollector"
	"github.com/cridock/cridock/shim/engine/enginetest"
)

// node is a running cridock on an engine of the test's own.
type node struct {
	client  runtimeapi.RuntimeServiceClient
	docker  *enginetest.Server
	metrics string // URL
	socket  string // endpoint of the CRI
	stop    func()
}

// startNode runs the command as another program does.
func startNode(t *testing.T, args ...string) *node {
	t.Helper()
	return startCommand(t, NewCommand("test"), args...)
}

// startProcess runs the command as main does.
func startProcess(t *testing.T, args ...string) *node {
	t.Helper()
	o := NewOptions()
	o.OwnProcess, o.configDir = true, "" // this machine's
	return startCommand(t, newCommand(o), args...)
}

func startCommand(t *testing.T, cmd *cobra.Command, args ...string) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "cridock") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	n := &node{docker: enginetest.New(t)}
	port := freePort(t)
	n.metrics = "http://127.0.0.1:" + port
	socket := "unix://" + filepath.Join(dir, "cridock.sock")
	n.socket = socket
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	cmd.SetArgs(append([]string{
		"--container-runtime-endpoint=" + socket, "--docker-endpoint=" + n.docker.Endpoint(), "--network-plugin=docker",
		"--root-directory=" + filepath.Join(dir, "root"), "--runtime-directory=" + filepath.Join(dir, "run"), "--metrics-bind-address=" + port,
	}, args...))
	go func() { done <- cmd.ExecuteContext(ctx) }()
	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	n.client = runtimeapi.NewRuntimeServiceClient(conn)
	n.stop = sync.OnceFunc(func() {
		_ = conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

// get fetches a path of the metrics address; it may not listen yet.
func (n *node) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(n.metrics + path)
		if err != nil && time.Now().Before(end) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
}

// TestTraces follows one call of a kubelet that traces, and one of one that
// does not.
func TestTraces(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := tracecollector.Serve(t, l)
	n := startNode(t, "--tracing-endpoint="+c.Addr())
	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", fmt.Sprintf("00-%s-%s-01", trace, parent))
	cfg := func(name string) *runtimeapi.RunPodSandboxRequest {
		return &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name}, Linux: &runtimeapi.LinuxPodSandboxConfig{},
		}}
	}
	if _, err := n.client.RunPodSandbox(ctx, cfg("traced")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.client.RunPodSandbox(t.Context(), cfg("untraced")); err != nil {
		t.Fatal(err)
	}
	n.stop() // flushes

	for _, s := range c.Spans() {
		if hex.EncodeToString(s.TraceId) != trace {
			t.Errorf("span %s is of a trace that nobody asked for", s.Name)
		}
	}
	below := c.Children(parent, "RunPodSandbox")
	for _, want := range []string{"/containers/create", "/start"} {
		if !slices.ContainsFunc(below, func(name string) bool { return strings.HasPrefix(name, "POST ") && strings.HasSuffix(name, want) }) {
			t.Errorf("below the call are %q; want one of Docker's %s", below, want)
		}
	}
}

func TestMetricsAddress(t *testing.T) {
	n := startNode(t)
	if status, body := n.get(t, "/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("healthz: %d %q", status, body)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if status, _ := n.get(t, "/readyz"); status == http.StatusOK {
			break
		}
		if time.Now().After(end) {
			t.Fatal("never ready")
		}
	}
	if _, err := n.client.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{}); err != nil {
		t.Fatal(err)
	}
	status, body := n.get(t, "/metrics")
	for _, want := range []string{
		`cridock_rpc_duration_seconds_count{code="OK",method="ListContainers"} 1`, `cridock_docker_call_duration_seconds_count{call="container list",result="ok"}`,
		"cridock_index_sandboxes 0", "cridock_docker_disconnects_total 0", "cridock_logs_lag_bytes 0", "cridock_logs_losses_total 0", "go_goroutines", "process_open_fds",
	} {
		if status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("metrics have no %s", want)
		}
	}
	if status, _ := n.get(t, "/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("profiles without --profiling: %d", status)
	}
	n.docker.Stop()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		status, body := n.get(t, "/readyz")
		if status == http.StatusServiceUnavailable && body != "" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("without Docker readyz is %d %q", status, body)
		}
	}
	if status, _ := n.get(t, "/healthz"); status != http.StatusOK {
		t.Errorf("without Docker healthz is %d", status)
	}
}
