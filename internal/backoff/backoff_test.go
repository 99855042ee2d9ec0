package backoff_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/backoff"
)

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backoff.Backoff{Min: time.Second, Max: 5 * time.Second}
		var pauses []time.Duration
		for i := range 6 {
			if i == 5 {
				b.Reset()
			}
			began := time.Now()
			if err := b.Wait(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			pauses = append(pauses, time.Since(began))
		}
		want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second, time.Second}
		if diff := cmp.Diff(want, pauses); diff != "" {
			t.Errorf("pauses (-want +got):\n%s", diff)
		}
	})
}

func TestWaitEndsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		b := backoff.Backoff{Min: time.Hour, Max: time.Hour}
		early := make(chan struct{}, 1)
		early <- struct{}{}
		if err := b.Wait(t.Context(), early); err != nil {
			t.Errorf("early: %v", err)
		}
		cause := errors.New("cause")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if err := b.Wait(ctx, nil); !errors.Is(err, cause) {
			t.Errorf("with an ended context: %v, want %v", err, cause)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}
