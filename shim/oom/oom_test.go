package oom

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/internal/needs"
)

// newGroup creates a cgroup v1 control group with a limit, or skips the test.
func newGroup(t *testing.T, name string) string {
	t.Helper()
	membership, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	own := ""
	for line := range strings.Lines(string(membership)) {
		if _, path, ok := strings.Cut(strings.TrimSpace(line), ":memory:"); ok {
			own = path
		}
	}
	if own == "" {
		v2, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		needs.That(t, err == nil && slices.Contains(strings.Fields(string(v2)), "memory"), "no memory controller, of v1 or v2")
		t.Skip("the test makes groups of cgroup v1's memory controller, which this machine does not have")
	}
	needs.Root(t, "makes control groups")
	dir := filepath.Join("/sys/fs/cgroup/memory", own, fmt.Sprintf("cridock-oom-%d-%s", os.Getpid(), name))
	err = os.Mkdir(dir, 0o755)
	needs.That(t, err == nil, "no control group can be made: %v", err)
	t.Cleanup(func() { _ = os.Remove(dir) })
	if err := os.WriteFile(filepath.Join(dir, "memory.limit_in_bytes"), []byte("8388608"), 0); err != nil {
		t.Fatal(err)
	}
	return dir
}

// run runs a shell script in a group, which is removed right afterwards.
func run(dir, script string) {
	_ = exec.Command("sh", "-c", "echo $$ >"+dir+"/cgroup.procs && "+script).Run()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if err := os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(50 * time.Microsecond) // leave others a processor
	}
}

// overLimit buffers a line that is longer than the group's memory.
const overLimit = "head -c 100000000 /dev/zero | tail >/dev/null"

func newWatcher(t *testing.T) *Watcher {
	t.Helper()
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

// TestWatcher: many groups are removed right after the exit; all OOM kills in them
// are detected.
func TestWatcher(t *testing.T) {
	w := newWatcher(t)
	var runs sync.WaitGroup
	const each = 16
	for i := range 2 * each {
		id := fmt.Sprint(i)
		dir := newGroup(t, id)
		if err := w.Watch(id, beneath.Root(dir), CounterFile(false), "", ""); err != nil {
			t.Fatal(err)
		}
		runs.Go(func() {
			if i < each {
				run(dir, overLimit)
			} else {
				run(dir, "kill -9 $$")
			}
		})
	}
	runs.Wait()
	for i := range 2 * each {
		if got, want := w.Killed(fmt.Sprint(i)), i < each; got != want {
			t.Errorf("group %d: killed %v, want %v", i, got, want)
		}
	}
	w.Forget("0")
	if w.Killed("0") || w.Killed("never watched") {
		t.Error("what is not watched was killed")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.events); n != 0 {
		t.Errorf("%d descriptors are open", n)
	}
}

func TestWatchOfNothing(t *testing.T) {
	w := newWatcher(t)
	for _, v2 := range []bool{false, true} {
		if err := w.Watch("a", beneath.Root(t.TempDir()), CounterFile(v2), "", ""); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("v2 %v: %v, want that it does not exist", v2, err)
		}
	}
}

// TestRemovalNotifiedLate: the group of cgroup v1 is gone with one notification unread.
// It is that of an OOM if one more comes, which is that of the removal.
func TestRemovalNotifiedLate(t *testing.T) {
	for _, tc := range []struct {
		name        string
		before, now int // notifications
		want        bool
	}{
		{"no OOM, removal not notified of", 0, 0, false},
		{"no OOM", 1, 0, false},
		{"OOM", 2, 0, true},
		{"OOM, removal notified of late", 1, 1, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWatcher(t)
			notice, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
			if err != nil {
				t.Fatal(err)
			}
			gone, err := unix.Eventfd(0, unix.EFD_CLOEXEC) // it has no position to read at
			if err != nil {
				t.Fatal(err)
			}
			notify := func() {
				one := binary.NativeEndian.AppendUint64(nil, 1)
				if _, err := unix.Write(notice, one); err != nil {
					t.Error(err)
				}
			}
			g := &group{counter: gone, notice: notice}
			w.mu.Lock()
			w.groups["a"], w.events[int32(notice)] = g, g
			for range tc.before {
				notify()
			}
			if g.look() {
				w.release(g)
			}
			for range tc.now {
				notify()
			}
			w.mu.Unlock()
			if got := w.Killed("a"); got != tc.want {
				t.Errorf("killed %v, want %v", got, tc.want)
			}
		})
	}
}
