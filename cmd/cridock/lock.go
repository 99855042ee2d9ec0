package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// lockRoot takes the root directory for this process alone: two adapters on one
// state would undo each other's work.
func lockRoot(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // a flag names the directory
	if err != nil {
		return nil, fmt.Errorf("root-directory: %w", err)
	}
	if err := lock(ctx, f); err != nil {
		return nil, errors.Join(fmt.Errorf("root-directory %s: another cridock uses it: %w", dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// lockPatience is how long a lock may outlive its process: one that was killed
// just as it started another process shares its locks with that until it has begun.
const lockPatience = 2 * time.Second

// lock takes an advisory lock that ends with the process, or fails soon.
func lock(ctx context.Context, f *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-time.After(lockPatience / 40):
		case <-ctx.Done():
			return err
		}
	}
}

// engineData keeps two cridocks off one engine, whatever directories and
// sockets they were given: whoever serves an engine holds a lock on the
// directory of that engine's data. The directory itself is locked, so there is
// nothing to clean up, and it is the same one in every namespace and container
// that sees it. An engine whose data cannot be seen from here, because it is
// another machine's or not mounted into cridock's container, is not guarded.
type engineData struct {
	refuse context.CancelCauseFunc // ends the process

	mu    sync.Mutex
	dir   *os.File // nil: no lock is held
	taken error    // why the engine was refused
}

// claim takes the engine whose data is in a directory, in place of the one
// before. It is called at each connect, as the engine may be another one. One
// that is taken ends this process.
func (d *engineData) claim(ctx context.Context, path string) error {
	dir, err := os.Open(path) //nolint:gosec // a flag names the directory
	if err != nil {
		klog.FromContext(ctx).Info("Nothing keeps another cridock off this engine: its data is not visible here", "directory", path, "err", err)
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dir != nil && sameFile(d.dir, dir) {
		return dir.Close()
	}
	if err := lock(ctx, dir); err != nil {
		d.taken = fmt.Errorf("docker engine with data in %s: another cridock serves it; stop that or choose another docker-endpoint: %w", path, err)
		d.refuse(d.taken)
		return errors.Join(d.taken, dir.Close())
	}
	if d.dir != nil {
		_ = d.dir.Close()
	}
	d.dir = dir
	return nil
}

func sameFile(a, b *os.File) bool {
	x, errX := a.Stat()
	y, errY := b.Stat()
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// refused is why the engine could not be had; nil if it could.
func (d *engineData) refused() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.taken
}

func (d *engineData) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dir != nil {
		_ = d.dir.Close()
	}
}
