package index_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/system"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/engine/enginetest"
	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/translate"
)

const (
	testImage = "busybox:cridock"
	patience  = time.Minute
)

// fixture is an index on a fake engine.
type fixture struct {
	*index.Index
	t      testing.TB
	docker *enginetest.Server
	client *engine.Client
	stop   func() error // stops Run and returns its error

	mu           sync.Mutex
	differences  []index.Difference
	undrained    int
	disconnected int
}

// quiet keeps the periodic checks out of a test.
func quiet(o *index.Options) { o.Relist, o.Heartbeat = time.Hour, time.Hour }

// newFixture prepares an engine and an index that does not run yet.
func newFixture(t testing.TB, change ...func(*index.Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, docker: enginetest.New(t)}
	f.docker.AddImage(testImage, enginetest.Image{})
	client, err := engine.New(f.docker.Endpoint(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	f.client = client
	o := index.Options{
		Host: func() translate.Host { return translate.Host{} },
		Connected: func(ctx context.Context) error {
			_, err := client.Refresh(ctx)
			return err
		},
		Observer: index.Observer{
			Difference:   func(d index.Difference) { f.locked(func() { f.differences = append(f.differences, d) }) },
			Undrained:    func() { f.locked(func() { f.undrained++ }) },
			Disconnected: func() { f.locked(func() { f.disconnected++ }) },
		},
	}
	quiet(&o)
	for _, c := range change {
		c(&o)
	}
	f.Index = index.New(client, o)
	return f
}

// start runs the index until the test ends.
func (f *fixture) start() *fixture {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	f.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("Run does not end with its context")
		}
	})
	f.t.Cleanup(func() {
		if err := f.stop(); !errors.Is(err, context.Canceled) {
			f.t.Error(err)
		}
	})
	return f
}

func (f *fixture) ready() *fixture {
	f.t.Helper()
	f.start()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := f.Ready(ctx); err != nil {
		f.t.Fatal(err)
	}
	return f
}

