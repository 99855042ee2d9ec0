package shim_test

import (
	"encoding/json"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim"
	"github.com/cridock/cridock/shim/engine"
)

// activity asks for the verbose status.
func (n *node) activity() shim.Activity {
	n.t.Helper()
	r, err := n.runtime.Status(n.ctx, &runtimeapi.StatusRequest{Verbose: true})
	n.must(err)
	var a shim.Activity
	n.must(json.Unmarshal([]byte(r.Info[shim.ActivityInfo]), &a))
	return a
}

// TestActivity shows what runs and what is in progress, without a call to Docker.
func TestActivity(t *testing.T) {
	n := newNode(t)
	pod := n.runPod(n.podConfig("web"))
	n.must(n.stopPod(n.runPod(n.podConfig("old"))))
	running := n.runContainer(pod, containerConfig("main", "sleep", "1000"))
	created := n.create(pod, containerConfig("next", "sleep", "1000"))
	before := n.activity()
	if len(before.Operations) > 0 {
		t.Errorf("operations %+v, want none", before.Operations)
	}

	pull := n.heldPull(appImage)
	starting, releaseStart := n.docker.HoldNext("container start", 1)
	stopping, releaseStop := n.docker.HoldNext("container kill", 1)
	results := make(chan error, 3)
	go func() { _, err := n.pull(n.ctx, appImage, nil); results <- err }()
	n.waiting("pull", 1)
	go func() { results <- n.tryStart(created) }()
	<-starting
	go func() { results <- n.stopContainer(running, 100) }()
	<-stopping
	var during shim.Activity
	n.eventually("Docker is not called meanwhile", func() bool { // its heartbeat and relist may come in between
		calls := n.docker.Calls()
		during = n.activity()
		return maps.Equal(calls, n.docker.Calls())
	})
	type operation struct{ Kind, Object string }
	var got []operation
	for _, op := range during.Operations {
		got = append(got, operation{op.Kind, op.Object})
		if want := during.Time.Sub(op.Since).Round(time.Millisecond).Seconds(); op.AgeSeconds != want || op.Since.Before(before.Time) {
			t.Errorf("%+v, want an age of %v", op, want)
		}
	}
	m := n.podConfig("web").Metadata
	if diff := cmp.Diff([]operation{{"PullImage", appImage}, {"StartContainer", m.Namespace + "/" + m.Name + "/" + m.Uid}, {"StopContainer", running}}, got); diff != "" {
		t.Errorf("operations, oldest first (-want +got):\n%s", diff)
	}
	if during.Pods != (shim.PodActivity{Ready: 1, NotReady: 1}) {
		t.Errorf("pods %+v", during.Pods)
	}
	if c := before.Containers; c != (shim.ContainerActivity{Running: 1, Created: 1}) {
		t.Errorf("containers %+v", c)
	}
	if during.Version != "test" || during.Started.IsZero() || during.Logs.Followed == 0 || !during.Docker.Connected || during.Docker.EngineVersion == "" || during.Docker.LastError != "" {
		t.Errorf("activity %+v", during)
	}
	if diff := cmp.Diff(map[string]int{"exec": 0, "attach": 0, "portforward": 0}, during.Sessions); diff != "" {
		t.Errorf("sessions (-want +got):\n%s", diff)
	}
	pull.release()
	releaseStart()
	releaseStop()
	n.must(n.stopContainer(running, 0)) // the other call waits for its grace period
	for range 3 {
		n.must(<-results)
	}
	n.eventually("nothing is in progress", func() bool { return len(n.activity().Operations) == 0 })
}

// TestActivityWithoutDocker: what was last known, and why the connection is gone; the
// reason stays when it is back.
func TestActivityWithoutDocker(t *testing.T) {
	n := newNode(t)
	n.runPod(n.podConfig("web"))
	connected := n.activity()
	n.docker.Stop()
	var a shim.Activity
	n.eventually("the loss is seen", func() bool { a = n.activity(); return !a.Docker.Connected })
	if a.Pods.Ready != 1 || a.Docker.LastError == "" || a.Docker.LastErrorTime.Before(connected.Time) || a.Docker.Since.Before(connected.Time) || a.Docker.EngineVersion != connected.Docker.EngineVersion {
		t.Errorf("without Docker: %+v", a)
	}
	lost := a.Docker.Since
	n.docker.Start()
	n.eventually("it is back", func() bool { a = n.activity(); return a.Docker.Connected })
	if a.Docker.LastError == "" || !a.Docker.Since.After(lost) {
		t.Errorf("connected again: %+v", a.Docker)
	}
}

// TestDeprecationsInStatus: the fake engine is 20.10, on which cgroup version does
// not matter here.
func TestDeprecationsInStatus(t *testing.T) {
	n := newNode(t)
	r, err := n.runtime.Status(n.ctx, &runtimeapi.StatusRequest{Verbose: true})
	n.must(err)
	var got []engine.Deprecation
	n.must(json.Unmarshal([]byte(r.Info[shim.DeprecationsInfo]), &got))
	if diff := cmp.Diff(n.engine.Capabilities().Deprecations(), got); diff != "" || len(got) == 0 {
		t.Errorf("%d deprecations (-want +got):\n%s", len(got), diff)
	}
	n.docker.SetAPIVersion("1.45")
	n.docker.CutEvents()
	n.eventually("a new engine is not deprecated", func() bool {
		r, err := n.runtime.Status(n.ctx, &runtimeapi.StatusRequest{Verbose: true})
		n.must(err)
		got = nil
		n.must(json.Unmarshal([]byte(r.Info[shim.DeprecationsInfo]), &got))
		for _, d := range got {
			if d.Name == engine.DeprecatedEngine {
				return false
			}
		}
		return true
	})
}
