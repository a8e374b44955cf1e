package otlp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/internal/tracing"
)

type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	mu    sync.Mutex
	names []string
}

func (c *collector) Export(_ context.Context, r *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range r.ResourceSpans {
		for _, scope := range of.ScopeSpans {
			for _, span := range scope.Spans {
				c.names = append(c.names, span.Name)
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func TestSpansReachACollector(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "otlp.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	c, server := &collector{}, grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(server, c)
	go server.Serve(listener)
	defer server.Stop()
	p, err := New(t.Context(), Config{Endpoint: "unix://" + socket, RatePerMillion: 1_000_000, Service: "test", Instance: "a"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, root := p.Tracer().Root(context.Background(), "root")
	_, child := tracing.Start(ctx, "child")
	child.End(errors.New(strings.Repeat("long", 1000)))
	root.End(nil)
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.Join(c.names, " ") != "child root" {
		t.Errorf("the collector got %v", c.names)
	}
	if n := testutil.ToFloat64(p.queue.exported); n != 2 {
		t.Errorf("%v are counted as exported", n)
	}
}

// stuck is an exporter that waits, and then fails.
type stuck struct{ release chan struct{} }

func (s stuck) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error {
	<-s.release
	return errors.New("the collector is gone")
}
func (stuck) Shutdown(context.Context) error { return nil }

// A collector that takes nothing holds nobody up: what is too much is dropped, and counted.
func TestTheQueueIsBounded(t *testing.T) {
	exporter := stuck{make(chan struct{})}
	p, err := newProvider(t.Context(), Config{RatePerMillion: 1_000_000, Log: slog.New(slog.DiscardHandler)}, exporter)
	if err != nil {
		t.Fatal(err)
	}
	const more = 100
	for range mostWaiting + more {
		_, span := p.Tracer().Root(context.Background(), "root")
		span.End(nil)
	}
	if n := testutil.ToFloat64(p.queue.dropped); n != more {
		t.Errorf("%v were dropped, want %d", n, more)
	}
	close(exporter.release)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(p.queue.failed); n != mostWaiting {
		t.Errorf("%v failed, want %d", n, mostWaiting)
	}
	if n := p.queue.waiting.Load(); n != 0 {
		t.Errorf("%d still count as waiting", n)
	}
}

func TestNothingIsSampledWithoutARate(t *testing.T) {
	p, err := newProvider(t.Context(), Config{}, stuck{make(chan struct{})})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := p.Tracer().Root(context.Background(), "root")
	span.End(nil)
	if tracing.Recording(ctx) || p.queue.waiting.Load() != 0 {
		t.Error("a request was recorded whose caller did not ask for it")
	}
	var none *Provider
	if none.Tracer() != nil || none.Close(t.Context()) != nil {
		t.Error("a nil provider traces")
	}
}
