package podlogs_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/podlogs"
	"github.com/cridock/cridock/translate"
)

// record is a line of Docker's log; line is the same in the CRI format.
const (
	record = `{"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}` + "\n"
	line   = "2026-01-02T03:04:05.000000006Z stdout F hello\n"
)

// docker has its data in a directory and no logs in its API.
type docker struct{ root string }

func (d docker) Capabilities() *engine.Capabilities { return &engine.Capabilities{RootDir: d.root} }

func (d docker) ContainerLogs(context.Context, string, time.Time, bool) (io.ReadCloser, error) {
	return nil, errdefs.ErrUnavailable
}

// node is a directory with Docker's and the kubelet's directories.
type node struct {
	t          *testing.T
	dir        string
	logs       *podlogs.Logs
	containers []*translate.Container
}

func newNode(t *testing.T, change ...func(*podlogs.Options)) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir()}
	o := podlogs.Options{
		Dir: filepath.Join(n.dir, "pods"), MaxSize: "1m", Engine: docker{filepath.Join(n.dir, "docker")},
		Position:   func(id string) string { return filepath.Join(n.dir, "state", id) },
		Containers: func(context.Context) ([]*translate.Container, error) { return n.containers, nil },
	}
	for _, c := range change {
		c(&o)
	}
	n.logs = podlogs.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.logs.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return n
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// container creates a container for which Docker has logged one line.
func (n *node) container(id, logPath string) *translate.Container {
	n.t.Helper()
	dir := filepath.Join(n.dir, "docker", "containers", id)
	n.must(os.MkdirAll(dir, 0o755))
	n.must(os.WriteFile(filepath.Join(dir, id+"-json.log"), []byte(record), 0o600))
	if filepath.IsLocal(logPath) {
		logPath = filepath.Join(n.dir, "pods", logPath)
	}
	c := &translate.Container{
		ID: id, LogPath: logPath, LogDriver: "json-file", State: runtimeapi.ContainerState_CONTAINER_RUNNING,
		Config: &runtimeapi.ContainerConfig{LogPath: filepath.Base(logPath)},
	}
	n.containers = append(n.containers, c)
	return c
}

func (n *node) wantLog(path, want string) {
	n.t.Helper()
	if !filepath.IsAbs(path) {
		path = filepath.Join(n.dir, "pods", path)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		n.t.Errorf("%s holds %q, %v; want %q", path, b, err, want)
	}
}

// TestWhere: a log is below the pods' log directory, or where the kubelet has
// requested it; another adapter's label can name no other place.
func TestWhere(t *testing.T) {
	n := newNode(t)
	elsewhere := filepath.Join(t.TempDir(), "pod", "main.log")
	for _, c := range []*translate.Container{n.container("below", "pod/main/0.log"), n.container("elsewhere", elsewhere)} {
		n.must(n.logs.MakeDir(t.Context(), &runtimeapi.PodSandboxConfig{LogDirectory: filepath.Dir(c.LogPath)}))
		n.must(n.logs.Follow(c))
		n.must(n.logs.Follow(c))
		n.logs.Complete(t.Context(), c)
		n.wantLog(c.LogPath, line)
	}
	adopted := n.container("adopted", elsewhere)
	adopted.Config = nil
	if err := n.logs.Follow(adopted); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a label's path: %v, want ErrFailedPrecondition", err)
	}
	none := n.container("none", "pod/none.log")
	none.LogDriver = "none"
	n.must(n.logs.Follow(none))
	if f, err := n.logs.Open(none); f != nil || err != nil {
		t.Errorf("the log of a container without one: %v, %v", f, err)
	}
}

// TestLinkedDir: a log directory that is a link is not created, and does not
// make the sandbox fail.
func TestLinkedDir(t *testing.T) {
	n := newNode(t)
	outside := t.TempDir()
	n.must(os.MkdirAll(filepath.Join(n.dir, "pods"), 0o755))
	n.must(os.Symlink(outside, filepath.Join(n.dir, "pods", "pod")))
	n.must(n.logs.MakeDir(t.Context(), &runtimeapi.PodSandboxConfig{LogDirectory: filepath.Join(n.dir, "pods", "pod", "deeper")}))
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside: %v, %v", entries, err)
	}
	if err := n.logs.Follow(n.container("c", "pod/main.log")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a log there: %v, want ErrFailedPrecondition", err)
	}
}

// TestResume follows the logs of running containers, and no others.
func TestResume(t *testing.T) {
	n := newNode(t)
	running, exited, adopted := n.container("running", "running.log"), n.container("exited", "exited.log"), n.container("adopted", "")
	exited.State = runtimeapi.ContainerState_CONTAINER_EXITED
	adopted.Config, adopted.LogPath = nil, ""
	n.must(n.logs.Resume(t.Context()))
	n.logs.Complete(t.Context(), running)
	n.wantLog("running.log", line)
	if _, err := os.Stat(exited.LogPath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the log of an exited container: %v", err)
	}
	if got := n.logs.Stats().Containers; got != 1 {
		t.Errorf("%d logs are followed, want 1", got)
	}
}

// TestForget keeps the log and removes the position.
func TestForget(t *testing.T) {
	n := newNode(t)
	c := n.container("c", "main.log")
	n.must(n.logs.Follow(c))
	n.logs.Complete(t.Context(), c)
	n.logs.CompleteAgain(t.Context(), c.ID)
	for range 2 {
		n.must(n.logs.Forget(c))
	}
	n.logs.CompleteAgain(t.Context(), c.ID) // unknown by now
	n.wantLog("main.log", line)
	if _, err := os.Stat(filepath.Join(n.dir, "state", "c")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the position: %v, want it gone", err)
	}
}

// TestSymlinks: the log is a link to Docker's file, and is removed with the
// container.
func TestSymlinks(t *testing.T) {
	n := newNode(t, func(o *podlogs.Options) { o.Symlinks = true })
	c := n.container("c", "main.log")
	n.must(n.logs.MakeDir(t.Context(), &runtimeapi.PodSandboxConfig{LogDirectory: filepath.Dir(c.LogPath)}))
	n.must(n.logs.Follow(c))
	n.logs.Complete(t.Context(), c)
	n.wantLog("main.log", record)
	f, err := n.logs.Open(c)
	n.must(err)
	if b, err := io.ReadAll(f); string(b) != record || err != nil {
		t.Errorf("opened: %q, %v", b, err)
	}
	n.must(f.Close())
	if err := n.logs.Reopen(t.Context(), c); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Reopen: %v, want ErrFailedPrecondition", err)
	}
	n.must(n.logs.Forget(c))
	if _, err := os.Lstat(c.LogPath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the link: %v, want it gone", err)
	}
	c.LogPath = ""
	if err := n.logs.Reopen(t.Context(), c); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Reopen without a log: %v, want ErrFailedPrecondition", err)
	}
}
