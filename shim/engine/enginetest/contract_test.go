package enginetest_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/engine/enginetest"
)

// subject is the engine under test.
type subject struct {
	*engine.Client
	image string // has sh, sleep, cat and true, and the file /etc/passwd
}

// contract is what cridock relies on. Each assertion holds for the fake and for
// Docker.
var contract = map[string]func(*testing.T, subject){
	"create":              contractCreate,
	"lifecycle":           contractLifecycle,
	"start fails":         contractStartFails,
	"joined namespace":    contractJoined,
	"missing container":   contractMissing,
	"kill":                contractKill,
	"pause":               contractPause,
	"checkpoint":          contractCheckpoint,
	"remove":              contractRemove,
	"list":                contractList,
	"update":              contractUpdate,
	"events":              contractEvents,
	"container wait":      contractWait,
	"container logs":      contractLogs,
	"container file":      contractFile,
	"attach":              contractAttach,
	"exec":                contractExec,
	"exec refused":        contractExecRefused,
	"exec missing binary": contractExecMissing,
	"images":              contractImages,
	"image conflicts":     contractImageConflicts,
	"pull missing":        contractPullMissing,
	"stats":               contractStats,
}

func TestContract(t *testing.T) {
	for _, version := range []string{"1.41", "1.51"} {
		t.Run("fake "+version, func(t *testing.T) {
			d := enginetest.New(t)
			d.SetAPIVersion(version)
			d.AddImage("busybox:cridock", enginetest.Image{Files: map[string]string{"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"}})
			runContract(t, d.Endpoint(), "busybox:cridock")
		})
	}
	t.Run("docker", func(t *testing.T) {
		endpoint := os.Getenv("CRIDOCK_E2E_DOCKER")
		if endpoint == "" {
			t.Skip("CRIDOCK_E2E_DOCKER names no engine")
		}
		image := os.Getenv("CRIDOCK_E2E_IMAGE")
		if image == "" {
			image = "busybox:cridock"
		}
		runContract(t, endpoint, image)
	})
}

func runContract(t *testing.T, endpoint, image string) {
	client, err := engine.New(endpoint, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if _, err := client.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.ImageInspect(t.Context(), image); err != nil {
		t.Fatalf("the engine needs an image %s, see hack/engine.sh busybox: %v", image, err)
	}
	for name, check := range contract {
		t.Run(name, func(t *testing.T) { check(t, subject{client, image}) })
	}
}

const testLabel = "io.cridock.contract"

// create creates a container that is removed at the test's end.
func (s subject) create(t *testing.T, argv ...string) string {
	t.Helper()
	return s.createWith(t, &container.Config{Cmd: argv}, &container.HostConfig{})
}

func (s subject) createWith(t *testing.T, cfg *container.Config, host *container.HostConfig) string {
	t.Helper()
	cfg.Image, cfg.Labels = s.image, map[string]string{testLabel: t.Name()}
	if host.NetworkMode == "" {
		host.NetworkMode = "none"
	}
	host.LogConfig.Type = "json-file"
	id, err := s.ContainerCreate(t.Context(), "", cfg, host, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.ContainerRemove(context.Background(), id); err != nil && !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	})
	return id
}

func (s subject) start(t *testing.T, argv ...string) string {
	t.Helper()
	id := s.create(t, argv...)
	if err := s.ContainerStart(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return id
}

func (s subject) state(t *testing.T, id string) *container.State {
	t.Helper()
	r, err := s.ContainerInspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r.State
}

// exited waits until a container is not running and returns its state.
func (s subject) exited(t *testing.T, id string) *container.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.ContainerWait(ctx, id); err != nil {
		t.Fatal(err)
	}
	return s.state(t, id)
}

func wantClass(t *testing.T, what string, err error, is func(error) bool) {
	t.Helper()
	if !is(err) {
		t.Errorf("%s: %v has another class", what, err)
	}
}

func isNil(err error) bool   { return err == nil }
func isError(err error) bool { return err != nil }

