// Package tracing makes the spans of OpenTelemetry traces, and carries a pod's trace from the request that created it to the worker that
// starts it. Without a tracer nothing is made: a nil *Tracer, and a context without a recorded span, cost a comparison and allocate nothing.
//
// A trace begins with a request. Within a process it is continued by the context (Start). The scheduler, the workers' sessions and the workers
// act later and elsewhere, when they learn of the pod: for them the master that creates a pod for a recorded request writes the request's W3C
// trace context into an annotation of the pod (Annotation), and they record what they did once it is done (Tracer.Record). So a trace costs no
// write beside those that are made anyway, and any master and worker can continue it.
//
// Package tracing/otlp sends spans to a collector.
package tracing

import (
	"context"
	"encoding/hex"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Annotation of a pod has the context of the trace in which it was created, in the form of the header traceparent of W3C Trace Context. The
// API sets it and keeps clients from choosing it.
const Annotation = "kontiki.io/traceparent"

// Header is the header of a request, and the key of a gRPC call's metadata, that has the caller's trace context.
const Header = "Traceparent"

// scope is the name of the library that makes the spans.
const scope = "github.com/kontiki/kontiki"

// Tracer makes spans. A nil Tracer makes none. It is safe for concurrent use.
type Tracer struct{ tracer trace.Tracer }

// New returns a Tracer of a provider.
func New(provider trace.TracerProvider) *Tracer { return &Tracer{provider.Tracer(scope)} }

// Span is a span that is under way; the zero value is none. End must be called once.
type Span struct{ span trace.Span }

// Start begins a span within the one of the context, if that is recorded. Its name is the given words with dots between them, which are put
// together only then.
func Start(ctx context.Context, name ...string) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, Span{}
	}
	ctx, span := parent.TracerProvider().Tracer(scope).Start(ctx, strings.Join(name, "."))
	return ctx, Span{span}
}

// Within records a span within the one of the context, if that is recorded, for what is already over.
func Within(ctx context.Context, name string, began, ended time.Time, attributes ...attribute.KeyValue) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return
	}
	_, span := parent.TracerProvider().Tracer(scope).Start(ctx, name, trace.WithTimestamp(began), trace.WithAttributes(attributes...))
	span.End(trace.WithTimestamp(ended))
}

// Recording says whether the context has a span that is recorded.
func Recording(ctx context.Context) bool { return trace.SpanFromContext(ctx).IsRecording() }

// Known says whether the context has a span, recorded or not: whether its request is to be recorded has been decided.
func Known(ctx context.Context) bool { return trace.SpanContextFromContext(ctx).IsValid() }

// Recording says whether the span is recorded, so that it is worth computing attributes for it.
func (s Span) Recording() bool { return s.span != nil && s.span.IsRecording() }

// Set adds attributes.
func (s Span) Set(attributes ...attribute.KeyValue) {
	if s.span != nil {
		s.span.SetAttributes(attributes...)
	}
}

// End ends the span. An error is its status, and is recorded.
func (s Span) End(err error) {
	if s.span == nil {
		return
	}
	fail(s.span, err)
	s.span.End()
}

// Fail gives the span the status of an error; it does not end it.
func (s Span) Fail(text string) {
	if s.span != nil {
		s.span.SetStatus(codes.Error, text)
	}
}

func fail(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
}

// Request begins the span of a request that was received at a time. headers are the request's. The trace context that the caller sent is
// continued, and its decision to record respected, only if the caller is trusted; of others it is a link, and this cluster's configuration
// decides whether the request is recorded: anybody could make the cluster record, and mix their requests into traces of others. Tracestate and
// baggage are not read.
func (t *Tracer) Request(ctx context.Context, name string, headers http.Header, trusted bool, received time.Time) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(received)}
	if sent := headers[Header]; len(sent) == 1 { // of several, none can be the right one
		if parent, ok := Parse(sent[0]); ok && trusted {
			ctx = trace.ContextWithRemoteSpanContext(ctx, parent)
		} else if ok {
			options = append(options, trace.WithLinks(trace.Link{SpanContext: parent}))
		}
	}
	ctx, span := t.tracer.Start(ctx, name, options...)
	return ctx, Span{span}
}

// Root begins a trace of a component's own.
func (t *Tracer) Root(ctx context.Context, name string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	ctx, span := t.tracer.Start(ctx, name)
	return ctx, Span{span}
}

// Record records a span for what is over, in the trace whose context is parent, as in a pod's Annotation. It does nothing if there is none, or
// if that trace is not recorded.
func (t *Tracer) Record(parent, name string, began, ended time.Time, err error, attributes ...attribute.KeyValue) {
	if t == nil || parent == "" {
		return
	}
	within, ok := Parse(parent)
	if !ok || !within.IsSampled() {
		return
	}
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), within)
	_, span := t.tracer.Start(ctx, name, trace.WithTimestamp(began), trace.WithAttributes(attributes...))
	fail(span, err)
	span.End(trace.WithTimestamp(ended))
}

// Format returns the context of the span of ctx as a traceparent, "" if that is not recorded.
func Format(ctx context.Context) string {
	s := trace.SpanContextFromContext(ctx)
	if !s.IsValid() || !s.IsSampled() {
		return ""
	}
	return "00-" + s.TraceID().String() + "-" + s.SpanID().String() + "-01"
}

// Parse reads a traceparent of version 00 of W3C Trace Context: lower-case hexadecimal, of exactly 55 bytes.
func Parse(s string) (trace.SpanContext, bool) {
	const length = 55
	if len(s) != length || s[:3] != "00-" || s[35] != '-' || s[52] != '-' || strings.ToLower(s) != s {
		return trace.SpanContext{}, false
	}
	var c trace.SpanContextConfig
	var flags [1]byte
	for _, part := range []struct {
		to   []byte
		text string
	}{{c.TraceID[:], s[3:35]}, {c.SpanID[:], s[36:52]}, {flags[:], s[53:]}} {
		if _, err := hex.Decode(part.to, []byte(part.text)); err != nil {
			return trace.SpanContext{}, false
		}
	}
	c.TraceFlags, c.Remote = trace.TraceFlags(flags[0])&trace.FlagsSampled, true
	read := trace.NewSpanContext(c)
	return read, read.IsValid()
}
