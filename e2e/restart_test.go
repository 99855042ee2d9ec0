package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// restart kills cridock, calls meanwhile, and starts cridock again.
func (c *cridock) restart(t *testing.T, meanwhile func()) {
	t.Helper()
	if err := c.kill(); err != nil {
		t.Fatal(err)
	}
	if meanwhile != nil {
		meanwhile()
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
}

// TestKilled kills cridock under running pods.
func TestKilled(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni")
	p := c.runPod(t)
	counter := p.start("counter", "i=0; while [ $i -lt 1500 ]; do i=$((i+1)); echo $i; usleep 2000; done; exec sleep 1000")
	dies, created := p.start("dies", "echo up; exec sleep 1000"), p.create("created", "echo ran")
	gone := c.runPod(t)
	before := views(t, p, counter, created)
	pids := []int{c.docker.inspect(t, p.id).State.Pid, c.docker.inspect(t, counter.id).State.Pid}

	eventuallyLog(t, dies, "up")
	var starts int
	c.restart(t, func() {
		starts = c.starts(t)
		c.docker.must(t, http.MethodPost, "/containers/"+dies.id+"/kill", nil, nil)
		c.docker.must(t, http.MethodDelete, "/containers/"+gone.id+"?force=1", nil, nil)
	})
	if diff := cmp.Diff(before, views(t, p, counter, created), protocmp.Transform()); diff != "" {
		t.Errorf("the restart changed (-before +after):\n%s", diff)
	}
	if after := []int{c.docker.inspect(t, p.id).State.Pid, c.docker.inspect(t, counter.id).State.Pid}; !cmp.Equal(pids, after) {
		t.Errorf("processes were %v and are %v", pids, after)
	}
	if s := dies.status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 137 || dies.logText() != "up\n" {
		t.Errorf("what ended meanwhile is %v, exit code %d, log %q", s.State, s.ExitCode, dies.logText())
	}
	eventually(t, "the log catches up", 5*time.Minute, func() bool { return strings.HasSuffix(counter.logText(), "\n1500\n") })
	checkSequence(t, counter.logLines(), 1500)
	if counter.sh("echo works") != "works" {
		t.Error("exec does not work after the restart")
	}
	rpc(t, c.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: created.id})
	if s := created.exited(); s.ExitCode != 0 || created.logText() != "ran\n" {
		t.Errorf("started after the restart: exit code %d, log %q", s.ExitCode, created.logText())
	}
	// Its container was removed while cridock was down: the network is released.
	eventually(t, "cridock's start is over", time.Minute, func() bool { return c.starts(t) > starts })
	c.checkGone(t, gone.cfg.Metadata.Uid, gone.id)
}

// views returns what the kubelet sees of a pod.
func views(t *testing.T, p *pod, ctrs ...*ctr) (views []any) {
	t.Helper()
	views = append(views, p.status())
	for _, c := range ctrs {
		views = append(views, c.status())
	}
	return views
}

// TestStopAfterRestart releases networks after their configuration has been
// removed.
func TestStopAfterRestart(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni")
	p := c.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
		cfg.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 18080}}
	})
	main := p.start("main", "sleep 1000")
	if err := c.kill(); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(c.confDir(), "10-e2e.conflist")
	if err := os.Rename(conf, conf+".gone"); err != nil {
		t.Fatal(err)
	}
	if err := c.launch(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the network is not ready, the runtime is", time.Minute, func() bool {
		conditions := rpc(t, c.runtime.Status, &runtimeapi.StatusRequest{}).GetStatus().GetConditions()
		return conditions[0].GetStatus() && !conditions[1].GetStatus() && conditions[1].GetMessage() != ""
	})
	_, err := try(c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: c.podConfig(t)})
	if err == nil {
		t.Error("a pod was networked without a configuration")
	}
	if s := p.status(); s.State != runtimeapi.PodSandboxState_SANDBOX_READY || s.GetNetwork().GetIp() == "" {
		t.Errorf("the running pod is %v", s)
	}
	p.stop()
	if s := main.status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("the container of the stopped pod is %v", s.State)
	}
	if ips, err := leases(c.ipamDir()); err != nil || len(ips) > 0 {
		t.Errorf("addresses that are still taken: %v, %v", ips, err)
	}
	p.remove()
	if err := os.Rename(conf+".gone", conf); err != nil {
		t.Fatal(err)
	}
	if err := c.awaitReady(time.Minute); err != nil {
		t.Errorf("the configuration came back: %v", err)
	}
}

