package shim

import (
	"context"
	"sync"
)

// keyLock is one lock per key. Waiting ends with the context, and a key that nobody
// holds or waits for uses no memory. The zero value is ready.
type keyLock struct {
	mu   sync.Mutex
	held map[string]*keyHolder
}

type keyHolder struct {
	users int           // holder and waiters
	slot  chan struct{} // holds one token while the key is locked
}

// lock waits for the key and returns the function that releases it.
func (l *keyLock) lock(ctx context.Context, key string) (unlock func(), err error) {
	l.mu.Lock()
	h, ok := l.held[key]
	if !ok {
		if l.held == nil {
			l.held = map[string]*keyHolder{}
		}
		h = &keyHolder{slot: make(chan struct{}, 1)}
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

func (l *keyLock) leave(key string, h *keyHolder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.users--; h.users == 0 {
		delete(l.held, key)
	}
}
