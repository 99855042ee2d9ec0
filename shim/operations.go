package shim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"
)

const (
	// operationTimeout bounds an operation that is detached from its caller. It
	// exceeds the kubelet's own request timeout (two minutes), so that a retry finds
	// a complete result.
	operationTimeout = 4 * time.Minute
	// maxReport is the maximum time reserved before a caller's deadline to report
	// what has not finished.
	maxReport = 10 * time.Second
)

// operations counts the work that continues without the caller that asked for
// it. The zero value is ready.
type operations struct {
	mu      sync.Mutex
	running int
	tracked map[*Operation]struct{} // of those, what has a name
	ended   chan struct{}           // made by wait, closed when the last operation ends
}

// start runs f on its own goroutine. After wait has returned it fails with
// ErrUnavailable and f does not run; a running operation can always start
// others.
func (o *operations) start(f func()) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended != nil && o.running == 0 {
		return fmt.Errorf("cridock is shutting down: %w", errdefs.ErrUnavailable)
	}
	o.running++
	go func() {
		defer o.done()
		f()
	}()
	return nil
}

// run is start for an op that can fail: done is called with its error, and a panic in
// op is an error.
func (o *operations) run(ctx context.Context, op func() error, done func(error)) error {
	return o.start(func() { done(recovered(ctx, op)) })
}

// track lists an operation until the returned function is called.
func (o *operations) track(op Operation) (end func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tracked == nil {
		o.tracked = map[*Operation]struct{}{}
	}
	o.tracked[&op] = struct{}{}
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.tracked, &op)
	}
}

// list returns the tracked operations, in no order.
func (o *operations) list() []Operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := make([]Operation, 0, len(o.tracked))
	for op := range o.tracked {
		list = append(list, *op)
	}
	return list
}

func (o *operations) done() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.running--; o.running == 0 && o.ended != nil {
		close(o.ended)
	}
}

// wait returns when no operation is running; none starts after that. Call it
// once. It does not return while requests keep starting operations.
func (o *operations) wait() {
	o.mu.Lock()
	o.ended = make(chan struct{})
	if o.running == 0 {
		close(o.ended)
	}
	o.mu.Unlock()
	<-o.ended
}

// withLock takes the lock of key and runs op under it in the background, to its
// end even if the caller leaves: Docker does not undo a request whose client has
// disconnected, so an operation that stopped half-way would leave something
// behind. The caller gets op's result, or the error of its own context; see
// withinDeadline for the steps that end with the caller's deadline. The lock is
// released when op has returned or panicked, or if it could not be started because
// cridock is shutting down (ErrUnavailable).
func withLock[T any](ctx context.Context, s *Service, key string, op func(context.Context) (T, error)) (T, error) {
	var value T
	waited := s.metrics.waiting("lock")
	unlock, err := s.locks.Lock(ctx, key)
	waited()
	if err != nil {
		return value, err
	}
	done := make(chan error, 1) // value may be read after receiving from it
	if err := s.work.start(func() {
		done <- detached(ctx, func(ctx context.Context) (err error) {
			defer unlock()
			defer s.work.track(Operation{Kind: operationKind(ctx), Object: key, Since: time.Now()})()
			value, err = op(ctx)
			return err
		})
	}); err != nil {
		unlock()
		return value, err
	}
	select {
	case err := <-done:
		return value, err
	case <-ctx.Done():
		return *new(T), fmt.Errorf("the operation continues in the background: %w", context.Cause(ctx))
	}
}

// detached runs op with a context that outlives the caller's.
func detached(caller context.Context, op func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(caller), operationTimeout)
	defer cancel()
	if deadline, ok := caller.Deadline(); ok {
		ctx = context.WithValue(ctx, callerDeadline{}, deadline)
	}
	err := recovered(ctx, func() error { return op(ctx) })
	if err != nil && caller.Err() != nil {
		klog.FromContext(ctx).Error(err, "An operation failed after its caller had left")
	}
	return err
}

// callerDeadline is the context key of the deadline of a detached operation's
// caller.
type callerDeadline struct{}

// withinDeadline returns the context of a step of a detached operation that may
// hang and that, unlike Docker's, can be undone or repeated. It ends shortly
// before the caller's deadline, so that the caller learns what did not finish
// and its retry does not have to wait for that.
func withinDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Value(callerDeadline{}).(time.Time)
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(time.Until(deadline)/10, maxReport)))
}
