// Package oom learns from the control groups of running containers which of them
// the kernel's OOM killer has hit. The kernel keeps an exact count there, but the
// count goes with the group, soon after the exit, so a change is read at once. On
// cgroup v1 the kernel's notices also tell what a count that is gone no longer
// can: a group is notified when it is out of memory, and once more when it is
// removed.
package oom

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
)

const (
	// counterV1 and counterV2 are the files with a line "oom_kill N".
	counterV1, counterV2 = "memory.oom_control", "memory.events"
	// The kernel tells of an OOM before it kills, and delays some notices: the
	// count is read again until lastLook after one.
	firstLook, lastLook = time.Millisecond, 256 * time.Millisecond
)

// Watcher watches control groups. Its methods are safe for concurrent use.
type Watcher struct {
	epoll *os.File

	mu      sync.Mutex
	groups  map[string]*group // by container ID
	events  map[int32]*group  // by the descriptor that has notices
	closing bool
}

// group is the memory control group of one run of a container. Watcher's mutex
// guards it.
type group struct {
	counter  int  // descriptor of the count; -1 once it is closed
	notice   int  // eventfd on cgroup v1, else counter
	notified bool // v1: there was a notice while the group was there, so of an OOM
	killed   bool
	looking  bool
}

// New makes a Watcher, which needs one descriptor, and one or two more for each
// running container. It starts nothing; see [Watcher.Run].
func New() (*Watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &Watcher{epoll: os.NewFile(uintptr(fd), "epoll"), groups: map[string]*group{}, events: map[int32]*group{}}, nil
}

// CounterFile is the file of a memory control group that has the kernel's count.
func CounterFile(v2 bool) string {
	if v2 {
		return counterV2
	}
	return counterV1
}

// Watch begins with the control group of a container that runs, by the name of
// its [CounterFile] below root; an earlier run of the container is forgotten. A
// group that is gone is [os.ErrNotExist].
func (w *Watcher) Watch(containerID string, root beneath.Root, name string) error {
	g, err := open(root, name)
	if err != nil {
		return fmt.Errorf("watch for the OOM killer: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(containerID)
	if w.closing {
		g.close()
		return nil
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(g.notice)} //nolint:gosec // a file descriptor
	if g.notice == g.counter {
		event.Events = unix.EPOLLPRI | unix.EPOLLET
	}
	if err := w.control(unix.EPOLL_CTL_ADD, g.notice, &event); err != nil {
		g.close()
		return fmt.Errorf("watch for the OOM killer: %w", err)
	}
	w.groups[containerID], w.events[int32(g.notice)] = g, g //nolint:gosec // a file descriptor
	g.look()                                                // what has happened until now had no notice
	return nil
}

func open(root beneath.Root, name string) (*group, error) {
	f, err := root.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	// A descriptor that Go's poller does not have.
	counter, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	g := &group{counter: counter, notice: counter}
	if path.Base(name) == counterV2 {
		return g, nil
	}
	if g.notice, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		g.notice = g.counter
		g.close()
		return nil, err
	}
	if err := register(root, path.Dir(name), g); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// register asks for notices on cgroup v1.
func register(root beneath.Root, dir string, g *group) error {
	f, err := root.OpenFile(path.Join(dir, "cgroup.event_control"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d %d", g.notice, g.counter)
	return errors.Join(err, f.Close())
}

// Killed tells whether the OOM killer has hit a process of a watched container.
// It stays so after the exit, until Forget.
func (w *Watcher) Killed(containerID string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.groups[containerID]
	if g == nil {
		return false
	}
	if g.look() {
		w.release(g)
	}
	return g.killed
}

// Forget ends the watch over a container that is gone; another one is success.
func (w *Watcher) Forget(containerID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(containerID)
}

func (w *Watcher) forget(containerID string) {
	if g := w.groups[containerID]; g != nil {
		delete(w.groups, containerID)
		w.release(g)
	}
}

// release closes a group's descriptors. What is known of it stays.
func (w *Watcher) release(g *group) {
	if g.counter < 0 {
		return
	}
	delete(w.events, int32(g.notice))                //nolint:gosec // a file descriptor
	_ = w.control(unix.EPOLL_CTL_DEL, g.notice, nil) // closing would do it as well
	g.close()
}

func (w *Watcher) control(op, fd int, event *unix.EpollEvent) error {
	conn, err := w.epoll.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := conn.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), op, fd, event) }); cerr != nil {
		return cerr
	}
	return err
}

func (g *group) close() {
	_ = unix.Close(g.counter)
	if g.notice != g.counter {
		_ = unix.Close(g.notice)
	}
	g.counter = -1
}

// look reads the count and tells whether there is no more to learn: the killer
// has come, or the group is gone.
func (g *group) look() (done bool) {
	if g.killed || g.counter < 0 {
		return true
	}
	content := make([]byte, 512)
	n, err := unix.Pread(g.counter, content, 0)
	if errors.Is(err, unix.EINTR) {
		return false
	}
	if err != nil { // ENODEV
		g.killed = g.notified || g.notices() > 1
		return true
	}
	for line := range bytes.Lines(content[:n]) {
		if number, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
			count, err := strconv.ParseUint(string(bytes.TrimSpace(number)), 10, 64)
			g.killed = err == nil && count > 0
		}
	}
	return g.killed
}

// notices counts those of cgroup v1 that nobody has read. The removal of the group
// makes one.
func (g *group) notices() uint64 {
	if g.notice == g.counter {
		return 0
	}
	var count [8]byte
	if n, err := unix.Read(g.notice, count[:]); err != nil || n != len(count) {
		return 0
	}
	return binary.NativeEndian.Uint64(count[:])
}

// Run reads notices until ctx ends; then it returns nil and watches nothing any
// more. It is called once.
func (w *Watcher) Run(ctx context.Context) error {
	var looks sync.WaitGroup
	defer looks.Wait()
	defer w.end()
	stop := context.AfterFunc(ctx, func() { _ = w.epoll.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := w.epoll.SyscallConn()
	if err != nil {
		return fmt.Errorf("notices of the OOM killer: %w", err)
	}
	events := make([]unix.EpollEvent, 128)
	for {
		n, err := wait(conn, events)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("notices of the OOM killer: %w", err)
		}
		for _, e := range events[:n] {
			if g := w.noticed(e.Fd); g != nil {
				looks.Go(func() { w.follow(ctx, g) })
			}
		}
	}
}

// wait is epoll_wait that occupies no thread.
func wait(conn syscall.RawConn, events []unix.EpollEvent) (n int, err error) {
	rerr := conn.Read(func(epoll uintptr) bool {
		n, err = unix.EpollWait(int(epoll), events, 0)
		if errors.Is(err, unix.EINTR) {
			n, err = 0, nil
		}
		return n > 0 || err != nil
	})
	return n, errors.Join(err, rerr)
}

// noticed returns the group of a notice, unless it is being looked at.
func (w *Watcher) noticed(fd int32) *group {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.events[fd]
	if g == nil || g.looking {
		return nil
	}
	g.looking = true
	return g
}

// follow reads the count of a group until it says something, or for a while.
func (w *Watcher) follow(ctx context.Context, g *group) {
	for pause := firstLook; ; pause *= 2 {
		w.mu.Lock()
		done := g.look()
		if done {
			w.release(g)
		} else if g.notice != g.counter {
			g.notified = true
		}
		g.looking = !done && pause <= lastLook
		again := g.looking
		w.mu.Unlock()
		if !again {
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

func (w *Watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closing = true
	for _, g := range w.groups {
		w.release(g)
	}
	_ = w.epoll.Close()
}
