package network

import (
	"context"
	"sync"
)

// keyLock is one lock per key. The zero value is ready for use; keys that nobody
// holds or waits for use no memory.
type keyLock struct {
	mu   sync.Mutex
	held map[string]*keyState
}

type keyState struct {
	token chan struct{} // holds one element while the key is locked
	users int           // holders and waiters
}

// lock waits for the key until the context ends. The returned function unlocks
// and must be called once.
func (l *keyLock) lock(ctx context.Context, key string) (func(), error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*keyState{}
	}
	state := l.held[key]
	if state == nil {
		state = &keyState{token: make(chan struct{}, 1)}
		l.held[key] = state
	}
	state.users++
	l.mu.Unlock()

	select {
	case state.token <- struct{}{}:
		return func() {
			<-state.token
			l.leave(key, state)
		}, nil
	case <-ctx.Done():
		l.leave(key, state)
		return nil, context.Cause(ctx)
	}
}

func (l *keyLock) leave(key string, state *keyState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	state.users--
	if state.users == 0 {
		delete(l.held, key)
	}
}
