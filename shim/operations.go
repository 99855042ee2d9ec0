package shim

import (
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
)

// operations are what goes on without the caller that asked for it. The zero
// value is ready.
type operations struct {
	mu      sync.Mutex
	running int
	ended   chan struct{} // made by wait, closed when the last one has ended
}

// start runs f on a goroutine of its own. Once wait is through it is
// ErrUnavailable and f does not run; as long as one operation runs, it can
// start others.
func (o *operations) start(f func()) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended != nil && o.running == 0 {
		return fmt.Errorf("cridock is ending: %w", errdefs.ErrUnavailable)
	}
	o.running++
	go func() {
		defer o.done()
		f()
	}()
	return nil
}

func (o *operations) done() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.running--; o.running == 0 && o.ended != nil {
		close(o.ended)
	}
}

// wait returns when no operation runs any more; none starts after that. It is
// called once. Requests have to cease for it to return.
func (o *operations) wait() {
	o.mu.Lock()
	o.ended = make(chan struct{})
	if o.running == 0 {
		close(o.ended)
	}
	o.mu.Unlock()
	<-o.ended
}
