package shim_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
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
		n.await(done, "the plugin is told of "+event)
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

// The events of nriLifecycle: about the container and the pod, and again those that plugins
// are asked about before it happens, and those that they are told of.
var (
	nriOfContainer = []string{"CreateContainer", "PostCreateContainer", "StartContainer", "PostStartContainer", "UpdateContainer", "PostUpdateContainer", "StopContainer", "RemoveContainer"}
	nriOfPod       = []string{"RunPodSandbox", "UpdatePodSandbox", "PostUpdatePodSandbox", "StopPodSandbox", "RemovePodSandbox"}

	nriAsked = []string{"RunPodSandbox", "CreateContainer", "StartContainer", "UpdateContainer", "UpdatePodSandbox"}
	nriTold  = []string{
		"Synchronize", "PostCreateContainer", "PostStartContainer", "PostUpdateContainer", "PostUpdatePodSandbox",
		"StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox",
	}
)

// nriLifecycle runs, updates and removes a pod with a container, each call through do, and
// checks that nothing is left.
func (n *node) nriLifecycle(t *testing.T, do func(call func() error)) (pod, id string) {
	t.Helper()
	before := n.remains()
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
	n.must(os.RemoveAll(filepath.Join(n.cfg.PodLogsDir, "web"))) // the kubelet's
	n.unchanged(t, before)
	return pod, id
}

// failingOnce returns a do for nriLifecycle that makes a call again if it fails as a plugin
// wants, with code and text, and that fails the test unless that happens exactly as often
// as checked.
func failingOnce(t *testing.T, want bool, code codes.Code, text ...string) (do func(call func() error), check func()) {
	t.Helper()
	refused := 0
	do = func(call func() error) {
		t.Helper()
		err := call()
		if err != nil && want && refused == 0 {
			wantCode(t, err, code, text...)
			refused++
			err = call()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return do, func() {
		t.Helper()
		if want != (refused == 1) {
			t.Errorf("%d calls have failed", refused)
		}
	}
}

// TestNRIKilled kills a plugin at each event. The call goes on, or fails, if the plugin
// wants that; the next one works, other plugins learn of everything, and nothing is left.
func TestNRIKilled(t *testing.T) {
	n := newNode(t, withNRI)
	n.runPod(n.podConfig("stays")) // so that there is something to synchronize
	stays := n.connect(&plugin{}, "20", "stays")
	for _, fails := range []bool{false, true} {
		for _, event := range slices.Concat(nriAsked, nriTold) {
			t.Run(fmt.Sprintf("%s fails %t", event, fails), func(t *testing.T) {
				ended := n.runPlugin(t, event, fails)
				do, check := failingOnce(t, fails && slices.Contains(nriAsked, event), codes.Aborted, "10-"+pluginName(event), event)
				pod, id := n.nriLifecycle(t, do)
				ended()
				check()
				if !fails { // otherwise the library does not tell others of the event
					wantEvents(t, stays, id, nriOfContainer...)
					wantEvents(t, stays, pod, nriOfPod...)
				}
			})
		}
	}
}

// TestNRIHanging has a plugin hang at each event. It is cut off after the timeout, unless
// it wants to stay connected; the rest is as for one that is killed.
func TestNRIHanging(t *testing.T) {
	const short, long = 50 * time.Millisecond, 30 * time.Second
	n := newNode(t, withNRI)
	n.runPod(n.podConfig("stays")) // so that there is something to synchronize
	keep := &api.FailurePolicy{KeepConnected: true}
	// On a slow machine this one may exceed the timeout, too.
	stays := n.connect(&plugin{}, "20", "stays", stub.WithFailurePolicy(keep))
	for name, tc := range map[string]struct {
		policy *api.FailurePolicy
		events []string
	}{
		"cut off": {&api.FailurePolicy{}, slices.Concat(nriAsked, nriTold)},
		"fails":   {&api.FailurePolicy{FailRequest: true}, nriAsked},
		"kept":    {keep, slices.Concat(nriAsked, []string{"StopContainer", "RemovePodSandbox"})},
	} {
		for _, event := range tc.events {
			t.Run(event+" "+name, func(t *testing.T) {
				told, end := make(chan struct{}), make(chan struct{})
				hang := sync.OnceFunc(func() { close(told) })
				p := &plugin{refuses: func(got, _ string) error {
					if got == event {
						hang()
						<-end
					}
					return nil
				}}
				t.Cleanup(func() {
					adaptation.SetPluginRequestTimeout(long)
					close(end)
					p.stub.Stop()
				})
				pluginName := "hangs-" + strings.ReplaceAll(name, " ", "-") + "-" + event
				if event == "Synchronize" {
					adaptation.SetPluginRequestTimeout(short)
					n.attach(p, "10", pluginName, stub.WithFailurePolicy(tc.policy))
				} else {
					// It must not be cut off for anything else that takes long.
					var err error
					p.subscribes, err = api.ParseEventMask(event)
					n.must(err)
					n.connect(p, "10", pluginName, stub.WithFailurePolicy(tc.policy))
					adaptation.SetPluginRequestTimeout(short)
				}
				do, check := failingOnce(t, tc.policy.FailRequest, codes.Unavailable, "10-"+pluginName, event)
				pod, id := n.nriLifecycle(t, do)
				check()
				if tc.policy.KeepConnected {
					n.await(told, "the plugin is told of "+event)
					select {
					case <-p.gone:
						t.Error("the plugin is cut off")
					default:
					}
				} else {
					n.await(p.gone, "the plugin is cut off")
				}
				if !tc.policy.FailRequest { // otherwise the library does not tell others of the event
					n.eventually("another plugin has been told of everything", func() bool {
						return len(stays.of(id)) == len(nriOfContainer) && len(stays.of(pod)) == len(nriOfPod)
					})
				}
			})
		}
	}
}
