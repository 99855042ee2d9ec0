// Package keylock has one lock per key. It starts no goroutine and does no I/O.
package keylock

import (
	"context"
	"sync"
)

// Lock is one lock per key. A key that nobody holds or waits for uses no memory.
// The zero value is ready.
type Lock struct {
	mu   sync.Mutex
	held map[string]*holder
}

type holder struct {
	users int           // holder and waiters
	slot  chan struct{} // holds one token while the key is locked
}

// Lock waits for the key and returns the function that releases it; only its first
// call has an effect. If ctx ends first, Lock returns the cause.
func (l *Lock) Lock(ctx context.Context, key string) (unlock func(), err error) {
	l.mu.Lock()
	h, ok := l.held[key]
	if !ok {
		if l.held == nil {
			l.held = map[string]*holder{}
		}
		h = &holder{slot: make(chan struct{}, 1)}
		l.held[key] = h
	}
	h.users++
	l.mu.Unlock()

	select {
	case h.slot <- struct{}{}:
		return sync.OnceFunc(func() {
			<-h.slot
			l.leave(key, h)
		}), nil
	case <-ctx.Done():
		l.leave(key, h)
		return nil, context.Cause(ctx)
	}
}

func (l *Lock) leave(key string, h *holder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.users--; h.users == 0 {
		delete(l.held, key)
	}
}
