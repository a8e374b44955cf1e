package process

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheTracingConfigurationIsRead(t *testing.T) {
	dir := t.TempDir()
	open := func(text string) error {
		file := filepath.Join(dir, "tracing.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		o := Tracing{File: file}
		p, err := o.Open(t.Context(), "test", "a", slog.New(slog.DiscardHandler))
		if err == nil {
			if p.Tracer() == nil {
				t.Error("there is no tracer")
			}
			if err := CloseTracing(p); err != nil {
				t.Error(err)
			}
		}
		return err
	}
	const head = "kind: TracingConfiguration\napiVersion: apiserver.config.k8s.io/"
	for _, good := range []string{head + "v1\n", head + "v1beta1\nendpoint: collector:4317\nsamplingRatePerMillion: 100\n", head + "v1\nendpoint: unix:///run/otlp.sock\n"} {
		if err := open(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		head + "v1\nsamplingRatePerMillion: 1000001\n":                                "samplingRatePerMillion",
		head + "v1\nsamplingRatePerMillion: -1\n":                                     "samplingRatePerMillion",
		head + "v1\nendpoint: http://collector:4317\n":                                "endpoint",
		head + "v1\nendpont: collector:4317\n":                                        "endpont",
		head + "v9\n":                                                                 "v9",
		"kind: AuthenticationConfiguration\napiVersion: apiserver.config.k8s.io/v1\n": "want a TracingConfiguration",
		"":                         "tracing.yaml",
		strings.Repeat("#", 70000): "larger than",
	} {
		if err := open(bad); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--tracing-config-file") {
			t.Errorf("%.60q: %v, want %q", bad, err, want)
		}
	}
	none := Tracing{}
	if p, err := none.Open(t.Context(), "test", "a", slog.Default()); p != nil || err != nil || p.Tracer() != nil || CloseTracing(p) != nil {
		t.Errorf("without a file: %v %v", p, err)
	}
}
