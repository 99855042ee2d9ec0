package shim

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// undoTimeout bounds all undo steps of one operation together.
const undoTimeout = time.Minute

// undoStack holds the steps that undo what an operation has done so far.
type undoStack struct {
	steps []func(context.Context) error
}

func (u *undoStack) push(step func(context.Context) error) { u.steps = append(u.steps, step) }

// run undoes everything, last step first, if *err is set, and adds the errors of
// the steps to its text. The steps get a context of their own, as the operation's
// may have ended.
func (u *undoStack) run(ctx context.Context, err *error) {
	if *err == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var trouble error
	for i := len(u.steps) - 1; i >= 0; i-- {
		trouble = errors.Join(trouble, u.steps[i](ctx))
	}
	if trouble != nil {
		*err = &undoError{cause: *err, trouble: trouble}
	}
}

// undoError says why an operation failed and that its rollback is incomplete. Only
// the cause determines its class.
type undoError struct{ cause, trouble error }

func (e *undoError) Error() string {
	return fmt.Sprintf("%v; rollback incomplete: %v", e.cause, e.trouble)
}

func (e *undoError) Unwrap() error { return e.cause }
