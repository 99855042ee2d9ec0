package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/cmd/cridock/doctor"
	"github.com/cridock/cridock/shim"
	"github.com/cridock/cridock/shim/engine"
)

// askNode runs cridock status, and returns its output and exit status.
func askNode(t *testing.T, args ...string) (stdout, stderr string, exit doctor.Exit) {
	t.Helper()
	cmd := NewCommand("test")
	var out, errs bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(append([]string{"status"}, args...))
	if err := cmd.ExecuteContext(t.Context()); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v, want an exit status", err)
	}
	return out.String(), errs.String(), exit
}

// TestStatusCommand asks a cridock whose Docker comes and goes.
func TestStatusCommand(t *testing.T) {
	n := startNode(t)
	socket := "--container-runtime-endpoint=" + n.socket
	var report statusReport
	ask := func() doctor.Exit {
		t.Helper()
		out, errs, exit := askNode(t, socket, "-o", "json")
		if exit == exitNoAnswer {
			return exit // it has not started yet
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil || errs != "" {
			t.Fatalf("%v: %s%s", err, out, errs)
		}
		return exit
	}
	await(t, "healthy", func() bool { return ask() == 0 })
	if report.State != "healthy" || report.Version != "test" || !report.Docker.Connected || len(report.Conditions) != 3 || len(report.Deprecations) == 0 {
		t.Errorf("healthy: %+v", report)
	}
	n.docker.Stop()
	await(t, "unhealthy", func() bool { return ask() == exitUnhealthy })
	if report.State != "unhealthy" || report.Docker.Connected || report.Docker.LastError == "" {
		t.Errorf("without Docker: %+v", report)
	}
	out, _, exit := askNode(t, socket)
	if exit != exitUnhealthy || !strings.Contains(out, "RuntimeReady is false: DockerDaemonNotReady") || !strings.Contains(out, "last error") {
		t.Errorf("exit status %d: %s", exit, out)
	}
	n.stop()
	if out, errs, exit := askNode(t, socket); exit != exitNoAnswer || out != "" || !strings.Contains(errs, "cridock: ask the server on ") {
		t.Errorf("exit status %d, %q, %q", exit, out, errs)
	}
}

// TestStatusCannotAsk: what is wrong with the command is not the node's health.
func TestStatusCannotAsk(t *testing.T) {
	socket := "--container-runtime-endpoint=unix://" + filepath.Join(t.TempDir(), "s")
	for name, args := range map[string][]string{
		"no socket": {socket}, "an unknown format": {socket, "-o", "xml"}, "an unknown flag": {socket, "--no-such"}, "an argument": {socket, "pods"},
		"an invalid setting": {socket, "--socket-mode=0666"}, "no file": {socket, "--config=/nonexistent.yaml"},
	} {
		if out, errs, exit := askNode(t, args...); exit != exitNoAnswer || out != "" || !strings.HasPrefix(errs, "cridock: ") {
			t.Errorf("%s: exit status %d, %q, %q", name, exit, out, errs)
		}
	}
	if _, err := newStatusReport(&runtimeapi.StatusResponse{Info: map[string]string{"config": "{}"}}); err == nil {
		t.Error("another runtime's answer is taken")
	}
}

// goldenReport is a report in which everything has a value.
func goldenReport() *statusReport {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	failed := now.Add(-2 * time.Hour)
	return &statusReport{
		State:        stateUnhealthy,
		Conditions:   []statusCondition{{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Reason: "NetworkPluginNotReady", Message: "no\x1b[2J configuration"}},
		Deprecations: []engine.Deprecation{{Name: "engine", Why: "Docker is old.", Cure: "Upgrade it."}},
		Activity: shim.Activity{
			Version: "v1.0.0", Time: now, Started: now.Add(-50 * time.Hour),
			Docker:     shim.DockerActivity{Connected: true, Since: now.Add(-time.Hour), EngineVersion: "20.10.24", APIVersion: "1.41", LastError: "refused", LastErrorTime: &failed},
			Pods:       shim.PodActivity{Ready: 3, NotReady: 1},
			Containers: shim.ContainerActivity{Created: 1, Running: 4, Exited: 2},
			Logs:       shim.LogActivity{Followed: 5, Troubled: 1, Streamed: 1, LagBytes: 3 << 20, MostBehind: "abc", MostBehindBytes: 2 << 20},
			Operations: []shim.Operation{
				{Kind: "PullImage", Object: "registry.test/app:1", Since: now.Add(-90 * time.Second), AgeSeconds: 90},
				{Kind: "StopContainer", Object: "abc", Since: now.Add(-10 * time.Second), AgeSeconds: 10},
				{Kind: "PullImage", Object: "registry.test/app:2", Since: now.Add(-time.Second), AgeSeconds: 1},
			},
			Sessions: map[string]int{"exec": 1, "attach": 0, "portforward": 2},
		},
	}
}

// TestStatusOutput: both formats are stable.
func TestStatusOutput(t *testing.T) {
	for _, tc := range []struct{ output, golden string }{{"text", "status.txt"}, {"json", "status.json"}} {
		var got bytes.Buffer
		if err := goldenReport().write(&got, tc.output); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join("testdata", tc.golden))
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s\n%s", tc.output, diff, got.String())
		}
	}
}
