package shim

import (
	"context"
	"errors"
	"syscall"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cridock/cridock/translate"
)

// classes maps error classes to gRPC codes. The first match decides, so more
// specific classes precede those that transports add.
var classes = []struct {
	is   func(error) bool
	code codes.Code
}{
	{errdefs.IsInvalidArgument, codes.InvalidArgument},
	{errdefs.IsFailedPrecondition, codes.FailedPrecondition},
	{errdefs.IsNotImplemented, codes.Unimplemented},
	{errdefs.IsUnavailable, codes.Unavailable},
	{func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }, codes.DeadlineExceeded},
	{func(err error) bool { return errors.Is(err, context.Canceled) }, codes.Canceled},
	{errdefs.IsResourceExhausted, codes.ResourceExhausted},
	{func(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }, codes.ResourceExhausted},
	{errdefs.IsPermissionDenied, codes.PermissionDenied},
	{errdefs.IsUnauthorized, codes.Unauthenticated},
	{errdefs.IsOutOfRange, codes.OutOfRange},
	{errdefs.IsAborted, codes.Aborted},
	{errdefs.IsDataLoss, codes.DataLoss},
	{errdefs.IsAlreadyExists, codes.AlreadyExists},
	{errdefs.IsConflict, codes.FailedPrecondition},
	{errdefs.IsNotFound, codes.NotFound},
	{errdefs.IsInternal, codes.Internal},
}

// statusError turns a handler's error into a gRPC status error. Only this function
// chooses codes; an error without a class is Unknown.
func statusError(err error) error {
	if err == nil {
		return nil
	}
	var already interface{ GRPCStatus() *status.Status }
	if errors.As(err, &already) {
		return status.Error(already.GRPCStatus().Code(), translate.KubeletMessage(err))
	}
	for _, c := range classes {
		if c.is(err) {
			return status.Error(c.code, translate.KubeletMessage(err))
		}
	}
	return status.Error(codes.Unknown, translate.KubeletMessage(err))
}

// opaque keeps an error's text and hides its class: if the runtime refuses a start,
// dockerd returns 400 or 404, which are about the container's content and not the
// request.
func opaque(err error) error {
	if err == nil {
		return nil
	}
	// Keep the class of an unavailable daemon, a full disk and an ended context.
	if errdefs.IsUnavailable(err) || errdefs.IsResourceExhausted(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return err
	}
	return errors.New(err.Error())
}

// ignoreNotFound returns nil for a NotFound error: removing a missing object is
// success.
func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
