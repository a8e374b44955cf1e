package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apiserverconfig "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	tracingv1 "k8s.io/component-base/tracing/api/v1"

	"github.com/kontiki/kontiki/internal/tracing/otlp"
)

const (
	// maxTracingConfig limits the file; it has two fields.
	maxTracingConfig = 64 << 10
	// lastSpans is how long a process that stops sends the spans that wait.
	lastSpans = 2 * time.Second
)

// Tracing say which requests are traced, and who gets the traces.
type Tracing struct {
	// File has a TracingConfiguration; "" means that nothing is traced.
	File string
}

// Flags adds the flags that set the options.
func (o *Tracing) Flags(f *pflag.FlagSet) {
	f.StringVar(&o.File, "tracing-config-file", "", "a file with a TracingConfiguration (apiserver.config.k8s.io/v1): the OpenTelemetry collector that gets traces of requests and of pods' starts, and how many; without it there are none")
}

var tracingCodecs = func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict)
}()

// Open returns what the component with the name sends spans by, nil if it sends none.
func (o *Tracing) Open(ctx context.Context, component, instance string, log *slog.Logger) (*otlp.Provider, error) {
	if o.File == "" {
		return nil, nil
	}
	c, err := readTracing(o.File)
	if err != nil {
		return nil, fmt.Errorf("--tracing-config-file: %w", err)
	}
	config := otlp.Config{Service: component, Instance: instance, Log: log.With("part", "tracing")}
	if c.Endpoint != nil {
		config.Endpoint = *c.Endpoint
	}
	if c.SamplingRatePerMillion != nil {
		config.RatePerMillion = *c.SamplingRatePerMillion
	}
	return otlp.New(ctx, config)
}

func readTracing(file string) (*tracingv1.TracingConfiguration, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTracingConfig+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxTracingConfig {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, maxTracingConfig)
	}
	obj, err := runtime.Decode(tracingCodecs.UniversalDecoder(), data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	config, ok := obj.(*apiserverconfig.TracingConfiguration)
	if !ok {
		return nil, fmt.Errorf("%s: want a TracingConfiguration, not %T", file, obj)
	}
	if errs := tracingv1.ValidateTracingConfiguration(&config.TracingConfiguration, nil, nil); len(errs) > 0 {
		return nil, fmt.Errorf("%s: %w", file, errs.ToAggregate())
	}
	return &config.TracingConfiguration, nil
}

// CloseTracing sends the spans that wait.
func CloseTracing(p *otlp.Provider) error {
	ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
	defer cancel()
	if err := p.Close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
