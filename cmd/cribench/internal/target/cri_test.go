package target_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cridock/cridock/cmd/cribench/internal/fakecri"
	"github.com/cridock/cridock/cmd/cribench/internal/target"
)

func open(t *testing.T, endpoint, run string) *target.CRI {
	t.Helper()
	c, err := target.NewCRI("fake", endpoint, target.Options{Run: run, Image: "busybox"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestPodThroughCRI(t *testing.T) {
	server, endpoint := fakecri.Start(t)
	server.LogLines = 3
	c, ctx := open(t, endpoint, "r1"), t.Context()
	pod := target.Pod{Name: "p", LogDir: t.TempDir()}
	sandbox, err := c.RunSandbox(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.CreateContainer(ctx, pod, sandbox, 0, []string{"true"})
	if err != nil {
		t.Fatal(err)
	}
	log, err := c.OpenLog(pod, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	waited := make(chan error, 1)
	go func() { waited <- log.Wait(ctx, 3) }() // before the file is there
	if err := c.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if out, err := c.Exec(ctx, id, []string{"echo", "ok"}); err != nil || string(out) != "ok\n" {
		t.Errorf("exec: %q, %v", out, err)
	}
	if _, err := c.Exec(ctx, id, []string{"false"}); err == nil {
		t.Error("a command that fails is no error")
	}
	for _, read := range target.Reads[:5] {
		if n, err := c.Read(ctx, read, sandbox, id); n != 1 || err != nil {
			t.Errorf("%s: %d, %v", read, n, err)
		}
	}
	if _, err := c.Read(ctx, target.SandboxStats, sandbox, id); !errors.Is(err, target.ErrUnsupported) {
		t.Errorf("a method that is not there: %v, want ErrUnsupported", err)
	}
}

func TestCleanTakesOneRunOnly(t *testing.T) {
	server, endpoint := fakecri.Start(t)
	mine, other := open(t, endpoint, "mine"), open(t, endpoint, "other")
	for i, c := range []*target.CRI{mine, mine, other} {
		if _, err := c.RunSandbox(t.Context(), target.Pod{Name: string(rune('a' + i))}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := mine.Clean(t.Context(), "mine"); n != 2 || err != nil {
		t.Errorf("cleaned %d, %v, want 2", n, err)
	}
	if left := server.Sandboxes(); !slices.Equal(left, []string{"id3"}) {
		t.Errorf("left %v, want id3", left)
	}
	if n, err := mine.Clean(t.Context(), ""); n != 1 || err != nil {
		t.Errorf("cleaned %d, %v, want the last one", n, err)
	}
}

func TestCleanToleratesPodsThatGo(t *testing.T) {
	server, endpoint := fakecri.Start(t)
	c := open(t, endpoint, "r")
	if _, err := c.RunSandbox(t.Context(), target.Pod{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	server.SetHook(func(method string) error {
		if method == "StopPodSandbox" {
			return status.Error(codes.NotFound, "gone")
		}
		return nil
	})
	if _, err := c.Clean(t.Context(), "r"); err != nil {
		t.Error(err)
	}
}

func TestLogWaitEndsWithItsContext(t *testing.T) {
	_, endpoint := fakecri.Start(t)
	c := open(t, endpoint, "r")
	log, err := c.OpenLog(target.Pod{LogDir: t.TempDir()}, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ctx, cancel := contextThatEnds(t)
	defer cancel()
	if err := log.Wait(ctx, 1); !errors.Is(err, errEnded) {
		t.Errorf("got %v, want the context's cause", err)
	}
}

func TestLogBehindALinkIsFollowed(t *testing.T) {
	_, endpoint := fakecri.Start(t)
	c := open(t, endpoint, "r")
	pod := target.Pod{LogDir: t.TempDir()}
	real, err := os.Create(filepath.Join(t.TempDir(), "docker.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer real.Close()
	if err := os.Symlink(real.Name(), filepath.Join(pod.LogDir, "c0.log")); err != nil {
		t.Fatal(err)
	}
	log, err := c.OpenLog(pod, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for n := 1; n <= 3; n++ {
		waited := make(chan error, 1)
		go func() { waited <- log.Wait(t.Context(), n) }()
		if _, err := real.WriteString("line\n"); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-waited:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("line %d is not seen", n)
		}
	}
}

func TestEnsureImagePullsOnce(t *testing.T) {
	server, endpoint := fakecri.Start(t)
	c := open(t, endpoint, "r")
	for range 2 {
		if err := c.EnsureImage(t.Context(), "busybox"); err != nil {
			t.Fatal(err)
		}
	}
	pulls := slices.DeleteFunc(server.Calls(), func(m string) bool { return m != "PullImage" })
	if len(pulls) != 1 {
		t.Errorf("%d pulls, want 1", len(pulls))
	}
}

func TestEndpointsAreUnixPaths(t *testing.T) {
	for _, bad := range []string{"", "/run/x.sock", "tcp://1.2.3.4:5", "unix://", "unix://run/x.sock"} {
		if _, err := target.SocketPath(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if p, err := target.SocketPath("unix:///run/x.sock"); p != filepath.FromSlash("/run/x.sock") || err != nil {
		t.Errorf("got %q, %v", p, err)
	}
}
