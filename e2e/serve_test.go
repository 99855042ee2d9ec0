package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestStartBeforeDocker starts cridock before Docker.
func TestStartBeforeDocker(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	late := n.dir + "/late.sock"
	c := installCridock(t, n, "cni", "--docker-endpoint=unix://"+late)
	if err := c.launch(); err != nil {
		t.Fatal(err)
	}
	if v := rpc(t, c.runtime.Version, &runtimeapi.VersionRequest{}); v.RuntimeName != "docker" || v.RuntimeApiVersion != "v1" || v.RuntimeVersion == "" {
		t.Errorf("version without Docker is %v", v)
	}
	s := rpc(t, c.runtime.Status, &runtimeapi.StatusRequest{Verbose: true})
	if ready := s.GetStatus().GetConditions()[0]; ready.GetType() != runtimeapi.RuntimeReady || ready.GetStatus() || ready.GetReason() == "" || ready.GetMessage() == "" {
		t.Errorf("status without Docker is %v", s)
	}
	if err := os.Symlink("docker.sock", late); err != nil {
		t.Fatal(err)
	}
	if err := c.awaitReady(time.Minute); err != nil {
		t.Fatal(err)
	}
	if v := rpc(t, c.runtime.Version, &runtimeapi.VersionRequest{}).RuntimeVersion; v == "0.0.0" {
		t.Error("the version of Docker is not known after it came")
	}
	c.runPod(t)
}

// TestServe starts several cridocks in the same place.
func TestServe(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "docker")
	info, err := os.Stat(c.socket())
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket is %v, %v; want mode 0660", info, err)
	}
	refused := func(want string, flags ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		serve := c.command(append(append([]string{binary}, c.serve()...), flags...)...)
		out, err := exec.CommandContext(ctx, serve.Path, serve.Args[1:]...).CombinedOutput()
		if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(lastLine(string(out)), want) {
			t.Errorf("%v: %v, %q; want a refusal with %q", flags, err, lastLine(string(out)), want)
		}
	}
	refused("another cridock uses it", "--container-runtime-endpoint=unix://"+c.path("other.sock"))
	refused("another process serves it", "--root-directory="+c.path("other-root"))
	refused("another cridock serves it", "--container-runtime-endpoint=unix://"+c.path("other.sock"),
		"--root-directory="+c.path("other-root"), "--runtime-directory="+c.path("other-run"))
	file := c.path("a-file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("is not a socket", "--root-directory="+c.path("other-root"), "--container-runtime-endpoint=unix://"+file)
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file in the socket's place is %q, %v", b, err)
	}
	refused("network-plugin", "--network-plugin=kubenet")
	refused("unknown flag", "--no-such-flag")

	rpc(t, c.runtime.Version, &runtimeapi.VersionRequest{}) // none of them disturbs it
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	if err := c.kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.socket()); errors.Is(err, fs.ErrNotExist) {
		t.Error("a killed cridock should leave a stale socket for this test")
	}
	if err := c.start(); err != nil {
		t.Error(err)
	}
}

// TestConfigFile reads the settings from a file, and refuses a file with an
// unknown key.
func TestConfigFile(t *testing.T) {
	t.Parallel()
	c := installCridock(t, newNode(t), "docker")
	file := c.path("cridock.yaml")
	c.flags = []string{"--config=" + file}
	if err := os.WriteFile(file, []byte("no-such-key: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := c.command(append([]string{binary}, c.serve()...)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), `unknown key "no-such-key"`) {
		t.Errorf("an unknown key: %v, %s", err, out)
	}
	if err := os.WriteFile(file, fmt.Appendf(nil, "docker-log-max-file: 7\nnetwork-plugin: cni\nstreaming-bind-addr: 127.0.0.1:0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	info := rpc(t, c.runtime.Status, &runtimeapi.StatusRequest{Verbose: true}).Info["config"]
	if !strings.Contains(info, `"logMaxFile":7`) || !strings.Contains(info, `"dockerNetwork":"bridge"`) {
		t.Errorf("the settings are %s; want the file's, and the command line's before them", info)
	}
}
