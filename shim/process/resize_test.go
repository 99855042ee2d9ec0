package process

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestResize: the last size reaches the terminal, even if Docker refuses it for a
// while.
func TestResize(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fails int // attempts that Docker refuses
		later []Size
		ends  bool // the client sends no more sizes
		want  []Size
	}{
		{"at once", 0, nil, false, []Size{{Width: 80, Height: 24}}},
		{"after two refusals", 2, nil, false, []Size{{Width: 80, Height: 24}}},
		{"the client has closed the stream meanwhile", 3, nil, true, []Size{{Width: 80, Height: 24}}},
		{"a newer one replaces a refused one", 1, []Size{{Width: 101, Height: 33}}, false, []Size{{Width: 101, Height: 33}}},
		{"each in turn", 0, []Size{{Width: 101, Height: 33}, {}, {Width: 1, Height: 1}}, true, []Size{{Width: 80, Height: 24}, {Width: 101, Height: 33}, {Width: 1, Height: 1}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				sizes := make(chan Size)
				var got []Size
				attempts := 0
				done := make(chan struct{})
				go func() {
					defer close(done)
					resize(ctx, Size{Width: 80, Height: 24}, sizes, func(_ context.Context, height, width uint) error {
						if attempts++; attempts <= tc.fails {
							return errors.New("timeout waiting for exec session ready")
						}
						got = append(got, Size{Width: uint16(width), Height: uint16(height)})
						return nil
					})
				}()
				for _, size := range tc.later {
					sizes <- size
				}
				if tc.ends {
					close(sizes)
					<-done
				}
				time.Sleep(time.Minute)
				cancel()
				<-done
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("sizes (-want +got):\n%s", diff)
				}
			})
		})
	}
}
