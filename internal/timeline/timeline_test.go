package timeline

import (
	"fmt"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/kontiki/kontiki/internal/tracing"
)

func TestARecorderIsBounded(t *testing.T) {
	r := New(nil)
	now := time.Now()
	for i := range mostPods + 10 {
		pod := Pod{UID: fmt.Sprint(i), Namespace: "ns", Name: "a"}
		for range mostSteps + 3 {
			r.Add(pod, Step{Name: Start, Began: now, Ended: now, Detail: strings.Repeat("ä", longestText)})
		}
	}
	if len(r.pods) != mostPods {
		t.Errorf("%d pods are kept", len(r.pods))
	}
	if l := r.Of("9"); len(l.Steps) != 0 || l.Since.IsZero() {
		t.Errorf("of the oldest: %+v", l)
	}
	l := r.Of(fmt.Sprint(mostPods + 9))
	if len(l.Steps) != mostSteps || l.Dropped != 3 || len(l.Steps[0].Detail) != longestText {
		t.Errorf("of the newest: %d steps, %d dropped, %d bytes", len(l.Steps), l.Dropped, len(l.Steps[0].Detail))
	}
}

func TestAddOnce(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	r := New(tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
	pod := Pod{UID: "u", Trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	now := time.Now()
	for range 3 {
		r.AddOnce(pod, Step{Name: Receive, Began: now, Ended: now})
	}
	r.Add(pod, Since(Start, "c", now, "", fmt.Errorf("no")))
	l := r.Of("u")
	if len(l.Steps) != 2 || l.Steps[1].Error != "no" || l.Steps[1].Ended.Before(now) {
		t.Errorf("%+v", l.Steps)
	}
	if ended := spans.Ended(); len(ended) != 2 || ended[1].Name() != "pod.start" || ended[1].Status().Description != "no" {
		t.Errorf("%d spans", len(ended))
	}
	var none *Recorder
	none.Add(pod, Step{})
	if len(none.Of("u").Steps) != 0 {
		t.Error("a nil recorder keeps steps")
	}
}
