package artifact

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var errStalled = errors.New("the download makes no progress")

// watchdog cancels a download while nothing is written to it. It implements
// [io.Writer].
type watchdog struct {
	limit time.Duration
	timer *time.Timer // nil: never
}

// watch returns a context that ends, with the cause, when nothing has been written to
// the watchdog for limit; zero for never. The caller calls stop.
func watch(ctx context.Context, limit time.Duration) (_ context.Context, w *watchdog, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	w = &watchdog{limit: limit}
	if limit > 0 {
		w.timer = time.AfterFunc(limit, func() { cancel(fmt.Errorf("%w: nothing has arrived for %v", errStalled, limit)) })
	}
	return ctx, w, func() {
		if w.timer != nil {
			w.timer.Stop()
		}
		cancel(nil)
	}
}

// Write notes progress. It never fails.
func (w *watchdog) Write(p []byte) (int, error) {
	if w.timer != nil {
		w.timer.Reset(w.limit)
	}
	return len(p), nil
}
