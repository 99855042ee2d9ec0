package shim

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestOperations(t *testing.T) {
	var o operations
	first, nested, waited := make(chan struct{}), make(chan error, 1), make(chan struct{})
	if err := o.start(func() {
		<-first
		nested <- o.start(func() {})
	}); err != nil {
		t.Fatal(err)
	}
	go func() {
		o.wait()
		close(waited)
	}()
	for ending := false; !ending; {
		o.mu.Lock()
		ending = o.ended != nil
		o.mu.Unlock()
	}
	select {
	case <-waited:
		t.Fatal("an operation runs, and is not waited for")
	default:
	}
	close(first)
	if err := <-nested; err != nil {
		t.Errorf("what an operation starts while it is waited for: %v", err)
	}
	<-waited
	if err := o.start(func() { t.Error("it runs after the end") }); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("a start after the end: %v, want unavailable", err)
	}
}

// TestOperationsStartAsTheyEnd: calls arrive while the process is shutting
// down.
func TestOperationsStartAsTheyEnd(t *testing.T) {
	for range 100 {
		var o operations
		var callers sync.WaitGroup
		var running atomic.Int32
		for range 4 {
			callers.Go(func() {
				for range 20 {
					_ = o.start(func() { running.Add(1); running.Add(-1) }) // refused once it is too late
				}
			})
		}
		o.wait()
		if n := running.Load(); n != 0 {
			t.Fatalf("%d operations run after the end", n)
		}
		callers.Wait()
	}
}

// TestOperationsRun: a background operation reports its end, and a panic is an
// error; a refused operation reports nothing.
func TestOperationsRun(t *testing.T) {
	var o operations
	broken := errors.New("broken")
	for name, tc := range map[string]struct {
		op   func() error
		want func(error) bool
	}{
		"success": {func() error { return nil }, func(err error) bool { return err == nil }},
		"error":   {func() error { return broken }, func(err error) bool { return errors.Is(err, broken) }},
		"panic":   {func() error { panic("a bug") }, errdefs.IsInternal},
	} {
		done := make(chan error, 1)
		if err := o.run(t.Context(), tc.op, func(err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !tc.want(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o.wait()
	err := o.run(t.Context(), func() error { t.Error("it runs after the end"); return nil }, func(error) { t.Error("it reports an end") })
	if !errdefs.IsUnavailable(err) {
		t.Errorf("a run after the end: %v, want unavailable", err)
	}
}

// TestWithLockFreesLock: the lock is free after an operation, however it ends,
// and if none could start because cridock is shutting down.
func TestWithLockFreesLock(t *testing.T) {
	s := &Service{metrics: NewMetrics()}
	free := func(after string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		unlock, err := s.locks.Lock(ctx, "pod")
		if err != nil {
			t.Fatalf("after %s the key is still locked: %v", after, err)
		}
		unlock()
	}
	got, err := withLock(t.Context(), s, "pod", func(context.Context) (string, error) { return "id", nil })
	if got != "id" || err != nil {
		t.Errorf("withLock = %q, %v; want id", got, err)
	}
	free("an operation")
	if _, err := withLock(t.Context(), s, "pod", func(context.Context) (string, error) { panic("a bug") }); !errdefs.IsInternal(err) {
		t.Errorf("a panic: %v, want internal", err)
	}
	free("a panic")

	ctx, cancel := context.WithCancel(t.Context())
	running, finish := make(chan struct{}), make(chan struct{})
	go func() {
		<-running
		cancel()
	}()
	_, err = withLock(ctx, s, "pod", func(ctx context.Context) (string, error) {
		close(running)
		<-finish
		return "late", ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the caller left: %v, want canceled", err)
	}
	close(finish)
	s.work.wait()
	free("an operation whose caller left")

	_, err = withLock(t.Context(), s, "pod", func(context.Context) (string, error) {
		t.Error("the operation runs")
		return "", nil
	})
	if !errdefs.IsUnavailable(err) {
		t.Errorf("during the shutdown: %v, want unavailable", err)
	}
	free("a refusal")
}
