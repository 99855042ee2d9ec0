package app

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/klog/v2"
)

// OpenTelemetry's variables that its SDK does not handle as cridock needs; it reads
// the others itself.
const (
	otelDisabled       = "OTEL_SDK_DISABLED"
	otelExporter       = "OTEL_TRACES_EXPORTER"
	otelEndpoint       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	otelTracesEndpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	otelProtocol       = "OTEL_EXPORTER_OTLP_PROTOCOL"
	otelTracesProtocol = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	otelSampler        = "OTEL_TRACES_SAMPLER"
	otelSamplerArg     = "OTEL_TRACES_SAMPLER_ARG"
)

func otelVariable(name string) string { return strings.TrimSpace(os.Getenv(name)) }

// traces reports whether cridock sends traces. The environment alone turns them on only
// in a process of its own: another program's variables are for that program, which
// has a provider.
func (o *Options) traces() bool {
	if strings.EqualFold(otelVariable(otelDisabled), "true") || otelVariable(otelExporter) == "none" {
		return false
	}
	return o.TracingEndpoint != "" || o.OwnProcess && (otelVariable(otelTracesEndpoint) != "" || otelVariable(otelEndpoint) != "")
}

// startTracing sends traces to an OTLP collector, if one is set: CRI calls with the
// Docker and CNI calls they make, as part of the kubelet's traces. The returned
// function flushes pending traces, after ctx has ended too.
func (o *Options) startTracing(ctx context.Context) (flush func(), err error) {
	if !o.traces() {
		return func() {}, nil
	}
	if err := checkTraceVariables(); err != nil {
		return nil, err
	}
	exporter, err := otlptracegrpc.New(ctx, o.collector()...)
	if err != nil {
		return nil, fmt.Errorf("tracing-endpoint %q: %w", o.TracingEndpoint, err)
	}
	described, err := o.traceResource(ctx)
	if err != nil {
		return nil, err
	}
	options := []trace.TracerProviderOption{trace.WithBatcher(exporter), trace.WithResource(described)}
	if otelVariable(otelSampler) == "" {
		// The kubelet decides what is sampled; cridock starts no traces.
		options = append(options, trace.WithSampler(trace.ParentBased(trace.NeverSample())))
	}
	provider := trace.NewTracerProvider(options...)
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), observeShutdown)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Some traces were lost")
		}
	}, nil
}

// collector returns the options of the exporter for tracing-endpoint, which precede the
// environment's. Without the setting there are none.
func (o *Options) collector() []otlptracegrpc.Option {
	host, secure := strings.CutPrefix(o.TracingEndpoint, "https://")
	if host == "" {
		return nil
	}
	if secure {
		return []otlptracegrpc.Option{otlptracegrpc.WithEndpointURL(o.TracingEndpoint)}
	}
	return []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(strings.TrimPrefix(host, "http://")), otlptracegrpc.WithInsecure(),
		// A certificate in the environment would turn TLS on.
		otlptracegrpc.WithDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
	}
}

// traceResource describes the process; the environment's attributes precede its own.
func (o *Options) traceResource(ctx context.Context) (*resource.Resource, error) {
	own := resource.NewSchemaless(semconv.ServiceName("cridock"), semconv.ServiceVersion(o.Version))
	environment, err := resource.New(ctx, resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return resource.Merge(own, environment)
}

// checkTraceVariables refuses values that the SDK would replace by defaults: its
// default sampler traces all calls.
func checkTraceVariables() error {
	var errs []error
	for _, name := range []string{otelProtocol, otelTracesProtocol} {
		if v := otelVariable(name); v != "" && v != "grpc" {
			errs = append(errs, fmt.Errorf("%s %q: want grpc", name, v))
		}
	}
	if v := otelVariable(otelExporter); v != "" && v != "otlp" {
		errs = append(errs, fmt.Errorf("%s %q: want otlp or none", otelExporter, v))
	}
	switch sampler := strings.ToLower(otelVariable(otelSampler)); sampler {
	case "", "always_on", "always_off", "parentbased_always_on", "parentbased_always_off":
	case "traceidratio", "parentbased_traceidratio":
		arg := otelVariable(otelSamplerArg)
		if ratio, err := strconv.ParseFloat(arg, 64); arg != "" && (err != nil || !(ratio >= 0 && ratio <= 1)) {
			errs = append(errs, fmt.Errorf("%s %q: want a number from 0 to 1", otelSamplerArg, arg))
		}
	default:
		errs = append(errs, fmt.Errorf("%s %q: want always_on, always_off or traceidratio, or one of these with parentbased_ before it", otelSampler, sampler))
	}
	return errors.Join(errs...)
}

// validateTracing checks the form of tracing-endpoint.
func (o *Options) validateTracing() error {
	if !strings.HasPrefix(o.TracingEndpoint, "https://") && !strings.HasPrefix(o.TracingEndpoint, "http://") {
		return nil
	}
	u, err := url.Parse(o.TracingEndpoint)
	if err != nil {
		return fmt.Errorf("tracing-endpoint: %w", err)
	}
	if u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("tracing-endpoint %q: want https://host:port or host:port", u.Redacted())
	}
	return nil
}
