package undo

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStack(t *testing.T) {
	cause, trouble := errors.New("cause"), errors.New("trouble")
	run := func(ctx context.Context, err error) ([]string, error) {
		var order []string
		step := func(name string, result error) func(context.Context) error {
			return func(ctx context.Context) error {
				if ctx.Err() != nil {
					t.Errorf("step %s got an ended context", name)
				}
				order = append(order, name)
				return result
			}
		}
		u := Stack{}
		u.Push(step("first", nil))
		u.Push(step("second", trouble))
		u.Push(step("third", nil))
		u.Run(ctx, &err)
		return order, err
	}
	if order, err := run(t.Context(), nil); order != nil || err != nil {
		t.Errorf("success was undone: %v, %v", order, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	order, err := run(ended, cause)
	if diff := cmp.Diff([]string{"third", "second", "first"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if !errors.Is(err, cause) || errors.Is(err, trouble) || !strings.Contains(err.Error(), trouble.Error()) {
		t.Errorf("err = %v, want the cause, and the trouble of undoing in its text alone", err)
	}
}