func contractCreate(t *testing.T, s subject) {
	id := s.create(t, "sleep", "1000")
	r, err := s.ContainerInspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if r.ID != id || r.State.Status != "created" || r.State.Pid != 0 || r.State.StartedAt != "0001-01-01T00:00:00Z" || r.State.FinishedAt != r.State.StartedAt {
		t.Errorf("state after create: %+v", r.State)
	}
	if _, err := time.Parse(time.RFC3339Nano, r.Created); err != nil {
		t.Error(err)
	}
	if r.Config.Labels[testLabel] != t.Name() || r.Config.Image != s.image || !strings.HasPrefix(r.Image, "sha256:") || r.Path != "sleep" {
		t.Errorf("labels %v, image %s %s, path %s", r.Config.Labels, r.Config.Image, r.Image, r.Path)
	}
	_, err = s.ContainerCreate(t.Context(), strings.TrimPrefix(r.Name, "/"), &container.Config{Image: s.image, Cmd: []string{"true"}}, &container.HostConfig{}, nil)
	wantClass(t, "name in use", err, errdefs.IsConflict)
	if err == nil || !strings.Contains(err.Error(), id) {
		t.Errorf("a name conflict must name its holder: %v", err)
	}
	_, err = s.ContainerCreate(t.Context(), "", &container.Config{Image: "no.such/image:1", Cmd: []string{"true"}}, &container.HostConfig{}, nil)
	wantClass(t, "no such image", err, errdefs.IsNotFound)
	_, err = s.ContainerCreate(t.Context(), "", &container.Config{Image: s.image, Cmd: []string{"true"}}, &container.HostConfig{Runtime: "nosuch"}, nil)
	wantClass(t, "no such runtime", err, errdefs.IsInvalidArgument)
}

func contractLifecycle(t *testing.T, s subject) {
	id := s.start(t, "sh", "-c", "sleep 1000")
	running := s.state(t, id)
	if running.Status != "running" || !running.Running || running.Pid == 0 || running.ExitCode != 0 {
		t.Errorf("state after start: %+v", running)
	}
	wantClass(t, "start of a running one", s.ContainerStart(t.Context(), id), isNil)
	if err := s.ContainerKill(t.Context(), id, "SIGKILL"); err != nil {
		t.Fatal(err)
	}
	over := s.exited(t, id)
	if over.Status != "exited" || over.Running || over.Pid != 0 || over.ExitCode != 137 || over.OOMKilled || over.StartedAt != running.StartedAt {
		t.Errorf("state after kill: %+v", over)
	}
	if over.FinishedAt <= over.StartedAt {
		t.Errorf("finished at %s, started at %s", over.FinishedAt, over.StartedAt)
	}
	// An exited container starts again, with new times and no exit code.
	wantClass(t, "second start", s.ContainerStart(t.Context(), id), isNil)
	again := s.state(t, id)
	if again.Status != "running" || again.ExitCode != 0 || again.StartedAt <= over.StartedAt {
		t.Errorf("state after the second start: %+v", again)
	}
	if st := s.exited(t, s.start(t, "sh", "-c", "exit 7")); st.Status != "exited" || st.ExitCode != 7 || st.Error != "" {
		t.Errorf("state after exit 7: %+v", st)
	}
}

func contractStartFails(t *testing.T, s subject) {
	id := s.create(t, "no-such-binary")
	err := s.ContainerStart(t.Context(), id)
	wantClass(t, "start without the executable", err, errdefs.IsInvalidArgument)
	st := s.state(t, id)
	if st.Status != "created" || st.ExitCode != 127 || st.Error == "" || st.StartedAt != "0001-01-01T00:00:00Z" || st.FinishedAt != st.StartedAt {
		t.Errorf("state after a failed start: %+v", st)
	}
}

func contractJoined(t *testing.T, s subject) {
	sandbox := s.start(t, "sleep", "1000")
	joined := s.createWith(t, &container.Config{Cmd: []string{"sleep", "1000"}}, &container.HostConfig{NetworkMode: container.NetworkMode("container:" + sandbox)})
	if err := s.ContainerKill(t.Context(), sandbox, "KILL"); err != nil {
		t.Fatal(err)
	}
	s.exited(t, sandbox)
	wantClass(t, "start beside an exited sandbox", s.ContainerStart(t.Context(), joined), errdefs.IsConflict)
	if st := s.state(t, joined); st.Status != "created" || st.ExitCode != 128 {
		t.Errorf("state after a failed join: %+v", st)
	}
	if err := s.ContainerRemove(t.Context(), sandbox); err != nil {
		t.Fatal(err)
	}
	// The class is NotFound or Internal, depending on the version.
	err := s.ContainerStart(t.Context(), joined)
	if err == nil || !strings.Contains(err.Error(), "No such container: "+sandbox) {
		t.Errorf("start beside a removed sandbox: %v", err)
	}
}

