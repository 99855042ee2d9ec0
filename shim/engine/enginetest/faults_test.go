package enginetest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/registry"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/engine/enginetest"
)

func newSubject(t *testing.T) (*enginetest.Server, subject) {
	t.Helper()
	d := enginetest.New(t)
	d.AddImage("busybox:1", enginetest.Image{})
	client, err := engine.New(d.Endpoint(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if _, err := client.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.ResetCalls()
	return d, subject{client, "busybox:1"}
}

func TestFaults(t *testing.T) {
	d, s := newSubject(t)
	ctx := t.Context()
	list := func() error {
		_, err := s.ContainerList(ctx, filters.Args{})
		return err
	}
	d.FailNext("container list", 2, 503, "not now")
	wantClass(t, "first list", list(), isNil)
	wantClass(t, "second list", list(), func(err error) bool { return err != nil && strings.Contains(err.Error(), "not now") })
	wantClass(t, "third list", list(), isNil)
	if n := d.Calls()["container list"]; n != 3 {
		t.Errorf("%d lists counted", n)
	}
	d.HangNext("container list", 1)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err := s.ContainerList(short, filters.Args{})
	wantClass(t, "hanging list", err, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) })

	// POST requests are not repeated by the HTTP client.
	d.DropNext("container create", 1)
	_, err = s.ContainerCreate(ctx, "c", &container.Config{Image: "busybox:1"}, &container.HostConfig{}, nil)
	wantClass(t, "dropped create", err, errdefs.IsUnavailable)
	if got := d.Containers(); len(got) != 0 {
		t.Errorf("containers after a dropped create: %v", got)
	}
	d.LoseAnswer("container create", 1)
	_, err = s.ContainerCreate(ctx, "c", &container.Config{Image: "busybox:1"}, &container.HostConfig{}, nil)
	wantClass(t, "create without an answer", err, errdefs.IsUnavailable)
	if got := d.Containers(); len(got) != 1 {
		t.Errorf("containers after a create without an answer: %v", got)
	}
}

func TestStopAndStart(t *testing.T) {
	d, s := newSubject(t)
	id := s.start(t, "pause")
	d.Stop()
	wantClass(t, "ping of a stopped engine", s.Ping(t.Context()), errdefs.IsUnavailable)
	d.SetAPIVersion("1.45")
	d.Start()
	caps, err := s.Refresh(t.Context())
	if err != nil || caps.APIVersion != "1.45" {
		t.Fatalf("after the upgrade: %+v, %v", caps, err)
	}
	if st := s.state(t, id); !st.Running {
		t.Errorf("container after a restart: %+v", st)
	}
	if err := s.ContainerKill(t.Context(), id, "TERM"); err != nil {
		t.Fatal(err)
	}
	if st := s.exited(t, id); st.ExitCode != 0 {
		t.Errorf("pause after SIGTERM: %+v", st)
	}
}

func TestOOM(t *testing.T) {
	d, s := newSubject(t)
	id := s.start(t, "sleep", "1000")
	d.OOM(id)
	if st := s.exited(t, id); st.ExitCode != 137 || !st.OOMKilled {
		t.Errorf("state %+v", st)
	}
}

func TestPull(t *testing.T) {
	d, s := newSubject(t)
	digest := "sha256:" + strings.Repeat("ab", 32)
	var auth string
	d.Publish("registry.test/app:1", enginetest.Image{Digests: []string{"registry.test/app@" + digest}, Pull: func(_ context.Context, progress func(string), a string) error {
		progress("Extracting")
		auth = a
		return nil
	}})
	d.Publish("registry.test/broken:1", enginetest.Image{Pull: func(context.Context, func(string), string) error { return errors.New("disk full") }})
	pull := func(ref string) string {
		t.Helper()
		r, err := s.ImagePull(t.Context(), ref, registry.AuthConfig{Username: "me"})
		if err != nil {
			return err.Error()
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		return fmt.Sprint(string(b), err)
	}
	if out := pull("registry.test/app:1"); !strings.Contains(out, "Extracting") || !strings.Contains(out, "Digest: "+digest) || !strings.Contains(auth, `"username":"me"`) {
		t.Errorf("pull: %s, auth %s", out, auth)
	}
	for _, ref := range []string{"registry.test/app:1", "registry.test/app@" + digest} {
		if r, err := s.ImageInspect(t.Context(), ref); err != nil || len(r.RepoTags) != 1 || len(r.RepoDigests) != 1 {
			t.Errorf("%s: %+v, %v", ref, r, err)
		}
	}
	if out := pull("registry.test/broken:1"); !strings.Contains(out, `"errorDetail":{"message":"disk full"}`) {
		t.Errorf("broken pull: %s", out)
	}
	if out := pull("registry.test/none:1"); !strings.Contains(out, "manifest unknown") {
		t.Errorf("pull of what is not there: %s", out)
	}
}

func TestExecOutlivesItsClient(t *testing.T) {
	d, s := newSubject(t)
	id := s.start(t, "pause")
	exec, err := s.ExecCreate(t.Context(), id, container.ExecOptions{Cmd: []string{"sleep", "9"}, AttachStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.ExecStart(t.Context(), exec, false, [2]uint{})
	if err != nil {
		t.Fatal(err)
	}
	execState(t, s, exec, func(r container.ExecInspect) bool { return r.Running })
	_ = st.Close()
	if r, err := s.ExecInspect(t.Context(), exec); err != nil || !r.Running {
		t.Errorf("after its client has gone: %+v, %v", r, err)
	}
	if n := d.KillExecs(); n != 1 {
		t.Errorf("%d execs killed", n)
	}
	execState(t, s, exec, func(r container.ExecInspect) bool { return !r.Running && r.ExitCode == 137 })
}
