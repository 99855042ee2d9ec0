// Package undo takes back the steps of an operation that fails half-way.
package undo

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Timeout bounds all undo steps of one operation together.
const Timeout = time.Minute

// Stack holds the steps that undo what an operation has done so far. The zero value
// is ready. It is not safe for concurrent use.
type Stack struct {
	steps []func(context.Context) error
}

// Push adds a step.
func (s *Stack) Push(step func(context.Context) error) { s.steps = append(s.steps, step) }

// Run undoes everything, last step first, if *err is set, and adds the errors of
// the steps to its text; the class of *err stays. The steps get a context of their
// own, as the operation's may have ended. Defer it before the first step.
func (s *Stack) Run(ctx context.Context, err *error) {
	if *err == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Timeout)
	defer cancel()
	var trouble error
	for i := len(s.steps) - 1; i >= 0; i-- {
		trouble = errors.Join(trouble, s.steps[i](ctx))
	}
	if trouble != nil {
		*err = &incompleteError{cause: *err, trouble: trouble}
	}
}

// incompleteError says why an operation failed and that its rollback is incomplete.
// Only the cause determines its class.
type incompleteError struct{ cause, trouble error }

func (e *incompleteError) Error() string {
	return fmt.Sprintf("%v; rollback incomplete: %v", e.cause, e.trouble)
}

func (e *incompleteError) Unwrap() error { return e.cause }
