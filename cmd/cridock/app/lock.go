package app

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

// lockRoot locks the root directory for this process: two adapters with the same
// state would undo each other's work.
func lockRoot(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // a flag names the directory
	if err != nil {
		return nil, fmt.Errorf("root-directory: %w", err)
	}
	if err := lock(ctx, f, lockPatience); err != nil {
		return nil, errors.Join(fmt.Errorf("root-directory %s: another cridock uses it: %w", dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

const (
	// lockPatience is how long a lock may outlive its process: if a process is killed
	// while it starts a child, the child holds its locks until exec.
	lockPatience = 2 * time.Second
	// lockRetry is the pause between attempts.
	lockRetry = 50 * time.Millisecond
)

// lock takes an advisory lock, which is released when the process exits. It fails
// if the lock stays held for longer than patience.
func lock(ctx context.Context, f *os.File, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-time.After(lockRetry):
		case <-ctx.Done():
			return err
		}
	}
}

// engineData keeps two cridocks from serving the same engine, whatever their
// directories and sockets: a cridock holds a lock on the data directory of the
// engine it serves. The directory itself is locked, so there is nothing to clean
// up, and it is the same in every namespace and container that sees it. An engine
// whose data is not visible here, because it is on another machine or not mounted
// into cridock's container, is not protected.
type engineData struct {
	refuse context.CancelCauseFunc // ends the process

	mu    sync.Mutex
	dir   *os.File // nil: no lock is held
	taken error    // why the engine was refused; nil if it was not
}

// claim locks the engine with data in path, and releases the one before. It is
// called at each connect, as the engine may have changed. If another cridock holds
// the lock, claim ends this process.
func (d *engineData) claim(ctx context.Context, path string) error {
	dir, err := os.Open(path) //nolint:gosec // a flag names the directory
	if err != nil {
		klog.FromContext(ctx).Info("Cannot protect the engine from a second cridock: its data directory is not accessible here", "directory", path, "err", err)
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dir != nil && sameFile(d.dir, dir) {
		return dir.Close()
	}
	if err := lock(ctx, dir, lockPatience); err != nil {
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

// refused returns why the engine was refused; nil if it was not.
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
