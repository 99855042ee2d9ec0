// Package oom detects OOM kills in the control groups of running containers. The
// kernel's count there is exact, but it disappears with the group soon after the
// exit, so every change is read at once. Something else replaces a count that is gone:
// on cgroup v1 notifications, as a group is notified when it is out of memory, and once
// more when it is removed; on cgroup v2 the count of the pod's group.
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
	// The kernel reports an OOM before it kills, and delays some notifications:
	// after one, the count is read again, at intervals from firstLook to lastLook.
	firstLook, lastLook = time.Millisecond, 256 * time.Millisecond
	// removalDelay is how long after the removal of a group of cgroup v1 the kernel may
	// still have to notify of it.
	removalDelay = 200 * time.Millisecond
)

// Watcher watches control groups. Its methods are safe for concurrent use.
type Watcher struct {
	epoll *os.File

	mu        sync.Mutex
	groups    map[string]*group // by container ID
	events    map[int32]*group  // by the descriptor that signals notifications
	pods      map[string]*pod   // by UID
	podEvents map[int32]*pod    // by the descriptor of the count
	closing   bool
}

// group is the memory control group of one run of a container. Watcher's mutex
// guards it.
type group struct {
	counter  int  // descriptor of the count; -1 once it is closed
	notice   int  // eventfd on cgroup v1, else counter
	notified bool // v1: a notification arrived while the group existed: an OOM
	// gone is when the group was first seen removed, and since then unread is the number
	// of notifications: v1 only.
	gone    time.Time
	unread  uint64
	count   uint64
	killed  bool
	looking bool
	pod     *pod // nil if there is none
}

// New returns a Watcher, which uses one descriptor, plus one or two for each running
// container, plus one for each pod on cgroup v2. It starts nothing; see [Watcher.Run].
func New() (*Watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &Watcher{
		epoll:  os.NewFile(uintptr(fd), "epoll"),
		groups: map[string]*group{}, events: map[int32]*group{},
		pods: map[string]*pod{}, podEvents: map[int32]*pod{},
	}, nil
}

// CounterFile returns the name of the memory control group file that holds the
// kernel's count.
func CounterFile(v2 bool) string {
	if v2 {
		return counterV2
	}
	return counterV1
}

// Watch starts to watch the control group of a running container, given the name of
// its [CounterFile] below root, and forgets an earlier run of the container. podName is
// the name of that file of the pod with podUID, on cgroup v2 and if nothing but watched
// containers is below the pod's group; else "". A missing group is [os.ErrNotExist].
func (w *Watcher) Watch(containerID string, root beneath.Root, name, podUID, podName string) error {
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
	events := uint32(unix.EPOLLIN)
	if g.notice == g.counter {
		events = unix.EPOLLPRI
	}
	if err := w.signalLocked(g.notice, events); err != nil {
		g.close()
		return fmt.Errorf("watch for the OOM killer: %w", err)
	}
	w.groups[containerID], w.events[int32(g.notice)] = g, g //nolint:gosec // a file descriptor
	_ = g.read()                                            // earlier kills caused no notification
	if podName == "" {
		return nil
	}
	if p := w.joinLocked(g, podUID, root, podName); p != nil {
		if err := w.signalLocked(p.counter, unix.EPOLLPRI); err != nil {
			w.leaveLocked(g)
			return fmt.Errorf("watch a pod for the OOM killer: %w", err)
		}
	}
	return nil
}

// signalLocked has [Watcher.Run] see a descriptor's events.
func (w *Watcher) signalLocked(fd int, events uint32) error {
	return w.control(unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(fd)}) //nolint:gosec // a file descriptor
}

