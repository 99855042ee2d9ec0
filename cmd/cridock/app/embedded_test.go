package app

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/leakcheck"
	"github.com/cridock/cridock/shim/engine/enginetest"
)

// shortDir is a directory whose path leaves room for the name of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cridock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// TestEmbedded runs cri-dockerd's command twice in this process, as k3s does: with a
// channel that stops it, its flags, and an environment that is systemd's message to
// the program around it.
func TestEmbedded(t *testing.T) {
	dir := shortDir(t)
	systemd := notifySocket(t)
	t.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	t.Setenv("WATCHDOG_USEC", "20000")
	docker := enginetest.New(t)
	socket := filepath.Join(dir, "k3s", "cri-dockerd", "cri-dockerd.sock")
	args := []string{
		"--container-runtime-endpoint=unix://" + socket, "--cri-dockerd-root-directory=" + filepath.Join(dir, "agent"), "--docker-endpoint=" + docker.Endpoint(),
		"--ipv6-dual-stack=true", "--network-plugin=", "--runtime-cgroups=/k3s", "--runtime-directory=" + filepath.Join(dir, "run"),
	}
	runEmbedded(t, socket, args) // what a process makes only once is not a leak
	before := leakcheck.Now(t)
	for range 2 {
		runEmbedded(t, socket, args)
		before.Await(t, time.Minute)
	}
	if messages := systemd.messages(t); messages != "" {
		t.Errorf("the embedded command told systemd %q", messages)
	}
	if os.Getenv("LISTEN_FDS") != "1" {
		t.Error("the embedded command took systemd's sockets")
	}
}

// runEmbedded runs the command until it answers, and stops it.
func runEmbedded(t *testing.T, socket string, args []string) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan error, 1)
	cmd := NewDockerCRICommand(stop)
	cmd.SetArgs(args)
	go func() { done <- cmd.ExecuteContext(t.Context()) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pods, err := runtimeapi.NewRuntimeServiceClient(conn).ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(pods.Items) > 0 {
		t.Errorf("the list is %v, %v", pods, err)
	}
	_ = conn.Close()
	close(stop)
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("stopped, the command returned %v", err)
		}
	case <-ctx.Done():
		t.Fatal("the command does not stop")
	}
	if _, err := net.Dial("unix", socket); err == nil {
		t.Error("stopped, it serves")
	}
}

// TestEmbeddedRefusals: a wrong command line is an error, and nothing ends the
// process.
func TestEmbeddedRefusals(t *testing.T) {
	for args, want := range map[string]string{
		"serve":                                  "unknown command",
		"--no-such-flag":                         "unknown flag",
		"--network-plugin=kubenet":               "kubenet",
		"--container-runtime-endpoint=tcp://x:1": "endpoint",
		"--log-level=loud":                       "log-level",
	} {
		dir := shortDir(t)
		cmd := NewDockerCRICommand(nil)
		cmd.SetArgs(append(strings.Fields(args), "--root-directory="+dir+"/root", "--runtime-directory="+dir+"/run", "--cni-cache-dir="+dir+"/cni", "--cni-conf-dir="+dir, "--cni-bin-dir="+dir))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want an error with %q", args, err, want)
		}
	}
}
