// Package otlp sends spans to an OpenTelemetry collector by OTLP over gRPC.
package otlp

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/kontiki/kontiki/internal/collectors"
	"github.com/kontiki/kontiki/internal/tracing"
)

const (
	// mostWaiting limits the spans that wait for the collector, those that are being sent included.
	mostWaiting = 2048
	// batch is how many spans are sent at once, delay how long one waits for others, and patience how long sending may take, with retries.
	batch    = 512
	delay    = time.Second
	patience = 10 * time.Second
	// longestValue limits the bytes of an attribute, as errors may be long.
	longestValue = 1024
)

// Config has the parameters of a Provider.
type Config struct {
	// Endpoint is the collector's address; "" means OTLP's default, localhost:4317, or what the OTEL_EXPORTER_OTLP_* variables say.
	Endpoint string
	// RatePerMillion is how many of a million requests are recorded whose callers have not decided it.
	RatePerMillion int32
	// Service is the component's name, and Instance the host's.
	Service, Instance string
	Log               *slog.Logger
}

// Provider makes spans and sends them. It is safe for concurrent use.
type Provider struct {
	collectors.Group
	provider *sdktrace.TracerProvider
	queue    *queue
}

// New returns a Provider. It does not wait for the collector: while that cannot be reached, spans are counted as failed.
func New(ctx context.Context, c Config) (*Provider, error) {
	options := []otlptracegrpc.Option{otlptracegrpc.WithInsecure(), otlptracegrpc.WithTimeout(patience)}
	if c.Endpoint != "" {
		options = append(options, otlptracegrpc.WithEndpoint(c.Endpoint))
	}
	exporter, err := otlptracegrpc.New(ctx, options...)
	if err != nil {
		return nil, err
	}
	return newProvider(ctx, c, exporter)
}

func newProvider(ctx context.Context, c Config, exporter sdktrace.SpanExporter) (*Provider, error) {
	about, err := resource.New(ctx, resource.WithFromEnv(), resource.WithAttributes(semconv.ServiceName(c.Service), semconv.ServiceInstanceID(c.Instance)))
	if err != nil {
		return nil, err
	}
	sampler := sdktrace.NeverSample()
	if c.RatePerMillion > 0 {
		sampler = sdktrace.TraceIDRatioBased(float64(c.RatePerMillion) / 1e6)
	}
	limits := sdktrace.NewSpanLimits()
	limits.AttributeValueLengthLimit = longestValue
	q := newQueue(exporter, c.Log)
	return &Provider{Group: collectors.Group{q.outcomes}, queue: q, provider: sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.ParentBased(sampler)), sdktrace.WithResource(about), sdktrace.WithRawSpanLimits(limits), sdktrace.WithSpanProcessor(q))}, nil
}

// Tracer returns a tracer of the provider; nil for a nil Provider.
func (p *Provider) Tracer() *tracing.Tracer {
	if p == nil {
		return nil
	}
	return tracing.New(p.provider)
}

// Close sends what waits, until the context ends. Later spans are dropped.
func (p *Provider) Close(ctx context.Context) error {
	if p == nil {
		return nil
	}
	return p.provider.Shutdown(ctx)
}

// queue is the SDK's batching processor with a bound on what waits, at which spans are dropped and counted: the SDK's own queue drops without
// telling.
type queue struct {
	sdktrace.SpanProcessor
	waiting                   atomic.Int64
	outcomes                  *prometheus.CounterVec
	exported, failed, dropped prometheus.Counter
}

func newQueue(exporter sdktrace.SpanExporter, log *slog.Logger) *queue {
	if log == nil {
		log = slog.Default()
	}
	q := &queue{outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kontiki_trace_spans_total",
		Help: "Spans of traces, by outcome: 'exported' to the collector, 'failed' because it did not take them, 'dropped' because too many waited for it."}, []string{"outcome"})}
	q.exported, q.failed, q.dropped = q.outcomes.WithLabelValues("exported"), q.outcomes.WithLabelValues("failed"), q.outcomes.WithLabelValues("dropped")
	// What waits is bounded by mostWaiting before, so this queue is never full.
	q.SpanProcessor = sdktrace.NewBatchSpanProcessor(&counting{SpanExporter: exporter, queue: q, log: log},
		sdktrace.WithMaxQueueSize(mostWaiting), sdktrace.WithMaxExportBatchSize(batch), sdktrace.WithBatchTimeout(delay), sdktrace.WithExportTimeout(patience))
	return q
}

// OnEnd implements sdktrace.SpanProcessor. It never blocks.
func (q *queue) OnEnd(span sdktrace.ReadOnlySpan) {
	if !span.SpanContext().IsSampled() {
		return
	}
	if q.waiting.Add(1) > mostWaiting {
		q.waiting.Add(-1)
		q.dropped.Inc()
		return
	}
	q.SpanProcessor.OnEnd(span)
}

// counting counts what becomes of spans.
type counting struct {
	sdktrace.SpanExporter
	queue *queue
	log   *slog.Logger
	down  bool // the last attempt failed; only the processor's one goroutine exports
}

// ExportSpans implements sdktrace.SpanExporter. It logs when the collector stops and begins to take spans, and returns no error: the SDK would
// print each.
func (c *counting) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := c.SpanExporter.ExportSpans(ctx, spans)
	c.queue.waiting.Add(-int64(len(spans)))
	if err != nil {
		c.queue.failed.Add(float64(len(spans)))
		if !c.down {
			c.log.Warn("the collector does not take traces; further failures are only counted", "error", err)
		}
	} else {
		c.queue.exported.Add(float64(len(spans)))
		if c.down {
			c.log.Info("the collector takes traces again")
		}
	}
	c.down = err != nil
	return nil
}
