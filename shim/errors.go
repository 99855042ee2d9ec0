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

// classes maps error classes to gRPC codes; the first that matches decides, so
// more telling classes stand before those that transports add.
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

// statusError turns an error of a handler into a gRPC status error. It is the
// only place that chooses codes; an error without a class is Unknown.
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

// opaque keeps an error's text and hides its class: dockerd answers a start
// that the runtime refused with 400 or 404, which speak of the container's
// inside and not of the request.
func opaque(err error) error {
	if err == nil {
		return nil
	}
	// A dead daemon, a full disk and an ended context stay what they are.
	if errdefs.IsUnavailable(err) || errdefs.IsResourceExhausted(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return err
	}
	return errors.New(err.Error())
}

// ignoreNotFound makes removing what is gone a success.
func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
