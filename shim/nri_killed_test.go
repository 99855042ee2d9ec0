package shim_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The environment of a plugin's process, see TestNRIPluginProcess.
const (
	pluginSocket = "CRIDOCK_TEST_NRI_SOCKET"
	pluginEvent  = "CRIDOCK_TEST_NRI_EVENT"
	pluginPolicy = "CRIDOCK_TEST_NRI_FAIL" // not empty: requests fail with the plugin
)

// TestNRIPluginProcess is no test: it is the process of a plugin that kills itself when
// it is told of an event.
func TestNRIPluginProcess(t *testing.T) {
	event := os.Getenv(pluginEvent)
	if event == "" {
		return
	}
	p := &plugin{last: map[string]*api.Container{}, pods: map[string]*api.PodSandbox{}}
	p.refuses = func(got, _ string) error {
		if got == event {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}
	s, err := stub.New(p, stub.WithPluginIdx("10"), stub.WithPluginName(pluginName(event)), stub.WithSocketPath(os.Getenv(pluginSocket)),
		stub.WithFailurePolicy(&api.FailurePolicy{FailRequest: os.Getenv(pluginPolicy) != ""}))
	if err == nil {
		err = s.Run(t.Context())
	}
	t.Errorf("the plugin has not killed itself: %v", err)
}

func pluginName(event string) string { return "killed-at-" + event }

// runPlugin runs a plugin that kills itself at an event, and returns once it gets events;
// ended waits until it has done so.
func (n *node) runPlugin(t *testing.T, event string, fails bool) (ended func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestNRIPluginProcess$")
	cmd.Env = append(os.Environ(), pluginSocket+"="+n.cfg.NRI.SocketPath, pluginEvent+"="+event)
	if fails {
		cmd.Env = append(cmd.Env, pluginPolicy+"=1")
	}
	n.must(cmd.Start())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // ProcessState has the result
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
	})
	ended = func() {
		t.Helper()
		select {
		case <-done:
		case <-n.ctx.Done():
			t.Fatal("the plugin is not told of " + event)
		}
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("the plugin ended with %v", cmd.ProcessState)
		}
	}
	if event == "Synchronize" {
		ended()
		return ended
	}
	connected := fmt.Sprintf(`plugin \"10-%s\" connected and synchronized`, pluginName(event))
	before := strings.Count(n.logs.String(), connected)
	n.eventually("the plugin is connected", func() bool { return strings.Count(n.logs.String(), connected) > before })
	return ended
}

// TestNRIKilled kills a plugin at each event. The call goes on, or fails, if the plugin
// wants that; the next one works, other plugins learn of everything, and nothing is left.
func TestNRIKilled(t *testing.T) {
	n := newNode(t, withNRI)
	n.runPod(n.podConfig("stays")) // so that there is something to synchronize
	stays := n.connect(&plugin{}, "20", "stays")
	asked := []string{"RunPodSandbox", "CreateContainer", "StartContainer", "UpdateContainer", "UpdatePodSandbox"} // before it is done
	all := slices.Concat(asked, []string{
		"Synchronize", "PostCreateContainer", "PostStartContainer", "PostUpdateContainer", "PostUpdatePodSandbox",
		"StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox",
	})
	for _, fails := range []bool{false, true} {
		for _, event := range all {
			t.Run(fmt.Sprintf("%s fails %t", event, fails), func(t *testing.T) {
				before := n.remains()
				ended := n.runPlugin(t, event, fails)
				refused := 0
				// do makes a call, and makes it again if it fails as the plugin wants.
				do := func(call func() error) {
					t.Helper()
					err := call()
					if err != nil && fails && slices.Contains(asked, event) && refused == 0 {
						wantCode(t, err, codes.Aborted, "10-"+pluginName(event), event)
						refused++
						err = call()
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				var pod, id string
				do(func() (err error) { pod, err = n.tryRunPod(n.podConfig("web")); return err })
				do(func() error {
					r, err := n.tryCreate(pod, containerConfig("main", "pause"))
					id = r.GetContainerId()
					return err
				})
				do(func() error { return n.tryStart(id) })
				do(func() error { return n.update(id, &linuxResources{CpuShares: 512}) })
				do(func() error {
					_, err := n.runtime.UpdatePodSandboxResources(n.ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: &linuxResources{CpuShares: 512}})
					return err
				})
				do(func() error { return n.stopContainer(id, 0) })
				do(func() error { return n.removeContainer(id) })
				do(func() error { return n.stopPod(pod) })
				do(func() error { return n.removePod(pod) })
				ended()
				n.must(os.RemoveAll(filepath.Join(n.cfg.PodLogsDir, "web"))) // the kubelet's
				n.unchanged(t, before)
				if want := fails && slices.Contains(asked, event); want != (refused == 1) {
					t.Errorf("%d calls have failed", refused)
				}
				if !fails { // otherwise the library does not tell others of the event
					wantEvents(t, stays, id, "CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer", "UpdateContainer", "PostUpdateContainer", "StopContainer", "RemoveContainer")
					wantEvents(t, stays, pod, "RunPodSandbox", "UpdatePodSandbox", "PostUpdatePodSandbox", "StopPodSandbox", "RemovePodSandbox")
				}
			})
		}
	}
}
