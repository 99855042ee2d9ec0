package enginetest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/cridock/cridock/shim/engine"
)

// demultiplexed reads a stream to its end.
func demultiplexed(t *testing.T, r io.Reader) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, r); err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String()
}

func contractLogs(t *testing.T, s subject) {
	id := s.start(t, "sh", "-c", "echo one; echo two >&2")
	s.exited(t, id)
	for _, follow := range []bool{false, true} {
		r, err := s.ContainerLogs(t.Context(), id, time.Time{}, follow)
		if err != nil {
			t.Fatal(err)
		}
		stdout, stderr := demultiplexed(t, r)
		_ = r.Close()
		stamp, text, _ := strings.Cut(stdout, " ")
		if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil || text != "one\n" || !strings.HasSuffix(stderr, " two\n") {
			t.Errorf("log: stdout %q, stderr %q", stdout, stderr)
		}
	}
	r, err := s.ContainerLogs(t.Context(), id, time.Now().Add(time.Minute), false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if stdout, stderr := demultiplexed(t, r); stdout+stderr != "" {
		t.Errorf("log of the future: %q %q", stdout, stderr)
	}
}

func contractFile(t *testing.T, s subject) {
	id := s.create(t, "true")
	b, err := s.ContainerFile(t.Context(), id, "/etc/passwd", 1<<20)
	if err != nil || !strings.HasPrefix(string(b), "root:") {
		t.Errorf("/etc/passwd: %q, %v", b, err)
	}
	_, err = s.ContainerFile(t.Context(), id, "/etc/nothing", 1<<20)
	wantClass(t, "file that is not there", err, errdefs.IsNotFound)
	_, err = s.ContainerFile(t.Context(), id, "/etc/passwd", 3)
	wantClass(t, "file too long", err, errdefs.IsOutOfRange)
}

func contractAttach(t *testing.T, s subject) {
	id := s.createWith(t, &container.Config{Cmd: []string{"cat"}, OpenStdin: true, StdinOnce: true}, &container.HostConfig{})
	if err := s.ContainerStart(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	st, err := s.ContainerAttach(t.Context(), id, engine.AttachOptions{Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if _, err := io.WriteString(st, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if err := st.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if stdout, _ := demultiplexed(t, st); stdout != "hello\n" {
		t.Errorf("attached output %q", stdout)
	}
	if over := s.exited(t, id); over.ExitCode != 0 {
		t.Errorf("state after standard input ended: %+v", over)
	}
}

func contractExec(t *testing.T, s subject) {
	id := s.start(t, "sleep", "1000")
	exec, err := s.ExecCreate(t.Context(), id, container.ExecOptions{
		Cmd: []string{"sh", "-c", "cat; echo err >&2; exit 9"}, AttachStdin: true, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.ExecStart(t.Context(), exec, false, [2]uint{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	r := execState(t, s, exec, func(r container.ExecInspect) bool { return r.Running && r.Pid > 0 })
	if r.ContainerID != id || r.ExitCode != 0 {
		t.Errorf("running exec: %+v", r)
	}
	if _, err := io.WriteString(st, "in\n"); err != nil {
		t.Fatal(err)
	}
	if err := st.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if stdout, stderr := demultiplexed(t, st); stdout != "in\n" || stderr != "err\n" {
		t.Errorf("exec output %q %q", stdout, stderr)
	}
	if r := execState(t, s, exec, func(r container.ExecInspect) bool { return !r.Running }); r.ExitCode != 9 {
		t.Errorf("exec after its end: %+v", r)
	}
}

// execState inspects an exec until a condition holds: its process starts and exits
// slightly before or after its streams do.
func execState(t *testing.T, s subject, exec string, until func(container.ExecInspect) bool) container.ExecInspect {
	t.Helper()
	end := time.Now().Add(time.Minute)
	for {
		r, err := s.ExecInspect(t.Context(), exec)
		if err != nil {
			t.Fatal(err)
		}
		if until(r) {
			return r
		}
		if time.Now().After(end) {
			t.Fatalf("exec stays %+v", r)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func contractExecRefused(t *testing.T, s subject) {
	id := s.start(t, "sleep", "1000")
	exec, err := s.ExecCreate(t.Context(), id, container.ExecOptions{Cmd: []string{"true"}, AttachStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ContainerKill(t.Context(), id, "SIGKILL"); err != nil {
		t.Fatal(err)
	}
	s.exited(t, id)
	_, err = s.ExecStart(t.Context(), exec, false, [2]uint{})
	if err == nil {
		t.Error("an exec started in an exited container")
	}
	_, err = s.ExecCreate(t.Context(), id, container.ExecOptions{Cmd: []string{"true"}})
	wantClass(t, "exec in an exited container", err, errdefs.IsConflict)
}

func contractExecMissing(t *testing.T, s subject) {
	id := s.start(t, "sleep", "1000")
	exec, err := s.ExecCreate(t.Context(), id, container.ExecOptions{Cmd: []string{"no-such-binary"}, AttachStdout: true, AttachStderr: true})
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.ExecStart(t.Context(), exec, false, [2]uint{})
	if err != nil {
		t.Fatalf("the error of an exec is in its output and exit code, not %v", err)
	}
	defer st.Close()
	if out, err := io.ReadAll(st); err != nil || !strings.Contains(string(out), "no-such-binary") {
		t.Errorf("output %q, %v", out, err)
	}
	if r := execState(t, s, exec, func(r container.ExecInspect) bool { return !r.Running }); r.ExitCode != 127 && r.ExitCode != 126 {
		t.Errorf("exec after its failure: %+v", r)
	}
}

// archive returns what "docker save" writes for an image with one empty layer.
func archive(t *testing.T, tags ...string) io.Reader {
	t.Helper()
	var layer bytes.Buffer
	if err := tar.NewWriter(&layer).Close(); err != nil {
		t.Fatal(err)
	}
	// The digest of a tar file that consists of two empty blocks.
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","created":"2024-01-02T03:04:05Z","author":%q,"config":{"Cmd":["/nothing"],"User":"7","StopSignal":"SIGUSR1"},"rootfs":{"type":"layers","diff_ids":["sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"]}}`, t.Name())
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": tags, "Layers": []string{"layer.tar"}}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, content := range map[string]string{"config.json": config, "manifest.json": string(manifest), "layer.tar": layer.String()} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

func (s subject) load(t *testing.T, tags ...string) string {
	t.Helper()
	if err := s.ImageLoad(t.Context(), archive(t, tags...)); err != nil {
		t.Fatal(err)
	}
	r, err := s.ImageInspect(t.Context(), tags[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.ImageRemove(context.Background(), r.ID, true); err != nil && !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	})
	return r.ID
}

func contractImages(t *testing.T, s subject) {
	id := s.load(t, "cridock.test/loaded:1", "cridock.test/loaded:2")
	for _, ref := range []string{"cridock.test/loaded:2", id, strings.TrimPrefix(id, "sha256:"), strings.TrimPrefix(id, "sha256:")[:12]} {
		r, err := s.ImageInspect(t.Context(), ref)
		if err != nil || r.ID != id || r.Config == nil || r.Config.User != "7" || len(r.RepoTags) != 2 {
			t.Errorf("inspect %s: %+v, %v", ref, r, err)
		}
	}
	found := false
	list, err := s.ImageList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		found = found || i.ID == id && len(i.RepoTags) == 2
	}
	if !found {
		t.Errorf("%s is not listed", id)
	}
	if h, err := s.ImageHistory(t.Context(), id); err != nil {
		t.Errorf("history %v, %v", h, err)
	}
	wantClass(t, "untag", s.ImageRemove(t.Context(), "cridock.test/loaded:1", false), isNil)
	wantClass(t, "untag again", s.ImageRemove(t.Context(), "cridock.test/loaded:1", false), errdefs.IsNotFound)
	_, err = s.ImageInspect(t.Context(), id)
	wantClass(t, "inspect with one tag left", err, isNil)
	wantClass(t, "last tag", s.ImageRemove(t.Context(), "cridock.test/loaded:2", false), isNil)
	_, err = s.ImageInspect(t.Context(), id)
	wantClass(t, "inspect without tags", err, errdefs.IsNotFound)
}

func contractImageConflicts(t *testing.T, s subject) {
	id := s.load(t, "cridock.test/conflict:1", "cridock.test/other:2")
	wantClass(t, "remove by ID with two repositories", s.ImageRemove(t.Context(), id, false), errdefs.IsConflict)
	c, err := s.ContainerCreate(t.Context(), "", &container.Config{Image: id}, &container.HostConfig{NetworkMode: "none"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantClass(t, "untag one of two while used", s.ImageRemove(t.Context(), "cridock.test/other:2", false), isNil)
	wantClass(t, "last tag while used", s.ImageRemove(t.Context(), "cridock.test/conflict:1", false), errdefs.IsConflict)
	if err := s.ContainerRemove(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	wantClass(t, "forced", s.ImageRemove(t.Context(), id, true), isNil)
	used, err := s.ImageInspect(t.Context(), s.image)
	if err != nil {
		t.Fatal(err)
	}
	s.start(t, "sleep", "1000")
	wantClass(t, "forced while a container runs", s.ImageRemove(t.Context(), used.ID, true), errdefs.IsConflict)
}

func contractPullMissing(t *testing.T, s subject) {
	r, err := s.ImagePull(t.Context(), "127.0.0.1:1/no/image:1", registry.AuthConfig{})
	if err == nil {
		_ = r.Close()
		t.Error("a pull from nowhere began")
	}
	_, err = s.ImageInspect(t.Context(), "no.such/image:1")
	wantClass(t, "inspect of a missing image", err, errdefs.IsNotFound)
}
