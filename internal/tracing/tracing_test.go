package tracing

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

const sampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func recording(t *testing.T, sampler sdktrace.Sampler) (*Tracer, *tracetest.SpanRecorder) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sampler)), sdktrace.WithSpanProcessor(spans))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	return New(provider), spans
}

func TestHostileTraceparents(t *testing.T) {
	if c, ok := Parse(sampled); !ok || !c.IsSampled() || !c.IsRemote() {
		t.Fatalf("%+v %v", c, ok)
	}
	for _, bad := range []string{
		"", "00", strings.Repeat("0", 55), sampled + "0", sampled[:54], strings.ToUpper(sampled), "ff" + sampled[2:], "01" + sampled[2:],
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
		"00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01", "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
		strings.Repeat("00-", 1<<16),
	} {
		if c, ok := Parse(bad); ok {
			t.Errorf("%.60q was read as %+v", bad, c)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sampled)
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := Parse(s)
		if ok && "00-"+c.TraceID().String()+"-"+c.SpanID().String() != s[:52] {
			t.Errorf("%q was read as %+v", s, c)
		}
	})
}

// Only trusted callers decide that a request is recorded, and in which trace.
func TestOnlyTrustedParentsAreContinued(t *testing.T) {
	for _, x := range []struct {
		name      string
		trusted   bool
		headers   []string
		sampler   sdktrace.Sampler
		recorded  bool
		continued bool
		links     int
	}{
		{"trusted", true, []string{sampled}, sdktrace.NeverSample(), true, true, 0},
		{"trusted, but not sampled", true, []string{sampled[:54] + "0"}, sdktrace.AlwaysSample(), false, false, 0},
		{"others", false, []string{sampled}, sdktrace.NeverSample(), false, false, 0},
		{"others, recorded by the cluster's rate", false, []string{sampled}, sdktrace.AlwaysSample(), true, false, 1},
		{"two headers", true, []string{sampled, sampled}, sdktrace.NeverSample(), false, false, 0},
		{"no header", true, nil, sdktrace.NeverSample(), false, false, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			tracer, spans := recording(t, x.sampler)
			ctx, span := tracer.Request(context.Background(), "GET", http.Header{Header: x.headers}, x.trusted, time.Now())
			within, child := Start(ctx, "step")
			was := Recording(ctx)
			child.End(nil)
			span.End(nil)
			if was != x.recorded || (Format(within) != "") != x.recorded || span.Recording() {
				t.Errorf("recorded: %v, %q", was, Format(within))
			}
			ended := spans.Ended()
			if want := map[bool]int{true: 2}[x.recorded]; len(ended) != want {
				t.Fatalf("%d spans, want %d", len(ended), want)
			}
			if !x.recorded {
				return
			}
			if got := ended[1].SpanContext().TraceID().String() == sampled[3:35]; got != x.continued {
				t.Errorf("continued: %v", got)
			}
			if len(ended[1].Links()) != x.links || ended[0].Parent().SpanID() != ended[1].SpanContext().SpanID() {
				t.Errorf("%d links, the step's parent is %v", len(ended[1].Links()), ended[0].Parent().SpanID())
			}
		})
	}
}

func TestRecordContinuesAPodsTrace(t *testing.T) {
	tracer, spans := recording(t, sdktrace.NeverSample())
	began := time.Now().Add(-time.Second)
	tracer.Record(sampled, "pod.start", began, began.Add(time.Millisecond), nil)
	for _, none := range []string{"", "bad", sampled[:54] + "0"} {
		tracer.Record(none, "pod.start", began, began, nil)
	}
	ended := spans.Ended()
	if len(ended) != 1 || ended[0].Parent().SpanID().String() != sampled[36:52] || !ended[0].StartTime().Equal(began) || ended[0].EndTime().Sub(began) != time.Millisecond {
		t.Fatalf("%+v", ended)
	}
}

// Without a tracer, and in requests that are not recorded, nothing is allocated.
func TestOffCostsNothing(t *testing.T) {
	ctx := context.Background()
	var tracer *Tracer
	headers := http.Header{Header: {sampled}}
	now := time.Now()
	if n := testing.AllocsPerRun(100, func() {
		requested, span := tracer.Request(ctx, "GET", headers, true, now)
		within, child := Start(requested, "step")
		Within(within, "step", now, now)
		_ = Format(within)
		child.End(nil)
		span.End(nil)
		tracer.Record(sampled, "step", now, now, nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