func open(root beneath.Root, name string) (*group, error) {
	counter, err := openCounter(root, name)
	if err != nil {
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

// register enables notifications on cgroup v1.
func register(root beneath.Root, dir string, g *group) error {
	f, err := root.OpenFile(path.Join(dir, "cgroup.event_control"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d %d", g.notice, g.counter)
	return errors.Join(err, f.Close())
}

// Killed reports whether the OOM killer has killed a process of a watched
// container. The answer remains available after the exit, until Forget. It may wait a
// moment for the notification of a group's removal.
func (w *Watcher) Killed(containerID string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		g := w.groups[containerID]
		if g == nil {
			return false
		}
		if g.look() {
			w.release(g)
			return g.killed
		}
		if g.gone.IsZero() {
			return g.killed
		}
		w.mu.Unlock()
		time.Sleep(firstLook)
		w.mu.Lock()
	}
}

// Claim takes note that the OOM killer has killed a process of a container that has
// exited, which may never have been watched. Without it the pod's count of that kill
// could be taken for the kill of another container. Only the first call counts.
func (w *Watcher) Claim(containerID, podUID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	g := w.groups[containerID]
	switch {
	case g == nil:
		w.groups[containerID] = &group{counter: -1, notice: -1, killed: true}
		w.pods[podUID].take()
	case g.counter >= 0:
		_ = g.look()
		g.killed = true
		w.release(g)
	}
}

// Forget stops watching a removed container; one that is not watched is success.
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

// release closes a group's descriptors and keeps what is known of it.
func (w *Watcher) release(g *group) {
	w.leaveLocked(g)
	if g.counter < 0 {
		return
	}
	delete(w.events, int32(g.notice))                //nolint:gosec // a file descriptor
	_ = w.control(unix.EPOLL_CTL_DEL, g.notice, nil) // closing would remove it as well
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

// look reads the count and reports whether it is final: a process was killed, or
// the group is gone. A pod's group is read to its end, as the pod counts each kill.
func (g *group) look() (done bool) {
	if g.counter < 0 {
		return true
	}
	switch err := g.read(); {
	case errors.Is(err, unix.EINTR):
		return false
	case err != nil: // ENODEV
		return g.lookGone()
	}
	return g.killed && g.pod == nil
}

// lookGone is look for a group that was removed. One notification alone may be that of an
// OOM, if that of the removal has yet to come.
func (g *group) lookGone() (done bool) {
	if g.gone.IsZero() {
		g.gone = time.Now()
	}
	g.unread += g.notices()
	g.killed = g.killed || g.notified || g.unread > 1 || g.pod.take()
	return g.killed || g.unread != 1 || time.Since(g.gone) > removalDelay
}

// read reads the count.
func (g *group) read() error {
	count, err := readCount(g.counter)
	if err != nil {
		return err
	}
	if g.pod != nil {
		g.pod.claimed += count - g.count
	}
	g.count, g.killed = count, g.killed || count > 0
	return nil
}

// readCount reads the number of kills.
func readCount(counter int) (uint64, error) {
	content := make([]byte, 512)
	n, err := unix.Pread(counter, content, 0)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(content[:n]) {
		if number, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
			return strconv.ParseUint(string(bytes.TrimSpace(number)), 10, 64)
		}
	}
	return 0, nil
}

// notices returns the number of unread notifications of cgroup v1; 0 on v2. The
// removal of the group causes one.
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

// Run reads notifications until ctx ends, then stops watching and returns nil. Call
// it once.
func (w *Watcher) Run(ctx context.Context) error {
	var looks sync.WaitGroup
	defer looks.Wait()
	defer w.end()
	stop := context.AfterFunc(ctx, func() { _ = w.epoll.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := w.epoll.SyscallConn()
	if err != nil {
		return fmt.Errorf("OOM notifications: %w", err)
	}
	events := make([]unix.EpollEvent, 128)
	for {
		n, err := wait(conn, events)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("OOM notifications: %w", err)
		}
		for _, e := range events[:n] {
			if g := w.noticed(e.Fd); g != nil {
				looks.Go(func() { w.follow(ctx, g) })
			}
		}
	}
}

// wait is epoll_wait without blocking a thread.
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

// noticed returns the group of a notification, or nil if it is being read already. A
// pod is read here: its kills are loose from the moment when they happen.
func (w *Watcher) noticed(fd int32) *group {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.podEvents[fd]; p != nil {
		p.update()
		return nil
	}
	g := w.events[fd]
	if g == nil || g.looking {
		return nil
	}
	g.looking = true
	return g
}

// follow rereads a group's count until it is final or the last pause is over.
func (w *Watcher) follow(ctx context.Context, g *group) {
	for pause := firstLook; ; pause *= 2 {
		w.mu.Lock()
		done := g.look()
		if done {
			w.release(g)
		} else if g.notice != g.counter && g.gone.IsZero() {
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
