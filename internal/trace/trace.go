// Package trace adds spans to the traces of CRI calls.
package trace

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
)

// Step runs a step as a span of the caller's trace, if it has one. CRI and Docker
// calls get their spans from their own instrumentation.
func Step(ctx context.Context, name string, step func(context.Context) error) error {
	ctx, span := otel.Tracer("github.com/cridock/cridock").Start(ctx, name)
	defer span.End()
	err := step(ctx)
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, "")
	}
	return err
}
