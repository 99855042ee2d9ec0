package shim

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestStatusError(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
		want codes.Code
	}{
		{"success", nil, codes.OK},
		{"no class is Unknown", errors.New("x"), codes.Unknown},
		{"invalid argument", fmt.Errorf("f: %w", errdefs.ErrInvalidArgument), codes.InvalidArgument},
		{"not found", fmt.Errorf("f: %w", errdefs.ErrNotFound), codes.NotFound},
		{"already exists", fmt.Errorf("f: %w", errdefs.ErrAlreadyExists), codes.AlreadyExists},
		{"precondition", fmt.Errorf("f: %w", errdefs.ErrFailedPrecondition), codes.FailedPrecondition},
		{"what Docker calls a conflict is a precondition", fmt.Errorf("f: %w", errdefs.ErrConflict), codes.FailedPrecondition},
		{"not implemented", fmt.Errorf("f: %w", errdefs.ErrNotImplemented), codes.Unimplemented},
		{"unavailable", fmt.Errorf("f: %w", errdefs.ErrUnavailable), codes.Unavailable},
		{"deadline", fmt.Errorf("f: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{"cancelled", fmt.Errorf("f: %w", context.Canceled), codes.Canceled},
		{"a dead daemon at the deadline is unavailable", fmt.Errorf("%w: %w", context.DeadlineExceeded, errdefs.ErrUnavailable), codes.Unavailable},
		{"the cause comes before what undoing it met", errors.Join(fmt.Errorf("f: %w", errdefs.ErrInvalidArgument), errdefs.ErrNotFound), codes.InvalidArgument},
		{"a status keeps its code", fmt.Errorf("f: %w", status.Error(codes.ResourceExhausted, "x")), codes.ResourceExhausted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := statusError(tc.err)
			if code := status.Code(got); code != tc.want {
				t.Errorf("code = %v, want %v", code, tc.want)
			}
			if tc.err != nil && status.Convert(got).Message() != tc.err.Error() {
				t.Errorf("message = %q, want %q", status.Convert(got).Message(), tc.err.Error())
			}
		})
	}
}

func TestOpaque(t *testing.T) {
	if err := opaque(fmt.Errorf("sub-path: %w", errdefs.ErrNotFound)); errdefs.IsNotFound(err) || err.Error() != "sub-path: not found" {
		t.Errorf("a class of the container's inside shows: %v", err)
	}
	if err := opaque(fmt.Errorf("dial: %w", errdefs.ErrUnavailable)); !errdefs.IsUnavailable(err) {
		t.Errorf("a dead daemon is hidden: %v", err)
	}
	if opaque(nil) != nil {
		t.Error("nil became an error")
	}
}
