// Package netns works inside the network namespaces of pods.
//
// The package ns of the CNI plugins does the same. This one keeps the class of
// errors (a namespace that is gone is fs.ErrNotExist) and checks the open file
// rather than its path, which may change in between.
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Open opens a network namespace. It rejects other files with
// errdefs.ErrFailedPrecondition: a pin whose mount is gone is a plain file.
func Open(path string) (*os.File, error) {
	f, err := os.Open(path) //nolint:gosec // checked below to be a network namespace
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		_ = f.Close()
		return nil, fmt.Errorf("%s is not a network namespace: %w", path, errdefs.ErrFailedPrecondition)
	}
	return f, nil
}

// Do calls fn in a network namespace, or directly if target is nil, and returns its
// error. The rest of the process stays in its own namespace; fn must do its work on
// the goroutine that calls it, must not end it, and must not start others.
func Do(target *os.File, fn func() error) error {
	if target == nil {
		return fn()
	}
	done := make(chan error, 1)
	go func() { done <- enter(target, fn) }()
	return <-done
}

// DoAt is Do in the namespace at a path.
func DoAt(path string, fn func() error) error {
	target, err := Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = target.Close() }()
	return Do(target, fn)
}

// DoInNew is Do in a new network namespace, which fn must keep: it disappears when
// nothing holds it.
func DoInNew(fn func() error) error {
	done := make(chan error, 1)
	create := func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		return nil
	}
	go func() { done <- away(fn, create) }()
	return <-done
}

func enter(target *os.File, fn func() error) error {
	return away(fn, func() error {
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", target.Name(), err)
		}
		return nil
	})
}

// away calls fn in the network namespace into which leave brings the thread. It must
// run on its own goroutine: if the thread cannot return to its namespace, it stays
// locked to that goroutine, and the Go runtime ends both.
func away(fn, leave func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer func() { _ = home.Close() }()
	if err := leave(); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = fn()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("return to the network namespace of cridock: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}
