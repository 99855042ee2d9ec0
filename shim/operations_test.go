package shim

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

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

// TestOperationsStartAsTheyEnd: calls arrive while the process is being ended.
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
