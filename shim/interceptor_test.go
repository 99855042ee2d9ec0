package shim_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine/enginetest"
)

// TestPanics: a bug in one request makes only that request fail, even if it
// continues in the background.
func TestPanics(t *testing.T) {
	n := newCNINode(t)
	cfg := n.podConfig("web")
	panics := func(at string) {
		n.engine.on(func(call string) {
			if strings.HasPrefix(call, at) {
				n.engine.on(nil)
				panic("out of order at " + at)
			}
		})
	}
	panics("container create")
	_, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg})
	wantCode(t, err, codes.Internal, "out of order")
	pod := n.runPod(cfg)

	panics("container create")
	_, err = n.tryCreate(pod, containerConfig("main", "sleep", "1"))
	wantCode(t, err, codes.Internal, "out of order")
	id := n.runContainer(pod, containerConfig("main", "sleep", "1"))

	panics("image history") // in the handler itself
	_, err = n.images.ImageStatus(n.ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: testImage}, Verbose: true})
	wantCode(t, err, codes.Internal, "out of order")

	panics("container kill")
	wantCode(t, n.stopContainer(id, 0), codes.Internal, "out of order")
	n.must(n.stopContainer(id, 0))
	panics("container kill")
	wantCode(t, n.stopPod(pod), codes.Internal, "out of order")

	panics("image pull")
	n.docker.Publish(appImage, enginetest.Image{})
	_, err = n.pull(n.ctx, appImage, nil)
	wantCode(t, err, codes.Internal, "out of order")
	if _, err := n.pull(n.ctx, appImage, nil); err != nil {
		t.Error(err)
	}
	n.must(n.removePod(pod))
	if n.logs.Lines("Panic") == "" || n.logs.Lines("interceptor_test.go") == "" {
		t.Error("the log has no line with the stack of a panic")
	}
}

// TestLogsNameAndHide: a log line names the request's object and its result,
// and contains no secrets. Each test node checks the latter when the test ends.
func TestLogsNameAndHide(t *testing.T) {
	n := newNode(t)
	pod := n.runPod(n.podConfig("web"))
	cfg := containerConfig("main", "sleep", secret)
	cfg.Args = []string{secret}
	id := n.runContainer(pod, cfg)
	_, err := n.tryCreate(pod, containerConfig("bad\n", secret))
	wantCode(t, err, codes.InvalidArgument)
	// Docker quotes the first word of what it could not start.
	for _, cmd := range [][]string{{"echo", secret}, {"/no/such/program", secret}, {"/" + secret, "x"}} {
		_, _ = n.runtime.ExecSync(n.ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: cmd})
		_, _ = n.runtime.Exec(n.ctx, &runtimeapi.ExecRequest{ContainerId: id, Cmd: cmd, Stdout: true})
	}
	_, err = n.runtime.ExecSync(n.ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/" + secret}})
	wantCode(t, err, codes.Unknown, "/"+secret, "executable file not found") // only the client is told
	if lines := n.logs.Lines(`method="ExecSync"`); !strings.Contains(lines, "process was not started (exit code 127)") {
		t.Errorf("the log does not say how ExecSync has failed:\n%s", lines)
	}
	for _, auth := range []*runtimeapi.AuthConfig{
		{Username: "u", Password: secret}, {Auth: base64.StdEncoding.EncodeToString([]byte("u:" + secret))}, {Auth: secret}, {RegistryToken: secret},
	} {
		_, err := n.pull(n.ctx, "registry.test/none:1", auth)
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("err = %v, want one without the credentials", err)
		}
	}
	if got := n.logs.String(); strings.Contains(got, base64.StdEncoding.EncodeToString([]byte("u:"+secret))) {
		t.Error("encoded credentials are in the log")
	}
	for _, words := range [][]string{
		{`"Request"`, `method="RunPodSandbox"`, `pod="default/web"`},
		{`"Request"`, `method="StartContainer"`, `containerID="` + id},
		{`"Request failed"`, `method="PullImage"`, `image="registry.test/none:1"`, `code="NotFound"`},
	} {
		lines := n.logs.Lines(words[1])
		for _, w := range words {
			if !strings.Contains(lines, w) {
				t.Errorf("lines about %s do not have %s:\n%s", words[1], w, lines)
			}
		}
	}
	info, err := n.runtime.ContainerStatus(n.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	n.must(err)
	if strings.Contains(info.Info["info"], "TOKEN="+secret) {
		t.Error("the verbose status shows the environment")
	}
}