func (f *fixture) locked(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

// sandbox creates a pod's sandbox behind the index's back.
func (f *fixture) sandbox(n int) string {
	f.t.Helper()
	return f.create(fmt.Sprintf("k8s_POD_pod%d_default_uid%d_0", n, n), map[string]string{
		translate.LabelType: string(translate.KindSandbox), translate.LabelPodName: fmt.Sprintf("pod%d", n),
	}, "pause")
}

// member creates a container of a sandbox, "" for one that is gone.
func (f *fixture) member(sandbox string, n int, argv ...string) string {
	f.t.Helper()
	sandbox = cmp.Or(sandbox, strings.Repeat("5", 64))
	if len(argv) == 0 {
		argv = []string{"sleep", "1000"}
	}
	return f.create(fmt.Sprintf("k8s_c_pod%d_default_uid%d_0", n, n), map[string]string{
		translate.LabelType: string(translate.KindContainer), translate.LabelSandboxID: sandbox,
	}, argv...)
}

func (f *fixture) create(name string, labels map[string]string, argv ...string) string {
	f.t.Helper()
	id, err := f.client.ContainerCreate(context.Background(), name, &container.Config{Image: testImage, Cmd: argv, Labels: labels},
		&container.HostConfig{NetworkMode: "none"}, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

func (f *fixture) run(id string) string {
	f.t.Helper()
	if err := f.client.ContainerStart(context.Background(), id); err != nil {
		f.t.Fatal(err)
	}
	return id
}

func (f *fixture) remove(id string) {
	f.t.Helper()
	if err := f.client.ContainerRemove(context.Background(), id); err != nil {
		f.t.Fatal(err)
	}
}

// state returns the index's current state of a container, "" if it has none.
func (f *fixture) state(id string) string {
	f.t.Helper()
	c, err := f.Container(context.Background(), id)
	switch {
	case errdefs.IsNotFound(err):
		return ""
	case err != nil:
		f.t.Fatal(err)
	}
	return c.State.String()
}

const (
	stateCreated = "CONTAINER_CREATED"
	stateRunning = "CONTAINER_RUNNING"
	stateExited  = "CONTAINER_EXITED"
)

// eventually waits until a condition holds.
func (f *fixture) eventually(what string, holds func() bool) {
	f.t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("not in time: %s", what)
		}
	}
}

func (f *fixture) waitState(id, want string) {
	f.t.Helper()
	f.eventually("container "+want, func() bool { return f.state(id) == want })
}

func (f *fixture) sync(id string) {
	f.t.Helper()
	if err := f.Sync(context.Background(), id); err != nil {
		f.t.Fatal(err)
	}
}

func TestReadsCostNoDockerCall(t *testing.T) {
	f := newFixture(t)
	sandbox := f.run(f.sandbox(1))
	c := f.run(f.member(sandbox, 1))
	f.ready()
	f.docker.ResetCalls()
	ctx := t.Context()
	for range 1000 {
		sandboxes, err := f.Sandboxes(ctx)
		if err != nil || len(sandboxes) != 1 {
			t.Fatalf("sandboxes %v, %v", sandboxes, err)
		}
		if all, err := f.Containers(ctx); err != nil || len(all) != 1 {
			t.Fatalf("containers %v, %v", all, err)
		}
		if _, err := f.Sandbox(ctx, sandbox); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Container(ctx, c); err != nil {
			t.Fatal(err)
		}
		if images, err := f.Images(ctx); err != nil || len(images) != 1 {
			t.Fatalf("images %v, %v", images, err)
		}
		if _, ok, err := f.Image(ctx, testImage); err != nil || !ok {
			t.Fatalf("image %v, %v", ok, err)
		}
	}
	if calls := f.docker.Calls(); len(calls) != 0 {
		t.Errorf("Docker calls: %v", calls)
	}
}

func TestOnlyPodMembers(t *testing.T) {
	f := newFixture(t)
	other := f.run(f.create("web", nil, "sleep", "1000"))
	// A foreign container can inherit an image's labels.
	labelled := f.run(f.create("db", map[string]string{translate.LabelType: "podsandbox"}, "sleep", "1000"))
	sandbox := f.run(f.sandbox(1))
	f.ready()
	// Containers without the label are never inspected.
	f.docker.ResetCalls()
	f.run(f.create("web2", nil, "sleep", "1000"))
	f.waitState(f.member(sandbox, 1), stateCreated)
	if n := f.docker.Calls()["container inspect"]; n != 1 {
		t.Errorf("%d inspects for one pod member", n)
	}
	after := f.run(f.create("later", map[string]string{translate.LabelType: "container"}, "sleep", "1000"))
	// Events arrive in order: after this one, those of the container above have arrived,
	// and a sync is later than the inspects that they ask for.
	f.waitState(f.member(sandbox, 2), stateCreated)
	f.sync(after)
	f.sync(sandbox)
	for _, id := range []string{other, labelled, after, "web", "", "/", "../../info", sandbox + "0"} {
		if s, err := f.Sandbox(t.Context(), id); !errdefs.IsNotFound(err) {
			t.Errorf("sandbox %q: %v, %v", id, s, err)
		}
		if c, err := f.Container(t.Context(), id); !errdefs.IsNotFound(err) {
			t.Errorf("container %q: %v, %v", id, c, err)
		}
	}
	f.docker.ResetCalls()
	if err := f.Sync(t.Context(), "web"); !errdefs.IsNotFound(err) {
		t.Errorf("sync of a name: %v", err)
	}
	if calls := f.docker.Calls(); len(calls) != 0 {
		t.Errorf("a name reached Docker: %v", calls)
	}
	if s, err := f.Sandbox(t.Context(), sandbox[:13]); err != nil || s.ID != sandbox {
		t.Errorf("by prefix: %v, %v", s, err)
	}
}

func TestEventsAndCoalescing(t *testing.T) {
	f := newFixture(t).ready()
	sandbox := f.run(f.sandbox(1))
	c := f.member(sandbox, 1)
	f.waitState(c, stateCreated)
	f.run(c)
	f.waitState(c, stateRunning)
	f.sync(sandbox) // the inspects that its events asked for are done
	// While one inspect is running, any number of events lead to one more.
	held, release := f.docker.HoldNext("container inspect", 1)
	f.docker.ResetCalls()
	update := func(shares int64) {
		t.Helper()
		if err := f.client.ContainerUpdate(t.Context(), c, container.UpdateConfig{Resources: container.Resources{CPUShares: shares}}); err != nil {
			t.Fatal(err)
		}
	}
	update(100)
	<-held
	for i := range 20 {
		update(int64(200 + i))
	}
	// Events arrive in order: after this one, all earlier ones have arrived.
	f.waitState(f.member(sandbox, 2), stateCreated)
	f.docker.ResetCalls()
	release()
	f.eventually("the last update is seen", func() bool {
		got, err := f.Container(t.Context(), c)
		return err == nil && got.Resources.GetCpuShares() == 219
	})
	f.sync(c)
	// The one after the held one, and the sync's.
	if n := f.docker.Calls()["container inspect"]; n > 2 {
		t.Errorf("%d inspects after the held one for 20 events", n)
	}
	f.docker.Exit(c, 3)
	f.waitState(c, stateExited)
	f.remove(c)
	f.waitState(c, "")
	if len(f.ContainersOf(sandbox)) != 1 {
		t.Error("a removed container is still one of the sandbox")
	}
}

func TestLateInspectDoesNotResurrect(t *testing.T) {
	f := newFixture(t).ready()
	c := f.run(f.member("", 1))
	f.waitState(c, stateRunning)
	held, release := f.docker.HoldNext("container inspect", 1)
	synced := make(chan error, 1)
	go func() { synced <- f.Sync(context.Background(), c) }()
	<-held
	f.remove(c)
	f.waitState(c, "")
	release()
	if err := <-synced; err != nil {
		t.Errorf("sync of a container that went meanwhile: %v", err)
	}
	if got := f.state(c); got != "" {
		t.Errorf("a late answer brought the container back as %s", got)
	}
}

// TestListedBeforeItIsThere: Docker lists a container that is still being created,
// but inspect does not find it until its creation returns.
func TestListedBeforeItIsThere(t *testing.T) {
	f := newFixture(t)
	c := f.member("", 1)
	f.docker.FailNext("container inspect", 1, http.StatusNotFound, "No such container: "+c)
	f.ready()
	if got := f.state(c); got != "" {
		t.Fatalf("the first look gave %s: it did not fail", got)
	}
	f.sync(c)
	if got := f.state(c); got != stateCreated {
		t.Errorf("after create: %q", got)
	}
}

// TestLateList: a list requested earlier does not override newer inspects.
func TestLateList(t *testing.T) {
	f := newFixture(t, func(o *index.Options) { o.Relist = 20 * time.Millisecond })
	removed, exits := f.member("", 1), f.run(f.member("", 2))
	held, release := f.docker.HoldNext("container list", 2)
	f.ready()
	<-held
	f.run(removed)
	f.waitState(removed, stateRunning)
	f.docker.Exit(removed, 0)
	f.waitState(removed, stateExited) // nothing inspects it any more
	f.remove(removed)
	f.waitState(removed, "")
	f.docker.Exit(exits, 0)
	f.waitState(exits, stateExited)
	appears := f.member("", 3)
	f.waitState(appears, stateCreated)
	f.docker.ResetCalls()
	release()
	f.eventually("the next relist", func() bool { return f.docker.Calls()["container list"] > 0 })
	if calls := f.docker.Calls(); calls["container inspect"] != 0 {
		t.Errorf("calls after a late list: %v", calls)
	}
	if got := f.state(removed) + f.state(exits); got != stateExited {
		t.Errorf("states after a late list: %s", got)
	}
	f.locked(func() {
		if len(f.differences) > 0 {
			t.Errorf("differences %v", f.differences)
		}
	})
}

func TestRelistFindsWhatEventsLost(t *testing.T) {
	f := newFixture(t, func(o *index.Options) { o.Relist = 20 * time.Millisecond })
	gone, exits := f.run(f.member("", 1)), f.run(f.member("", 2))
	f.ready()
	f.docker.LoseEvents(true)
	f.remove(gone)
	f.docker.Exit(exits, 1)
	missing := f.run(f.member("", 3))
	f.waitState(gone, "")
	f.waitState(exits, stateExited)
	f.waitState(missing, stateRunning)
	f.eventually("three differences counted", func() (all bool) {
		f.locked(func() {
			all = slices.Contains(f.differences, index.DifferenceGone) && slices.Contains(f.differences, index.DifferenceState) &&
				slices.Contains(f.differences, index.DifferenceMissing)
		})
		return all
	})
}

func TestNoDifferencesWhenEventsArrive(t *testing.T) {
	f := newFixture(t, func(o *index.Options) { o.Relist, o.EventDelay = time.Millisecond, time.Minute }).ready()
	for n := range 10 {
		c := f.run(f.member("", n))
		f.sync(c)
		f.docker.Exit(c, 0)
		f.waitState(c, stateExited)
		f.remove(c)
		f.waitState(c, "")
	}
	f.locked(func() {
		if len(f.differences) > 0 {
			t.Errorf("differences counted: %v", f.differences)
		}
	})
}

func TestReadYourWrites(t *testing.T) {
	f := newFixture(t).ready()
	f.docker.LoseEvents(true)
	sandbox := f.run(f.sandbox(1))
	f.sync(sandbox)
	if s, err := f.Sandbox(t.Context(), sandbox); err != nil || !s.Running {
		t.Errorf("sandbox %+v, %v", s, err)
	}
	c := f.member(sandbox, 1, "no-such-binary")
	f.sync(c)
	if got := f.state(c); got != stateCreated {
		t.Errorf("after create: %s", got)
	}
	if err := f.client.ContainerStart(t.Context(), c); err == nil {
		t.Fatal("started")
	}
	f.sync(c)
	if got, err := f.Container(t.Context(), c); err != nil || got.State != runtimeapi.ContainerState_CONTAINER_EXITED || got.ExitCode != 127 {
		t.Errorf("after a failed start: %+v, %v", got, err)
	}
	if m := f.ContainersOf(sandbox); len(m) != 1 || m[0].ID != c {
		t.Errorf("members %v", m)
	}
	f.remove(c)
	f.Removed(c)
	if got := f.state(c); got != "" {
		t.Errorf("after remove: %s", got)
	}
	f.remove(sandbox)
	f.sync(sandbox)
	if _, err := f.Sandbox(t.Context(), sandbox); !errdefs.IsNotFound(err) {
		t.Errorf("after sync of a removed sandbox: %v", err)
	}
}

func TestBeforeFirstSync(t *testing.T) {
	f := newFixture(t)
	f.run(f.member("", 1))
	f.docker.Stop()
	f.start()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if all, err := f.Containers(ctx); !errdefs.IsUnavailable(err) || all != nil {
		t.Errorf("before the first sync: %v, %v", all, err)
	}
	if ctx.Err() == nil {
		t.Error("the read did not wait for its deadline")
	}
	if _, err := f.Images(ctx); !errdefs.IsUnavailable(err) {
		t.Errorf("images: %v", err)
	}
	f.eventually("a reason", func() bool { return errdefs.IsUnavailable(f.Health()) })
	waiting := make(chan error, 1)
	go func() {
		all, err := f.Containers(context.Background())
		if err == nil && len(all) != 1 {
			err = fmt.Errorf("%d containers", len(all))
		}
		waiting <- err
	}()
	f.docker.Start()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	if err := f.Health(); err != nil {
		t.Error(err)
	}
}

func TestSyncWaitsForEveryContainer(t *testing.T) {
	f := newFixture(t)
	c, broken := f.run(f.member("", 1)), f.member("", 2)
	// An unanswered inspect fails the attempt; a container that Docker cannot read is
	// skipped.
	f.docker.DropNext("container inspect", 1)
	f.docker.DropNext("container inspect", 2)
	f.ready()
	if got := f.state(c) + " " + f.state(broken); got != stateRunning+" "+stateCreated {
		t.Errorf("after the sync: %s", got)
	}
	g := newFixture(t)
	g.run(g.member("", 1))
	for i := range 100 { // however often it looks again
		g.docker.FailNext("container inspect", i+1, http.StatusInternalServerError, "layer does not exist")
	}
	g.ready()
	if all, err := g.Containers(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("containers %v, %v", all, err)
	}
}

func TestHungDaemon(t *testing.T) {
	f := newFixture(t)
	f.run(f.member("", 1))
	f.Index = index.New(&impatient{f.client}, index.Options{
		Host: func() translate.Host { return translate.Host{} }, Relist: time.Hour,
		Heartbeat: 10 * time.Millisecond, StaleAfter: 3 * time.Second,
	})
	f.ready()
	began := time.Now()
	resume := f.docker.Hang()
	defer resume()
	f.eventually("the hang is noticed", func() bool { return errdefs.IsUnavailable(f.Health()) })
	all, err := f.Containers(t.Context())
	if took := time.Since(began); took > 2*time.Second {
		t.Logf("after %v, reads may have ended", took)
	} else if err != nil || len(all) != 1 {
		t.Errorf("soon after: %v, %v", all, err)
	}
	f.eventually("reads end", func() bool {
		_, err := f.Containers(t.Context())
		return errdefs.IsUnavailable(err)
	})
	resume()
	f.eventually("recovery", func() bool { return f.Health() == nil })
	if all, err := f.Containers(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("after recovery: %v, %v", all, err)
	}
}

// impatient has a shorter deadline than the client's ten seconds.
type impatient struct{ *engine.Client }

func (e *impatient) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if err := e.Client.Ping(ctx); err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
	}
	return nil
}

