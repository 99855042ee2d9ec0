package translate

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Reasons that the kubelet recognises at the start of an error message.
const (
	// ReasonRROUnsupported: a recursive read-only mount can't be made.
	ReasonRROUnsupported = "RROUnsupported"
	// ReasonImageVolumeMountFailed: an image can't be mounted as a volume.
	ReasonImageVolumeMountFailed = "ImageVolumeMountFailed"
	// ReasonRegistryUnavailable: the registry could not be reached.
	ReasonRegistryUnavailable = "RegistryUnavailable"
	// ReasonSignatureValidationFailed: a signature policy refused the image.
	ReasonSignatureValidationFailed = "SignatureValidationFailed"
)

// ReasonError is an error with a reason that the kubelet reads at the very start
// of the gRPC message. [errors.As] and [KubeletMessage] find it in a wrapped
// error.
type ReasonError struct {
	Reason string
	Err    error
}

// Error returns the reason and the cause's text.
func (e *ReasonError) Error() string { return e.Reason + ": " + e.Err.Error() }

// Unwrap returns the cause, whose errdefs class is also that of e.
func (e *ReasonError) Unwrap() error { return e.Err }

// KubeletMessage returns the message for a gRPC status: err's text, starting with
// the reason of a [ReasonError] in its chain, if any. For nil it returns "".
func KubeletMessage(err error) string {
	if err == nil {
		return ""
	}
	var reason *ReasonError
	if !errors.As(err, &reason) {
		return err.Error()
	}
	prefix := reason.Reason + ": "
	return prefix + strings.Replace(err.Error(), prefix, "", 1)
}

// invalid returns the refusal of a field with an invalid value.
func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %w: %s", field, errdefs.ErrInvalidArgument, fmt.Sprintf(format, args...))
}

// unmet returns the refusal of a field that this node or pod does not support.
func unmet(field, format string, args ...any) error {
	return fmt.Errorf("%s: %w: %s", field, errdefs.ErrFailedPrecondition, fmt.Sprintf(format, args...))
}
