package keylock

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestLock(t *testing.T) {
	var l Lock
	ctx := t.Context()
	unlock, err := l.Lock(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Lock(ctx, "b")
	if err != nil {
		t.Fatalf("another key is locked as well: %v", err)
	}
	other()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := l.Lock(ended, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting with an ended context: %v, want cancelled", err)
	}
	unlock()
	unlock() // a second call must not free another caller's lock
	again, err := l.Lock(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	again()
	if n := len(l.held); n != 0 {
		t.Errorf("%d keys are kept that nobody holds", n)
	}
}

func TestLockExcludes(t *testing.T) {
	var l Lock
	var wg sync.WaitGroup
	counter := 0 // the race detector watches this
	for range 50 {
		wg.Go(func() {
			unlock, err := l.Lock(t.Context(), "k")
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			counter++
		})
	}
	wg.Wait()
	if counter != 50 {
		t.Errorf("counter = %d, want 50", counter)
	}
}