func TestExitWaitsForItsLog(t *testing.T) {
	drain, drained := make(chan struct{}), make(chan string, 1)
	f := newFixture(t, func(o *index.Options) {
		o.DrainTimeout = time.Hour
		o.Exited = func(ctx context.Context, c *translate.Container) {
			select {
			case <-drain:
			case <-ctx.Done():
			}
			drained <- c.ID
		}
	}).ready()
	c := f.run(f.member("", 1))
	f.sync(c)
	exited := make(chan error, 1)
	go func() { exited <- f.WaitExited(context.Background(), c) }()
	synced := make(chan error, 1)
	f.docker.Exit(c, 4)
	go func() { synced <- f.Sync(context.Background(), c) }()
	for range 50 {
		if got := f.state(c); got != stateRunning {
			t.Fatalf("%s before the log is drained", got)
		}
		select {
		case err := <-exited:
			t.Fatalf("WaitExited before the log is drained: %v", err)
		case err := <-synced:
			t.Fatalf("Sync before the log is drained: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	close(drain)
	if err := errors.Join(<-exited, <-synced); err != nil {
		t.Error(err)
	}
	if got, err := f.Container(t.Context(), c); err != nil || got.State.String() != stateExited || got.ExitCode != 4 {
		t.Errorf("after the drain: %+v, %v", got, err)
	}
	if id := <-drained; id != c {
		t.Errorf("drained %s", id)
	}
}

func TestEveryExitIsDrained(t *testing.T) {
	drained := make(chan int64, 10)
	f := newFixture(t, func(o *index.Options) {
		o.Exited = func(_ context.Context, c *translate.Container) { drained <- c.StartedAt }
	})
	c := f.run(f.member("", 1))
	f.docker.Exit(c, 0)
	f.ready() // found exited
	s := f.subscribe(10)
	f.docker.LoseEvents(true)
	f.run(c)
	f.docker.Exit(c, 1)
	f.sync(c) // exited again, a whole run later
	f.expect(s, c, started, stopped)
	f.sync(c) // the same
	first, second := <-drained, <-drained
	if first == second || len(drained) > 0 {
		t.Errorf("drained for the runs since %d and %d, and %d more times", first, second, len(drained))
	}
}

func TestExitIsBounded(t *testing.T) {
	visible := make(chan struct{})
	defer close(visible)
	f := newFixture(t, func(o *index.Options) {
		o.DrainTimeout = 50 * time.Millisecond
		o.Exited = func(ctx context.Context, _ *translate.Container) {
			<-ctx.Done()
			<-visible
		}
	}).ready()
	c := f.run(f.member("", 1))
	f.sync(c)
	f.docker.Exit(c, 0)
	f.waitState(c, stateExited)
	f.locked(func() {
		if f.undrained != 1 {
			t.Errorf("undrained exits counted: %d", f.undrained)
		}
	})
}

func TestOOMIsLookedForAgain(t *testing.T) {
	f := newFixture(t, func(o *index.Options) {
		o.Host = func() translate.Host { return translate.Host{CgroupV2: true} }
	})
	f.docker.SetInfo(func(i *system.Info) { i.CgroupVersion = "2" })
	c := f.run(f.member("", 1))
	f.ready()
	// What the first look sees has no OOM flag yet.
	seen, release := f.docker.HoldNext("container inspect", 1)
	f.docker.Exit(c, 137)
	<-seen
	f.docker.MarkOOM(c)
	release()
	f.waitState(c, stateExited)
	if got, err := f.Container(t.Context(), c); err != nil || !got.OOMKilled {
		t.Errorf("exit %+v, %v", got, err)
	}
}

// TestOOMThatDockerMissed: the kernel is asked only about killed containers.
func TestOOMThatDockerMissed(t *testing.T) {
	for name, v2 := range map[string]bool{"v1": false, "v2": true} {
		t.Run(name, func(t *testing.T) {
			var victim atomic.Value
			f := newFixture(t, func(o *index.Options) {
				o.Host = func() translate.Host { return translate.Host{CgroupV2: v2} }
				o.OOMKilled = func(c container.InspectResponse) bool { return c.ID == victim.Load() }
			})
			first, second, third := f.run(f.member("", 1)), f.run(f.member("", 2)), f.run(f.member("", 3))
			f.ready()
			for id, want := range map[string]struct {
				code int
				oom  bool
			}{first: {137, true}, second: {137, false}, third: {3, false}} {
				if id != second {
					victim.Store(id)
				}
				f.docker.Exit(id, want.code)
				f.waitState(id, stateExited)
				if got, err := f.Container(t.Context(), id); err != nil || got.OOMKilled != want.oom || (got.Reason == "OOMKilled") != want.oom {
					t.Errorf("exit code %d: %+v, %v; want OOMKilled %v", want.code, got, err, want.oom)
				}
			}
		})
	}
}

func TestRunEnds(t *testing.T) {
	f := newFixture(t).ready()
	c := f.run(f.member("", 1))
	f.sync(c)
	if err := f.stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := f.Sync(t.Context(), c); !errdefs.IsUnavailable(err) {
		t.Errorf("sync after the end: %v", err)
	}
	if err := f.SyncImages(t.Context()); !errdefs.IsUnavailable(err) {
		t.Errorf("sync of images after the end: %v", err)
	}
}

// TestLockedContainersHoldUpNobody: as many inspects as may run at once wait in
// Docker for container locks, and do not delay the inspect of another container.
func TestLockedContainersHoldUpNobody(t *testing.T) {
	const locked = 12
	f := newFixture(t)
	var ids []string
	for i := range locked + 1 {
		ids = append(ids, f.sandbox(i))
	}
	f.ready()
	f.docker.LoseEvents(true)
	var came []<-chan struct{}
	var free []func()
	for i := range locked {
		held, release := f.docker.HoldNext("container inspect", i+1)
		came, free = append(came, held), append(free, release)
	}
	var wg sync.WaitGroup
	var answered atomic.Int32
	for _, id := range ids[:locked] {
		wg.Go(func() {
			_ = f.Sync(context.Background(), id)
			answered.Add(1)
		})
	}
	for _, held := range came {
		<-held
	}
	f.run(ids[locked])
	f.sync(ids[locked])
	if n := answered.Load(); n != 0 {
		t.Errorf("it waited for %d of the locked ones", n)
	}
	if s, err := f.Sandbox(t.Context(), ids[locked]); err != nil || !s.Running {
		t.Errorf("the other one: %+v, %v", s, err)
	}
	for _, release := range free {
		release()
	}
	wg.Wait()
}
