package translate

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Reasons the kubelet recognises at the start of an error message.
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

// ReasonError is an error with a reason the kubelet reads from the very start
// of the gRPC message. Whoever makes the gRPC status finds it with [errors.As]
// or [KubeletMessage], however often the error was wrapped.
type ReasonError struct {
	Reason string
	Err    error
}

// Error begins with the reason.
func (e *ReasonError) Error() string { return e.Reason + ": " + e.Err.Error() }

// Unwrap gives the cause, whose errdefs class is the class of the whole.
func (e *ReasonError) Unwrap() error { return e.Err }

// KubeletMessage is the message to put into a gRPC status: err's text, begun
// with the reason of a [ReasonError] anywhere in its chain. nil gives "".
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

// invalid is the refusal of a field whose value is wrong.
func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %w: %s", field, errdefs.ErrInvalidArgument, fmt.Sprintf(format, args...))
}

// unmet is the refusal of a field that this node or pod can't serve as it is.
func unmet(field, format string, args ...any) error {
	return fmt.Errorf("%s: %w: %s", field, errdefs.ErrFailedPrecondition, fmt.Sprintf(format, args...))
}
