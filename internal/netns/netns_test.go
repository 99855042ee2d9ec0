package netns_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/netns"
)

// newNetNS returns the path of a new network namespace.
func newNetNS(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes a network namespace")
	}
	made := make(chan *os.File)
	go func() {
		runtime.LockOSThread()
		defer close(made)
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
			return
		}
		// A thread that has not come back ends with the goroutine, except for the
		// process's first one, which would stand for the process in /proc/self.
		defer func() {
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			_ = home.Close()
		}()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
			return
		}
		made <- f
	}()
	f := <-made
	for range made { // closed when the thread has come back
	}
	if f == nil {
		t.FailNow()
	}
	t.Cleanup(func() { _ = f.Close() })
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(f.Fd())))
}

func same(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := os.Stat(a)
	if err != nil {
		return false // a thread that has exited
	}
	y, err := os.Stat(b)
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(x, y)
}

// TestDoComesBack: fn runs inside the namespace, and no thread stays there.
func TestDoComesBack(t *testing.T) {
	path := newNetNS(t)
	fail := errors.New("from inside")
	for range 50 {
		err := netns.DoAt(path, func() error {
			if links, err := net.Interfaces(); err != nil || len(links) == 0 || links[0].Name != "lo" {
				t.Errorf("interfaces inside: %v, %v", links, err)
			}
			if !same(t, "/proc/thread-self/ns/net", path) {
				t.Error("not inside the namespace")
			}
			return fail
		})
		if !errors.Is(err, fail) {
			t.Fatalf("DoAt = %v", err)
		}
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if same(t, task, path) {
			t.Errorf("thread %s stayed in the namespace", task)
		}
	}
}

func TestDoOnTheHost(t *testing.T) {
	err := netns.Do(nil, func() error {
		if !same(t, "/proc/thread-self/ns/net", "/proc/self/ns/net") {
			t.Error("in another namespace")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestOpen(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{plain, "/etc/passwd", "/proc/self/ns/mnt"} {
		if _, err := netns.Open(path); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Open(%s) = %v, want ErrFailedPrecondition", path, err)
		}
	}
	if _, err := netns.Open("/nowhere"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}
