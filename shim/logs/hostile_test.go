package logs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
)

// precious is a file next to the log directory that a pod wants cridock to write to.
func (n *node) precious() string {
	path := filepath.Join(filepath.Dir(string(n.src.CRIRoot)), "precious")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		must(os.WriteFile(path, []byte("precious\ntorn"), 0o600))
	}
	return path
}

func (n *node) checkPrecious() {
	n.tb.Helper()
	if b, err := os.ReadFile(n.precious()); string(b) != "precious\ntorn" || err != nil {
		n.tb.Errorf("the file outside holds %q, %v", b, err)
	}
	if names, err := beneath.Root(filepath.Dir(n.precious())).Names("."); err != nil || len(names) > 4 {
		n.tb.Errorf("outside there are %q, %v", names, err)
	}
}

// traps are what a pod that can write to its log directory may put in place of the
// log.
var traps = map[string]func(n *node){
	"hard link": func(n *node) { must(os.Link(n.precious(), n.criPath())) },
	"FIFO":      func(n *node) { must(unix.Mkfifo(n.criPath(), 0o600)) },
	"directory": func(n *node) { must(os.Mkdir(n.criPath(), 0o700)) },
	"link above": func(n *node) {
		must(os.Remove(filepath.Dir(n.criPath())))
		must(os.Symlink("..", filepath.Dir(n.criPath())))
	},
	"dangling link above": func(n *node) {
		must(os.Remove(filepath.Dir(n.criPath())))
		must(os.Symlink("../new", filepath.Dir(n.criPath())))
	},
}

// useAPI sets up an exited container with numbered lines that only the API has.
func (n *node) useAPI(from, to int) *fakeAPI {
	a := newFakeAPI()
	for i := from; i < to; i++ {
		a.add(time.Now(), stdout, "line "+strconv.Itoa(i)+"\n")
	}
	a.exited = true
	n.src.DockerLog, n.src.Follow = "", a.follow
	return a
}

// TestTraps: whatever its source, the log is refused with a reason, the container's
// exit does not wait, and the log is complete once the trap is gone.
func TestTraps(t *testing.T) {
	for what, set := range traps {
		for _, source := range []string{"files", "API"} {
			t.Run(what+"/"+source, func(t *testing.T) {
				n := newNode(t, 0, 0)
				n.precious()
				must(os.MkdirAll(filepath.Dir(n.criPath()), 0o755))
				set(n)
				n.numbered(0, 10)
				if source == "API" {
					n.useAPI(0, 10)
				}
				tailer := New(Options{})
				run(t, tailer)
				if err := tailer.Start(n.src); !beneath.IsRefused(err) || !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), filepath.Dir(n.criPath())) {
					t.Errorf("Start: %v, want the path refused", err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := tailer.Drain(ctx, n.src.ID); !beneath.IsRefused(err) || ctx.Err() != nil {
					t.Errorf("Drain: %v, want the path refused at once", err)
				}
				n.checkPrecious()
				if info, _ := os.Lstat(filepath.Dir(n.criPath())); info.Mode()&os.ModeSymlink != 0 {
					must(os.Remove(filepath.Dir(n.criPath())))
				} else {
					must(os.RemoveAll(n.criPath()))
				}
				n.drain(tailer)
				n.wantNumbered(10)
			})
		}
	}
}

// TestTrapsLater sets traps for what happens while a log is written: its rotation,
// its removal, and a start after a kill.
func TestTrapsLater(t *testing.T) {
	for what, set := range traps {
		t.Run(what, func(t *testing.T) {
			n := newNode(t, 0, 0)
			n.precious()
			n.numbered(0, 10)
			tailer := New(Options{})
			n.start(tailer)
			stop := run(t, tailer)
			n.drain(tailer)
			n.start(tailer)
			aside := n.criPath() + ".20240506-070809"
			must(os.Rename(n.criPath(), aside))
			if strings.HasSuffix(what, "above") {
				aside = string(n.src.CRIRoot) + "/aside"
				must(os.Rename(filepath.Dir(n.criPath()), aside))
				must(os.Mkdir(filepath.Dir(n.criPath()), 0o755))
			}
			set(n)
			if err := tailer.Reopen(t.Context(), n.src.ID); !beneath.IsRefused(err) {
				t.Errorf("Reopen: %v, want the path refused", err)
			}
			n.numbered(10, 20)
			must(os.RemoveAll(aside)) // the log no longer has a name
			n.numbered(20, 30)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := tailer.Drain(ctx, n.src.ID); !beneath.IsRefused(err) || ctx.Err() != nil {
				t.Errorf("Drain: %v, want the path refused at once", err)
			}
			stop()
			tailer = New(Options{})
			if err := tailer.Start(n.src); !beneath.IsRefused(err) {
				t.Errorf("Start: %v, want the path refused", err)
			}
			must(tailer.Remove(n.src.ID, n.src.Position))
			n.checkPrecious()
		})
	}
}

