// Package backoff waits between attempts at something local: Docker on its socket,
// a file. There is no jitter, as nobody else retries at the same time.
package backoff

import (
	"context"
	"time"
)

// Backoff is a pause that doubles with each Wait. It is not for concurrent use.
type Backoff struct {
	// Min is the first pause and Max the longest one. If they are equal the pause
	// stays the same.
	Min, Max time.Duration

	last time.Duration
}

// Wait waits for the next pause. It returns early with nil when early has a value or
// is closed (nil: never), and with the cause when ctx ends.
func (b *Backoff) Wait(ctx context.Context, early <-chan struct{}) error {
	b.last = min(max(2*b.last, b.Min), b.Max)
	timer := time.NewTimer(b.last)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-early:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Reset makes the next pause the first one again.
func (b *Backoff) Reset() { b.last = 0 }
