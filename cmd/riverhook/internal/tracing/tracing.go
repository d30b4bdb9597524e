// Package tracing sends a span for each attempt to an OpenTelemetry collector, over OTLP (HTTP, protobuf). Where and how,
// say the standard OTEL_ variables, which OpenTelemetry's library reads by itself.
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/riverhook/riverhook/delivery"
)

const (
	scope = "github.com/riverhook/riverhook"
	// stopTimeout is for the spans that wait when the program ends.
	stopTimeout = 5 * time.Second
	// complaintInterval is how often a collector that does not take spans is complained about.
	complaintInterval = time.Minute
)

// Tracer makes spans. Those that the collector does not take in time are dropped: they never wait for it.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// New makes a tracer of a node. It does not connect. An error is one of the OTEL_ variables.
func New(ctx context.Context, log *slog.Logger, version, node string) (*Tracer, error) {
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	// OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come last: they win.
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "riverhook"), attribute.String("service.version", version), attribute.String("service.instance.id", node)),
		resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	otel.SetErrorHandler(&complainer{log: log})
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return &Tracer{provider, provider.Tracer(scope, trace.WithInstrumentationVersion(version))}, nil
}

// Attempt begins the span of an attempt, which continues the delivery's trace, if it has one.
func (t *Tracer) Attempt(d *delivery.Delivery) (traceparent string, end func(delivery.Observation)) {
	ctx, carrier := context.Background(), propagation.MapCarrier{}
	if parent := delivery.Traceparent(d.Traceparent); parent != "" {
		carrier.Set("traceparent", parent)
		ctx = propagation.TraceContext{}.Extract(ctx, carrier)
	}
	ctx, span := t.tracer.Start(ctx, d.Method, trace.WithSpanKind(trace.SpanKindClient))
	if span.IsRecording() {
		span.SetAttributes(attributes(d)...)
	}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier.Get("traceparent"), func(o delivery.Observation) {
		ended(span, o)
		span.End()
	}
}

// attributes tell what is sent where, by OpenTelemetry's names where it has them. The URL is the application's, and is not
// among them, nor is anything that the receiver answered.
func attributes(d *delivery.Delivery) []attribute.KeyValue {
	list := append(make([]attribute.KeyValue, 0, 12),
		attribute.String("http.request.method", d.Method),
		attribute.Int64("riverhook.delivery_id", d.ID),
		attribute.String("riverhook.delivery_uuid", d.UUID),
		attribute.String("riverhook.organization_id", d.OrganizationID),
		attribute.String("riverhook.endpoint_origin", d.Origin),
		attribute.Int("riverhook.round", d.Round),
		attribute.Int("riverhook.attempt", d.Attempt()),
	)
	if d.WorkflowRunID != "" {
		list = append(list, attribute.String("riverhook.workflow_run_id", d.WorkflowRunID))
	}
	if d.Attempt() > 1 {
		list = append(list, attribute.Int("http.request.resend_count", d.Attempt()-1))
	}
	if origin, err := url.Parse(d.Origin); err == nil && d.Origin != "" {
		list = append(list, attribute.String("url.scheme", origin.Scheme), attribute.String("server.address", origin.Hostname()))
		if port, err := strconv.Atoi(origin.Port()); err == nil {
			list = append(list, attribute.Int("server.port", port))
		}
	}
	return list
}

// ended says how it went.
func ended(span trace.Span, o delivery.Observation) {
	if o.StatusCode != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", o.StatusCode))
	}
	switch {
	case o.StatusCode >= 200 && o.StatusCode <= 299 && o.Failure == delivery.FailureNone:
	case o.StatusCode != 0:
		span.SetAttributes(attribute.String("error.type", strconv.Itoa(o.StatusCode)))
		span.SetStatus(codes.Error, "")
	case o.Failure != delivery.FailureNone:
		span.SetAttributes(attribute.String("error.type", string(o.Failure)))
		span.SetStatus(codes.Error, "")
	default:
		span.SetStatus(codes.Error, "given up by the node")
	}
}

// Stop sends what waits, for a few seconds at most.
func (t *Tracer) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // the error handler has it
}

// complainer logs what goes wrong with exporting, once in a while.
type complainer struct {
	log  *slog.Logger
	mu   sync.Mutex
	last time.Time
}

// Handle is OpenTelemetry's error handler.
func (c *complainer) Handle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.last) >= complaintInterval {
		c.last = time.Now()
		c.log.Warn("traces: the collector does not take them", "error", err)
	}
}