// TestKilledInRunPodSandbox kills cridock while a plugin runs. Its half-made
// sandbox must be replaced by the retry, or be removable.
func TestKilledInRunPodSandbox(t *testing.T) {
	t.Parallel()
	newCridock(t, newNode(t), "cni").killedInRunPodSandbox(t)
}

func (c *cridock) killedInRunPodSandbox(t *testing.T) {
	c.plugIn(t, "e2e-slow", "touch "+c.path("slow")+"; sleep 600")
	c.useConf(t, c.conflist(`{"type": "e2e-slow"}`))
	for _, retry := range []bool{true, false} {
		cfg := c.podConfig(t)
		done := make(chan error, 1)
		go func() {
			_, err := try(c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: cfg})
			done <- err
		}()
		eventually(t, "the slow plugin runs", time.Minute, func() bool { return os.Remove(c.path("slow")) == nil })
		c.restart(t, func() { c.plugIn(t, "e2e-slow", "true") })
		if err := <-done; status.Code(err) != codes.Unavailable {
			t.Errorf("the call ends with %v", err)
		}
		list := rpc(t, c.runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: cfg.Labels}}).Items
		if len(list) != 1 || list[0].State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
			t.Fatalf("after the restart there is %v", list)
		}
		id := list[0].Id
		if retry {
			p := c.runPod(t, func(want *runtimeapi.PodSandboxConfig) { want.Metadata, want.Labels = cfg.Metadata, cfg.Labels })
			if s := p.status(); p.id == id || s.State != runtimeapi.PodSandboxState_SANDBOX_READY {
				t.Errorf("the retry gives %s (before %s), %v", p.id, id, s.State)
			}
			p.remove()
		}
		rpc(t, c.runtime.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
		rpc(t, c.runtime.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
		c.checkGone(t, cfg.Metadata.Uid, id)
		c.plugIn(t, "e2e-slow", "touch "+c.path("slow")+"; sleep 600")
	}
	c.plugIn(t, "e2e-slow", "true")
}

// TestCreatedSandbox: a sandbox that an earlier adapter created but never
// started.
func TestCreatedSandbox(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni")
	cfg := c.podConfig(t)
	m := cfg.Metadata
	var left struct {
		ID string `json:"Id"`
	}
	c.restart(t, func() {
		c.docker.must(t, http.MethodPost, fmt.Sprintf("/containers/create?name=k8s_POD_%s_%s_%s_0", m.Name, m.Namespace, m.Uid), map[string]any{
			"Image": c.image, "HostConfig": map[string]any{"NetworkMode": "none"},
			"Labels": map[string]string{
				"io.kubernetes.docker.type": "podsandbox", "io.kubernetes.container.name": "POD",
				"io.kubernetes.pod.name": m.Name, "io.kubernetes.pod.namespace": m.Namespace, "io.kubernetes.pod.uid": m.Uid,
			},
		}, &left)
	})
	if s := rpc(t, c.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: left.ID}).Status; s.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY || s.Metadata.Uid != m.Uid {
		t.Errorf("it is %v", s)
	}
	p := c.runPod(t, func(want *runtimeapi.PodSandboxConfig) { want.Metadata = m })
	if s := p.status(); p.id == left.ID || s.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("its replacement is %v", s)
	}
}

// TestCallerGoesAway cancels a call early: the retry finds the sandbox, exactly
// one.
func TestCallerGoesAway(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni")
	finish := c.path("finish")
	c.plugIn(t, "e2e-slow", "touch "+c.path("slow")+"; until [ -e "+finish+" ]; do sleep 0.1; done")
	c.useConf(t, c.conflist(`{"type": "e2e-slow"}`))
	cfg := c.podConfig(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := c.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: cfg})
		done <- err
	}()
	eventually(t, "the slow plugin runs", time.Minute, func() bool { return os.Remove(c.path("slow")) == nil })
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("the call ends with %v", err)
	}
	if err := os.WriteFile(finish, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := c.runPod(t, func(want *runtimeapi.PodSandboxConfig) { want.Metadata, want.Labels = cfg.Metadata, cfg.Labels })
	if names, err := c.docker.withLabel("io.kubernetes.pod.uid=" + cfg.Metadata.Uid); err != nil || len(names) != 1 {
		t.Errorf("there are %v, %v", names, err)
	}
	if s := p.status(); s.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("the retry's sandbox is %v", s.State)
	}
}