func contractMissing(t *testing.T, s subject) {
	id := strings.Repeat("ab", 32)
	ctx := t.Context()
	_, err := s.ContainerInspect(ctx, id)
	wantClass(t, "inspect", err, errdefs.IsNotFound)
	wantClass(t, "start", s.ContainerStart(ctx, id), errdefs.IsNotFound)
	wantClass(t, "kill", s.ContainerKill(ctx, id, "SIGTERM"), errdefs.IsNotFound)
	wantClass(t, "remove", s.ContainerRemove(ctx, id), errdefs.IsNotFound)
	wantClass(t, "wait", s.ContainerWait(ctx, id), errdefs.IsNotFound)
	wantClass(t, "update", s.ContainerUpdate(ctx, id, container.UpdateConfig{}), errdefs.IsNotFound)
	wantClass(t, "pause", s.ContainerPause(ctx, id), errdefs.IsNotFound)
	wantClass(t, "unpause", s.ContainerUnpause(ctx, id), errdefs.IsNotFound)
	_, err = s.ContainerLogs(ctx, id, time.Time{}, false)
	wantClass(t, "logs", err, errdefs.IsNotFound)
	// The client does not classify errors of calls that hijack their connection.
	_, err = s.ContainerAttach(ctx, id, engine.AttachOptions{Stdout: true})
	wantClass(t, "attach", err, isError)
	_, err = s.ExecCreate(ctx, id, container.ExecOptions{Cmd: []string{"true"}})
	wantClass(t, "exec create", err, errdefs.IsNotFound)
	_, err = s.ExecInspect(ctx, id)
	wantClass(t, "exec inspect", err, errdefs.IsNotFound)
	_, err = s.ExecStart(ctx, id, false, [2]uint{})
	wantClass(t, "exec start", err, isError)
}