// TestTrapForStream: the same holds for a container whose stream is already open.
func TestTrapForStream(t *testing.T) {
	n := newNode(t, 0, 0)
	n.precious()
	a := n.useAPI(0, 10)
	a.exited = false
	tailer := New(fastRetry)
	run(t, tailer)
	n.start(tailer)
	n.eventuallyHas("line 9")
	must(os.Remove(n.criPath()))
	traps["hard link"](n)
	for i := 10; i < 20; i++ {
		a.add(time.Now(), stdout, "line "+strconv.Itoa(i)+"\n")
	}
	a.update(func() { a.exited = true })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := tailer.Drain(ctx, n.src.ID); !beneath.IsRefused(err) || ctx.Err() != nil {
		t.Errorf("Drain: %v, want the path refused at once", err)
	}
	n.checkPrecious()
	must(os.Remove(n.criPath()))
	n.drain(tailer)
	if got := texts(n.cri()); len(got) != 10 || got[0] != "line 10" || got[9] != "line 19" {
		t.Errorf("once the trap is gone the log has %q", got)
	}
}

// TestRacedLog: a log that is followed, rotated and linked while a pod swaps its
// directory and its file for links never reaches what is outside.
func TestRacedLog(t *testing.T) {
	n := newNode(t, 0, 0)
	must(os.MkdirAll(filepath.Dir(n.criPath()), 0o755))
	root := string(n.src.CRIRoot)
	must(os.Mkdir(filepath.Join(root, "aside"), 0o755))
	outside := filepath.Join(filepath.Dir(root), "outside")
	must(os.Mkdir(outside, 0o755))
	for _, name := range []string{"0.log", "0.log.tmp"} {
		must(os.WriteFile(filepath.Join(outside, name), []byte("precious\ntorn"), 0o600))
	}
	must(os.Symlink("../outside", filepath.Join(root, "bait")))
	stop := make(chan struct{})
	var attack sync.WaitGroup
	attack.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(root, "pod"), unix.AT_FDCWD, filepath.Join(root, "bait"), unix.RENAME_EXCHANGE)
			}
		}
	})
	opened, refused := 0, 0
	for end := time.Now().Add(time.Minute); (opened < 50 || refused < 50) && time.Now().Before(end); {
		n.numbered(0, 10)
		tailer := New(Options{})
		err := tailer.Start(n.src)
		switch {
		case err == nil:
			opened++
		case beneath.IsRefused(err):
			refused++
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_ = tailer.Drain(ctx, n.src.ID)
		cancel()
		_ = tailer.Reopen(t.Context(), n.src.ID)
		_ = Symlink(n.src.DockerLog, n.src.CRIRoot, n.src.CRILog)
		_ = tailer.Remove(n.src.ID, n.src.Position)
	}
	close(stop)
	attack.Wait()
	if opened == 0 || refused == 0 {
		t.Errorf("opened %d times and refused %d times: no race", opened, refused)
	}
	names, err := beneath.Root(outside).Names(".")
	if err != nil || len(names) != 2 {
		t.Errorf("outside there are %q, %v", names, err)
	}
	for _, name := range names {
		if b, err := os.ReadFile(filepath.Join(outside, name)); string(b) != "precious\ntorn" || err != nil {
			t.Errorf("%s outside holds %q, %v", name, b, err)
		}
	}
}
