package app_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/cmd/cridock/app"
	"github.com/cridock/cridock/shim/engine/enginetest"
)

// TestRun embeds cridock as another program does: with options, without flags.
func TestRun(t *testing.T) {
	dir, err := os.MkdirTemp("", "cridock") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	o := app.NewOptions()
	o.Version = "embedded"
	o.Endpoint = "unix://" + filepath.Join(dir, "cridock.sock")
	o.DockerEndpoint = enginetest.New(t).Endpoint()
	o.RootDir, o.RuntimeDir = filepath.Join(dir, "root"), filepath.Join(dir, "run")
	o.NetworkPlugin = "docker"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- app.Run(ctx, o) }()

	conn, err := grpc.NewClient(o.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	type answer struct {
		status *runtimeapi.StatusResponse
		err    error
	}
	answered := make(chan answer, 1)
	go func() {
		status, err := runtimeapi.NewRuntimeServiceClient(conn).Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
		answered <- answer{status, err}
	}()
	select {
	case err := <-done:
		t.Fatalf("Run returned %v", err)
	case a := <-answered:
		if a.err != nil {
			t.Fatal(a.err)
		}
		if info := fmt.Sprint(a.status.Info); !strings.Contains(info, `"embedded"`) {
			t.Errorf("the verbose status lacks the version: %s", info)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run returned %v after its context ended", err)
	}
}

// TestRunValidates: settings that did not come from flags are checked too.
func TestRunValidates(t *testing.T) {
	o := app.NewOptions()
	o.NetworkPlugin = "kubenet"
	if err := app.Run(t.Context(), o); err == nil {
		t.Error("Run accepted an unknown network plugin")
	}
}
