package target

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// cleaners is how many pods are removed at a time.
const cleaners = 4

// forEach calls remove for all IDs, a few at a time, and returns the first error
// after all have been tried.
func forEach(ctx context.Context, ids []string, remove func(context.Context, string) error) error {
	var group errgroup.Group
	group.SetLimit(cleaners)
	for _, id := range ids {
		group.Go(func() error { return remove(ctx, id) })
	}
	return group.Wait()
}

// pause waits for pending removals before the next list.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(100 * time.Millisecond):
		return nil
	}
}
