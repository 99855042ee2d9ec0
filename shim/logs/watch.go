package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// watcher is one inotify instance for all containers. A watch fires once: a
// container that writes fast causes no events while it is being read, and an idle
// one costs nothing at all.
type watcher struct {
	events *os.File
	fd     int

	mu    sync.Mutex
	armed map[int32]*follower
}

// watched are the changes in a container's directory that can mean output: writes,
// and the renames of Docker's rotation.
const watched = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_ONLYDIR | unix.IN_ONESHOT

func newWatcher() (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	// Non-blocking, so that Go's poller waits for it and Close ends a Read.
	return &watcher{events: os.NewFile(uintptr(fd), "inotify"), fd: fd, armed: make(map[int32]*follower)}, nil
}

// arm sets a watch that reports the next change in dir for f. The lock is held
// across the system call, so an event is never looked up before its watch is known.
func (w *watcher) arm(dir string, f *follower) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	wd, err := unix.InotifyAddWatch(w.fd, dir, watched)
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	w.armed[int32(wd)] = f //nolint:gosec // the kernel numbers watches with 32 bits
	f.watch = int32(wd)    //nolint:gosec // the kernel numbers watches with 32 bits
	return nil
}

// disarm forgets f's watch, if it has one.
func (w *watcher) disarm(f *follower) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.armed[f.watch] != f {
		return
	}
	delete(w.armed, f.watch)
	// An error means that the watch has just fired.
	_, _ = unix.InotifyRmWatch(w.fd, uint32(f.watch)) //nolint:gosec // the kernel numbers watches with 32 bits
}

// run calls wake for each follower whose watch has fired, until close.
func (w *watcher) run(wake func(*follower)) error {
	buf := make([]byte, 16<<10)
	for {
		n, err := w.events.Read(buf)
		if errors.Is(err, fs.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read inotify events: %w", err)
		}
		for _, f := range w.fired(buf[:n]) {
			wake(f)
		}
	}
}

// fired returns the followers whose watches have fired, and all followers if the
// kernel dropped events.
func (w *watcher) fired(buf []byte) []*follower {
	w.mu.Lock()
	defer w.mu.Unlock()
	var woken []*follower
	for len(buf) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(buf)) //nolint:gosec // the kernel numbers watches with 32 bits
		mask := binary.NativeEndian.Uint32(buf[4:])
		name := binary.NativeEndian.Uint32(buf[12:])
		buf = buf[unix.SizeofInotifyEvent+name:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			for _, f := range w.armed {
				woken = append(woken, f)
			}
			clear(w.armed)
			continue
		}
		if f, ok := w.armed[wd]; ok {
			delete(w.armed, wd)
			woken = append(woken, f)
		}
	}
	return woken
}

func (w *watcher) close() { _ = w.events.Close() }
