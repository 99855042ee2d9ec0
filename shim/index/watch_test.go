package index_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/translate"
)

const (
	created = runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT
	started = runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT
	stopped = runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
	deleted = runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
)

func (f *fixture) subscribe(buffer int) *index.Subscription {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f.t.Cleanup(cancel)
	s, err := f.Subscribe(ctx, buffer)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// next waits for the next transition.
func (f *fixture) next(s *index.Subscription) index.Transition {
	f.t.Helper()
	select {
	case got, ok := <-s.C:
		if !ok {
			f.t.Fatalf("subscription ended: %v", s.Err())
		}
		return got
	case <-time.After(patience):
		f.t.Fatal("no transition")
	}
	return index.Transition{}
}

// expect waits for transitions of one container, in that order, and returns the
// last.
func (f *fixture) expect(s *index.Subscription, id string, want ...runtimeapi.ContainerEventType) (last index.Transition) {
	f.t.Helper()
	for i, kind := range want {
		if last = f.next(s); last.Type != kind || last.ID != id {
			f.t.Fatalf("transition %d: %v of %s, want %v of %s", i, last.Type, last.ID, kind, id)
		}
	}
	return last
}

func TestTransitions(t *testing.T) {
	f := newFixture(t)
	before := f.run(f.sandbox(0))
	f.ready()
	s := f.subscribe(100)
	sandbox := f.sandbox(1)
	f.expect(s, sandbox, created)
	f.run(sandbox)
	if got := f.expect(s, sandbox, started); got.SandboxID != sandbox || got.Pod == nil || !got.Pod.Running || got.Sandbox != got.Pod || got.Container != nil {
		t.Errorf("sandbox started: %+v", got)
	}
	c := f.member(sandbox, 1)
	f.expect(s, c, created)
	f.run(c)
	f.expect(s, c, started)
	f.docker.Exit(c, 2)
	got := f.expect(s, c, stopped)
	if got.Container.ExitCode != 2 || got.SandboxID != sandbox || got.Pod.ID != sandbox || len(got.Members) != 1 || got.Members[0] != got.Container {
		t.Errorf("container stopped: %+v", got)
	}
	f.run(c)
	f.expect(s, c, started)
	f.remove(c)
	// Docker decides whether the exit is seen before the container is gone.
	got = f.next(s)
	if got.Type == stopped {
		got = f.next(s)
	}
	if got.Type != deleted || got.ID != c || got.Container == nil || len(got.Members) != 0 {
		t.Errorf("container deleted: %+v", got)
	}
	failed := f.member(sandbox, 2, "no-such-binary")
	f.expect(s, failed, created)
	if err := f.client.ContainerStart(t.Context(), failed); err == nil {
		t.Fatal("started")
	}
	f.sync(failed)
	if got := f.expect(s, failed, stopped); !got.Container.StartFailed {
		t.Errorf("failed start: %+v", got)
	}
	f.remove(before)
	f.Removed(before)
	for got = f.next(s); got.Type != deleted; got = f.next(s) {
	}
	if got.ID != before || got.Pod == nil || got.Pod.Metadata.GetName() != "pod0" {
		t.Errorf("sandbox deleted: %+v", got)
	}
}

func TestTransitionsOverALostConnection(t *testing.T) {
	f := newFixture(t)
	sandbox := f.run(f.sandbox(1))
	exits, restarts, goes := f.run(f.member(sandbox, 1)), f.run(f.member(sandbox, 2)), f.run(f.member(sandbox, 3))
	f.ready()
	s := f.subscribe(100)
	f.docker.LoseEvents(true)
	f.docker.Exit(exits, 5)
	f.docker.Exit(restarts, 0)
	f.eventually("exit", func() bool { return f.client.ContainerStart(t.Context(), restarts) == nil })
	f.remove(goes)
	comes := f.run(f.member(sandbox, 4))
	f.docker.LoseEvents(false)
	f.docker.CutEvents()
	want := map[string][]runtimeapi.ContainerEventType{
		exits: {stopped}, restarts: {stopped, started}, goes: {deleted}, comes: {created, started},
	}
	got := map[string][]runtimeapi.ContainerEventType{}
	for range 6 {
		n := f.next(s)
		got[n.ID] = append(got[n.ID], n.Type)
	}
	for id, kinds := range want {
		if !slices.Equal(got[id], kinds) {
			t.Errorf("%s: %v, want %v", id[:8], got[id], kinds)
		}
	}
	f.locked(func() {
		if f.disconnected != 1 {
			t.Errorf("disconnected %d times", f.disconnected)
		}
	})
	f.eventually("health", func() bool { return f.Health() == nil })
}

func TestDaemonRestartWithoutLiveRestore(t *testing.T) {
	f := newFixture(t)
	running := map[string]bool{}
	for n := range 5 {
		sandbox := f.run(f.sandbox(n))
		running[sandbox], running[f.run(f.member(sandbox, n))] = true, true
	}
	f.ready()
	s := f.subscribe(100)
	f.docker.Stop()
	f.eventually("the end is noticed", func() bool { return errdefs.IsUnavailable(f.Health()) })
	if all, err := f.Containers(t.Context()); err != nil || len(all) != 5 {
		t.Errorf("while docker is away: %v, %v", all, err)
	}
	f.docker.KillQuietly()
	f.docker.Start()
	for range 10 {
		if n := f.next(s); n.Type != stopped || !running[n.ID] {
			t.Errorf("transition %v of %s", n.Type, n.ID)
		} else {
			delete(running, n.ID)
		}
	}
	f.eventually("health", func() bool { return f.Health() == nil })
}

func TestSlowSubscriberIsCutOff(t *testing.T) {
	f := newFixture(t).ready()
	slow, fast := f.subscribe(3), f.subscribe(100)
	var ids []string
	for n := range 5 {
		id := f.member("", n)
		f.sync(id)
		ids = append(ids, id)
	}
	for _, id := range ids {
		f.expect(fast, id, created)
	}
	for range 3 {
		<-slow.C
	}
	if _, open := <-slow.C; open || !errdefs.IsResourceExhausted(slow.Err()) {
		t.Errorf("slow subscriber: open %v, %v", open, slow.Err())
	}
}

func TestSubscriptionEnds(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Subscribe(ctx, 1); !errdefs.IsUnavailable(err) {
		t.Errorf("before the first sync: %v", err)
	}
	f.ready()
	ctx, cancel = context.WithCancel(t.Context())
	s, err := f.Subscribe(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, open := <-s.C; open || !errors.Is(s.Err(), context.Canceled) {
		t.Errorf("with its context: open %v, %v", open, s.Err())
	}
	s = f.subscribe(1)
	if err := f.stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, open := <-s.C; open || !errdefs.IsUnavailable(s.Err()) {
		t.Errorf("with the index: open %v, %v", open, s.Err())
	}
}

func TestDeletedWhileDraining(t *testing.T) {
	drain := make(chan struct{})
	defer close(drain)
	f := newFixture(t, blockExits(drain), func(o *index.Options) { o.DrainTimeout = time.Hour }).ready()
	c := f.run(f.member("", 1))
	f.sync(c)
	s := f.subscribe(10)
	f.docker.Exit(c, 0)
	f.eventually("the exit is seen", func() bool { return f.docker.Calls()["container inspect"] >= 2 })
	synced := make(chan error, 1)
	looks := f.docker.Calls()["container inspect"]
	go func() { synced <- f.Sync(context.Background(), c) }()
	f.eventually("the sync's look", func() bool { return f.docker.Calls()["container inspect"] > looks })
	f.remove(c)
	f.waitState(c, "")
	if err := <-synced; err != nil {
		t.Error(err)
	}
	if err := f.WaitExited(t.Context(), c); err != nil {
		t.Error(err)
	}
	got := f.next(s)
	if got.Type == stopped {
		got = f.next(s)
	}
	if got.Type != deleted {
		t.Errorf("transition %v", got.Type)
	}
}

// Subscribers are told of a sandbox when its network is up or when it exits, and
// never of one that is removed before.
func TestTransitionsOfIncompleteSandbox(t *testing.T) {
	var complete sync.Map // by sandbox ID
	f := newFixture(t, func(o *index.Options) {
		o.Complete = func(s *translate.Sandbox) bool {
			_, ok := complete.Load(s.ID)
			return ok
		}
	})
	f.ready()
	f.docker.LoseEvents(true) // nothing happens by itself
	s := f.subscribe(100)
	up, fails, goes := f.run(f.sandbox(1)), f.run(f.sandbox(2)), f.run(f.sandbox(3))
	for _, id := range []string{up, fails, goes} {
		f.sync(id)
		f.Announce(id)
	}
	if n := len(s.C); n != 0 {
		t.Fatalf("%d transitions of sandboxes without a network", n)
	}
	f.remove(goes)
	f.Removed(goes)
	complete.Store(up, true)
	f.Announce(up)
	f.expect(s, up, created, started)
	f.Announce(up)
	f.docker.Exit(fails, 137)
	f.sync(fails)
	f.expect(s, fails, created, started, stopped)
	complete.Delete(up) // its network is released
	f.sync(up)
	f.Announce(up)
	f.docker.Exit(up, 137)
	f.sync(up)
	f.expect(s, up, stopped)
	f.remove(up)
	f.Removed(up)
	if got := f.expect(s, up, deleted); got.Pod == nil || got.Pod.Running {
		t.Errorf("the removed sandbox: %+v", got.Pod)
	}
}
