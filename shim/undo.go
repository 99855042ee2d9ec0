package shim

import (
	"context"
	"errors"
	"time"
)

// undoTimeout bounds all undo steps of one operation together.
const undoTimeout = time.Minute

// undoStack holds the steps that take back what an operation has done so far.
type undoStack struct {
	steps []func(context.Context) error
}

// push adds a step.
func (u *undoStack) push(step func(context.Context) error) { u.steps = append(u.steps, step) }

// run takes everything back, last step first, when *err is set, and joins what
// goes wrong on the way to it. The steps get a context of their own, as the
// operation's may be what has ended.
func (u *undoStack) run(ctx context.Context, err *error) {
	if *err == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	for i := len(u.steps) - 1; i >= 0; i-- {
		*err = errors.Join(*err, u.steps[i](ctx))
	}
}
