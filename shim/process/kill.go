package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/backoff"
)

const (
	// killTimeout limits the time to kill an exec, startTimeout the wait for one
	// that Docker has not started yet: it may never do so.
	killTimeout  = 10 * time.Second
	startTimeout = 2 * time.Second
	// deathTimeout limits the wait for killed processes.
	deathTimeout = 2 * time.Second
	// maxSweeps limits how often a tree that grows while it is killed is searched.
	maxSweeps = 10
)

// kill kills the process of an exec and all its descendants. It also works after
// ctx has ended. No process to kill is success.
func (r *Runner) kill(ctx context.Context, containerID, execID string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.killTimeout)
	defer cancel()
	pid, err := r.pid(ctx, execID)
	if err != nil || pid == 0 {
		return err
	}
	n, err := killTree(pid, containerID, r.deathTimeout)
	if err != nil {
		return fmt.Errorf("kill the processes of an abandoned exec in container %s: %w", containerID, err)
	}
	klog.FromContext(ctx).V(2).Info("Killed the processes of an abandoned exec", "containerID", containerID, "processes", n)
	return nil
}

// pid returns the host PID of an exec's process, 0 if there was none; the process
// may have exited. It waits for a pending start: Docker answers a start request
// before it starts the process.
func (r *Runner) pid(ctx context.Context, execID string) (int, error) {
	began := time.Now()
	pause := backoff.Backoff{Min: minCheck, Max: 100 * time.Millisecond}
	for {
		info, err := r.engine.ExecInspect(ctx, execID)
		switch {
		case errdefs.IsNotFound(err):
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("kill an abandoned exec: %w", err)
		case info.Pid > 0:
			// Running is not checked: when dockerd cannot write to a client that has
			// left, it records exit code 126 for a process that is still running.
			return info.Pid, nil
		case !info.Running && info.ExitCode != 0:
			return 0, nil
		case !info.Running && time.Since(began) > startTimeout:
			return 0, nil
		}
		if err := pause.Wait(ctx, nil); err != nil {
			return 0, fmt.Errorf("an abandoned exec did not start: %w", err)
		}
	}
}

// killTree kills the process root, which must be the first one of an exec in
// the container, with its descendants and its whole session: runc gives each
// exec a session, so children whose parent has exited are found as well. It
// waits until they are gone, at most for the given time, and returns the number
// of processes killed.
func killTree(root int, containerID string, deathTimeout time.Duration) (int, error) {
	p, err := open(root)
	if err != nil || p == nil {
		return 0, err
	}
	tree := map[int]*proc{root: p}
	defer func() {
		for _, p := range tree {
			_ = unix.Close(p.fd)
		}
	}()
	// The PID may have been reused since Docker reported it.
	if groups, err := os.ReadFile(procPath(root, "cgroup")); err != nil || p.session != root || !bytes.Contains(groups, []byte(containerID)) {
		if p.exited() {
			return 0, nil // it has left its cgroup, if its parent has not waited for it either
		}
		return 0, fmt.Errorf("process %d: %w: not an exec of the container; does cridock run in Docker's PID namespace?",
			root, errdefs.ErrFailedPrecondition)
	}
	if err := p.signal(unix.SIGSTOP); err != nil {
		return 0, fmt.Errorf("stop process %d: %w", root, err)
	}
	for sweep := range maxSweeps {
		grown, err := grow(tree, root)
		if err == nil && !grown && sweep > 0 {
			return len(tree), awaitDeath(tree, deathTimeout)
		}
		if err = errors.Join(err, killAll(tree)); err != nil {
			return len(tree), err
		}
	}
	return len(tree), fmt.Errorf("process %d: %w: it starts children faster than they can be killed", root, errdefs.ErrAborted)
}

// proc is a process that cannot be confused with a later one that reuses its PID.
type proc struct {
	fd              int
	parent, session int
	killed          bool
}

// open opens a process, nil if there is none.
func open(pid int) (*proc, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	// Read after opening, so that a match is a match of the opened process.
	parent, session, err := relatives(pid)
	if err != nil {
		_ = unix.Close(fd)
		return nil, nil
	}
	return &proc{fd: fd, parent: parent, session: session}, nil
}

// relatives reads the parent and the session of a process (proc(5), stat).
func relatives(pid int) (parent, session int, err error) {
	stat, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return 0, 0, err
	}
	// The name, in parentheses, may contain anything.
	_, rest, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 4 {
		return 0, 0, fmt.Errorf("process %d: unexpected stat", pid)
	}
	parent, err = strconv.Atoi(fields[1])
	if err != nil {
		return 0, 0, err
	}
	session, err = strconv.Atoi(fields[3])
	return parent, session, err
}

func procPath(pid int, file string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), file)
}

// signal sends a signal; a process that has exited is success.
func (p *proc) signal(s unix.Signal) error {
	if err := unix.PidfdSendSignal(p.fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// exited reports whether the process has exited.
func (p *proc) exited() bool {
	ready := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}} //nolint:gosec // a file descriptor
	n, err := unix.Poll(ready, 0)
	return err == nil && n > 0
}

// grow adds processes that belong to a tree until it finds no more. It stops each
// one: a parent that exits or forks meanwhile would hide its children.
func grow(tree map[int]*proc, session int) (grown bool, err error) {
	for again := true; again; {
		again = false
		names, err := os.ReadDir("/proc")
		if err != nil {
			return grown, err
		}
		for _, name := range names {
			pid, err := strconv.Atoi(name.Name())
			if err != nil || tree[pid] != nil {
				continue
			}
			p, err := openMember(pid, tree, session)
			if err != nil {
				return grown, err
			}
			if p != nil {
				tree[pid] = p
				again, grown = true, true
			}
		}
	}
	return grown, nil
}

// openMember opens and stops a process if it belongs to a tree; else it returns
// nil.
func openMember(pid int, tree map[int]*proc, session int) (*proc, error) {
	// Checked before opening: most processes do not belong to the tree.
	if parent, s, err := relatives(pid); err != nil || tree[parent] == nil && s != session {
		return nil, nil
	}
	p, err := open(pid)
	if err != nil || p == nil {
		return nil, err
	}
	if tree[p.parent] == nil && p.session != session {
		_ = unix.Close(p.fd)
		return nil, nil
	}
	if err := p.signal(unix.SIGSTOP); err != nil {
		_ = unix.Close(p.fd)
		return nil, fmt.Errorf("stop process %d: %w", pid, err)
	}
	return p, nil
}

// killAll kills the processes that have not been killed yet.
func killAll(tree map[int]*proc) error {
	var errs []error
	for pid, p := range tree {
		if p.killed {
			continue
		}
		p.killed = true
		if err := p.signal(unix.SIGKILL); err != nil {
			errs = append(errs, fmt.Errorf("kill process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// awaitDeath waits until killed processes are gone, at most for the given time.
func awaitDeath(tree map[int]*proc, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for pid, p := range tree {
		for {
			ready := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}} //nolint:gosec // a file descriptor
			n, err := unix.Poll(ready, max(int(time.Until(deadline).Milliseconds()), 0))
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || n == 0 {
				return errors.Join(fmt.Errorf("process %d: %w: killed, but it does not exit", pid, errdefs.ErrUnavailable), err)
			}
			break
		}
	}
	return nil
}