func contractKill(t *testing.T, s subject) {
	id := s.create(t, "true")
	wantClass(t, "kill of a created one", s.ContainerKill(t.Context(), id, "SIGTERM"), errdefs.IsConflict)
	if err := s.ContainerStart(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	s.exited(t, id)
	wantClass(t, "kill of an exited one", s.ContainerKill(t.Context(), id, "SIGKILL"), errdefs.IsConflict)
	wantClass(t, "resize of an exited one", s.ContainerResize(t.Context(), id, 24, 80), errdefs.IsConflict)
	running := s.start(t, "sleep", "1000")
	wantClass(t, "no such signal", s.ContainerKill(t.Context(), running, "SIGNONE"), errdefs.IsInvalidArgument)
}

func contractPause(t *testing.T, s subject) {
	ctx, id := t.Context(), s.create(t, "sleep", "1000")
	wantClass(t, "pause of a created one", s.ContainerPause(ctx, id), errdefs.IsConflict)
	if err := s.ContainerStart(ctx, id); err != nil {
		t.Fatal(err)
	}
	wantClass(t, "unpause of a running one", s.ContainerUnpause(ctx, id), errdefs.IsInternal)
	wantClass(t, "pause", s.ContainerPause(ctx, id), isNil)
	wantClass(t, "second pause", s.ContainerPause(ctx, id), errdefs.IsConflict)
	if st := s.state(t, id); st.Status != "paused" || !st.Running || !st.Paused {
		t.Errorf("paused, the state is %+v", st)
	}
	wantClass(t, "unpause", s.ContainerUnpause(ctx, id), isNil)
	if st := s.state(t, id); st.Status != "running" || !st.Running || st.Paused {
		t.Errorf("unpaused, the state is %+v", st)
	}
	wantClass(t, "pause", s.ContainerPause(ctx, id), isNil)
	wantClass(t, "kill of a paused one", s.ContainerKill(ctx, id, "SIGKILL"), isNil)
	if st := s.exited(t, id); st.Status != "exited" || st.Paused {
		t.Errorf("killed while it was paused, the state is %+v", st)
	}
}

func contractCheckpoint(t *testing.T, s subject) {
	if s.Capabilities().Experimental {
		t.Skip("what an experimental engine does depends on CRIU and the kernel")
	}
	err := s.ContainerCheckpoint(t.Context(), s.start(t, "sleep", "1000"), t.TempDir(), "checkpoint")
	wantClass(t, "checkpoint", err, errdefs.IsNotImplemented)
}

func contractRemove(t *testing.T, s subject) {
	for _, id := range []string{s.create(t, "true"), s.start(t, "sleep", "1000")} {
		wantClass(t, "remove", s.ContainerRemove(t.Context(), id), isNil)
		_, err := s.ContainerInspect(t.Context(), id)
		wantClass(t, "inspect after remove", err, errdefs.IsNotFound)
		wantClass(t, "second remove", s.ContainerRemove(t.Context(), id), errdefs.IsNotFound)
	}
}

func contractList(t *testing.T, s subject) {
	created, running := s.create(t, "true"), s.start(t, "sleep", "1000")
	exited := s.start(t, "true")
	s.exited(t, exited)
	list := func(label string) map[string]string {
		all, err := s.ContainerList(t.Context(), filters.NewArgs(filters.Arg("label", label)))
		if err != nil {
			t.Fatal(err)
		}
		states := map[string]string{}
		for _, c := range all {
			states[c.ID] = c.State
			if c.Labels[testLabel] != t.Name() || len(c.Names) != 1 || !strings.HasPrefix(c.Names[0], "/") {
				t.Errorf("listed with labels %v, names %v", c.Labels, c.Names)
			}
		}
		return states
	}
	for _, label := range []string{testLabel + "=" + t.Name(), testLabel} {
		got := list(label)
		if got[created] != "created" || got[running] != "running" || got[exited] != "exited" {
			t.Errorf("list by %s: %v", label, got)
		}
	}
	if got := list(testLabel + "=other"); len(got) != 0 {
		t.Errorf("list by another value: %v", got)
	}
}

func contractUpdate(t *testing.T, s subject) {
	id := s.start(t, "sleep", "1000")
	if err := s.ContainerUpdate(t.Context(), id, container.UpdateConfig{Resources: container.Resources{CPUShares: 512}}); err != nil {
		t.Fatal(err)
	}
	r, err := s.ContainerInspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if r.HostConfig.CPUShares != 512 {
		t.Errorf("cpu shares %d after update to 512", r.HostConfig.CPUShares)
	}
}

func contractStats(t *testing.T, s subject) {
	id := s.start(t, "sleep", "1000")
	r, err := s.ContainerStats(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if time.Since(r.Read) > time.Minute || r.CPUStats.CPUUsage.TotalUsage == 0 || r.MemoryStats.Usage == 0 || len(r.MemoryStats.Stats) == 0 {
		t.Errorf("stats of a running container: %+v", r)
	}
	if err := s.ContainerKill(t.Context(), id, "SIGKILL"); err != nil {
		t.Fatal(err)
	}
	s.exited(t, id)
	_, err = s.ContainerStats(t.Context(), id)
	wantClass(t, "stats of an exited container", err, errdefs.IsNotFound)
	_, err = s.ContainerStats(t.Context(), strings.Repeat("0", 64))
	wantClass(t, "stats of no container", err, errdefs.IsNotFound)
}

func contractWait(t *testing.T, s subject) {
	id := s.create(t, "sleep", "1000")
	wantClass(t, "wait for a created one", s.ContainerWait(t.Context(), id), isNil)
	if err := s.ContainerStart(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := s.ContainerWait(ctx, id)
	wantClass(t, "wait for a running one", err, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) })
}

// contractEvents: which events Docker sends, in which order, with which
// attributes; and that a failed start sends none.
func contractEvents(t *testing.T, s subject) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got, errs := s.Events(ctx, filters.NewArgs(filters.Arg("label", testLabel+"="+t.Name()), filters.Arg("type", "container")))
	failed := s.create(t, "no-such-binary")
	if err := s.ContainerStart(ctx, failed); err == nil {
		t.Fatal("a start without executable succeeded")
	}
	if err := s.ContainerRemove(ctx, failed); err != nil {
		t.Fatal(err)
	}
	id := s.start(t, "sleep", "1000")
	if err := s.ContainerKill(ctx, id, "SIGKILL"); err != nil {
		t.Fatal(err)
	}
	s.exited(t, id)
	if err := s.ContainerRemove(ctx, id); err != nil {
		t.Fatal(err)
	}
	want := []string{"create " + failed, "destroy " + failed, "create " + id, "start " + id, "kill " + id, "die " + id, "destroy " + id}
	var seen []string
	for len(seen) < len(want) {
		select {
		case m := <-got:
			seen = append(seen, string(m.Action)+" "+m.Actor.ID)
			checkEvent(t, s, m)
		case err := <-errs:
			t.Fatal(err)
		case <-time.After(time.Minute):
			t.Fatalf("events: got %v, want %v", seen, want)
		}
	}
	if !slices.Equal(seen, want) {
		t.Errorf("events: got %v, want %v", seen, want)
	}
	cancel()
	select {
	case <-errs: //nolint:errcheck // that it ends is what counts
	case <-time.After(time.Minute):
		t.Error("the stream does not end with its context")
	}
}

func checkEvent(t *testing.T, s subject, m events.Message) {
	t.Helper()
	a := m.Actor.Attributes
	if m.Type != events.ContainerEventType || m.TimeNano == 0 || a["image"] != s.image || a["name"] == "" || a[testLabel] != t.Name() {
		t.Errorf("event %+v", m)
	}
	if code, ok := a["exitCode"]; ok != (m.Action == "die") || ok && code != "137" {
		t.Errorf("%s event with exit code %q", m.Action, code)
	}
	if sig, ok := a["signal"]; ok != (m.Action == "kill") || ok && sig != "9" {
		t.Errorf("%s event with signal %q", m.Action, sig)
	}
}
