package stats

import (
	"context"
	"time"
)

// pacer keeps work in the background to a share of one CPU: whoever works
// calls rest often, and rest sleeps for as long as the share asks. Time that
// the work waited for a disk counts as worked, so a slow disk is not pressed
// either.
type pacer struct {
	share float64
	since time.Time // when the work went on after the last sleep
}

// stint is how long work goes on without a sleep. It is short against the
// kernel's time slices, and long against a sleep's inaccuracy.
const stint = 5 * time.Millisecond

func newPacer(share float64) *pacer { return &pacer{share: share, since: time.Now()} }

// rest sleeps if the work has gone on for a stint. The error is ctx's.
func (p *pacer) rest(ctx context.Context) error {
	worked := time.Since(p.since)
	if worked < stint {
		return ctx.Err()
	}
	err := sleep(ctx, time.Duration(float64(worked)*(1-p.share)/p.share))
	p.since = time.Now()
	return err
}

// sleep for d, or until ctx ends; then the error is ctx's.
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
