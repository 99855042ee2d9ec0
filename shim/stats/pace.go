package stats

import (
	"context"
	"time"
)

// pacer limits background work to a share of one CPU: the worker calls rest
// often, and rest sleeps as long as the share requires. Time spent waiting for a
// disk counts as work, so a slow disk is spared too.
type pacer struct {
	share float64
	since time.Time // end of the last sleep
}

// stint is how long work runs without a sleep. It is short compared to the
// kernel's time slices, and long compared to the inaccuracy of a sleep.
const stint = 5 * time.Millisecond

func newPacer(share float64) *pacer { return &pacer{share: share, since: time.Now()} }

// rest sleeps if the work has run for a stint. The error is ctx's.
func (p *pacer) rest(ctx context.Context) error {
	worked := time.Since(p.since)
	if worked < stint {
		return ctx.Err()
	}
	err := sleep(ctx, time.Duration(float64(worked)*(1-p.share)/p.share))
	p.since = time.Now()
	return err
}

// sleep waits for d, or until ctx ends; then it returns ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
