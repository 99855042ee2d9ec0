package shim

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
)

// traced runs a step as a span of the caller's trace, if it has one. CRI and Docker
// calls get their spans from their own instrumentation.
func traced(ctx context.Context, name string, step func(context.Context) error) error {
	ctx, span := otel.Tracer("github.com/cridock/cridock/shim").Start(ctx, name)
	defer span.End()
	err := step(ctx)
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, "")
	}
	return err
}
