package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/test/await"
)

// collector receives the traces of all hosts. Its socket is in the file system, which the hosts' network namespaces share.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	server *grpc.Server
	dir    string

	mu    sync.Mutex
	spans map[string][]string // "service span" by trace
}

// startCollector starts a collector, and returns the file that configures hosts to send traces to it, of requests whose caller asks for it.
func startCollector() (*collector, string, error) {
	dir, err := os.MkdirTemp("", "kontiki-traces-")
	if err != nil {
		return nil, "", err
	}
	c := &collector{server: grpc.NewServer(), dir: dir, spans: map[string][]string{}}
	socket, file := filepath.Join(dir, "otlp.sock"), filepath.Join(dir, "tracing.yaml")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return c, "", err
	}
	collectorv1.RegisterTraceServiceServer(c.server, c)
	go c.server.Serve(listener)
	return c, file, os.WriteFile(file, []byte("apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\nendpoint: unix://"+socket+"\n"), 0o644)
}

func (c *collector) stop() {
	if c != nil {
		c.server.Stop()
		os.RemoveAll(c.dir)
	}
}

// Export implements the OTLP service.
func (c *collector) Export(_ context.Context, r *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range r.ResourceSpans {
		service := ""
		for _, a := range of.Resource.Attributes {
			if a.Key == "service.name" {
				service = a.Value.GetStringValue()
			}
		}
		for _, scope := range of.ScopeSpans {
			for _, span := range scope.Spans {
				id := fmt.Sprintf("%x", span.TraceId)
				c.spans[id] = append(c.spans[id], service+" "+span.Name)
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func (c *collector) of(trace string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans[trace])
}

// TestWhereAPodsTimeWent: `kontiki trace pod` knows every step of a pod's start from any master, and the trace that the caller began continues
// through the masters to the worker's containers.
func TestWhereAPodsTimeWent(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{TerminationGracePeriodSeconds: new(int64),
		Containers: []corev1.Container{{Name: "c", Image: "busybox:latest", ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sleep", "1000"}}}}}
	err := env.Set.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").SetHeader("traceparent", "00-"+trace+"-00f067aa0ba902b7-01").Body(pod).Do(t.Context()).Into(pod)
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, "-n", ns, "wait", "pod/web", "--for=condition=Ready", "--timeout=60s")

	shown := must(t, "trace", "pod", "web", "-n", ns)
	t.Log("\n" + shown)
	contains(t, shown, "Pod "+ns+"/web on worker-", "after it was requested", "Trace "+trace, "Longest: ")
	if strings.Contains(shown, "Not known") || strings.Contains(shown, "did not say") {
		t.Error("not all steps are known")
	}
	var d timeline.Document
	if err := json.Unmarshal([]byte(must(t, "trace", "pod", "web", "-n", ns, "-o", "json")), &d); err != nil {
		t.Fatal(err)
	}
	names := stepsOf(&d)
	for _, want := range []string{"admit", "store", "queue", "schedule", "bind", "deliver", "receive", "volumes", "sandbox", "network", "create", "start", "ready"} {
		if !slices.Contains(names, want) {
			t.Errorf("the step %s is missing in %v", want, names)
		}
	}
	contains(t, must(t, "trace", "pod", "web", "-n", ns, "-o", "yaml"), "uid: "+d.UID)
	for i := range masters {
		master := fmt.Sprintf("master-%d", i+1)
		out, err := inHost(t, master, env.Kontiki, "kubectl", "--kubeconfig", env.Kubeconfig(), "--server", "https://"+address(t, master)+":6443", "get", "--raw", "/kontiki/v1/timeline/pods/"+ns+"/web")
		var other timeline.Document
		if err != nil || json.Unmarshal([]byte(out), &other) != nil || len(stepsOf(&other)) != len(names) {
			t.Errorf("%s knows %s %v", master, out, err)
		}
	}
	if out, err := kontiki("trace", "pod", "nothing", "-n", ns); err == nil || !strings.Contains(out+err.Error(), `pods "nothing" not found`) {
		t.Errorf("of a pod that does not exist: %s %v", out, err)
	}

	await.That(t, "the whole trace is at the collector", func() error {
		got := traces.of(trace)
		for _, want := range []string{"kontiki-master POST /api/v1/namespaces/{:namespace}/pods", "kontiki-master admission.mutate", "kontiki-master admission.validate", "kontiki-master raft.propose",
			"kontiki-master raft.commit", "kontiki-master raft.apply", "kontiki-master pod.queue", "kontiki-master pod.schedule", "kontiki-master pod.bind", "kontiki-master pod.deliver",
			"kontiki-worker pod.receive", "kontiki-worker pod.sandbox", "kontiki-worker pod.create", "kontiki-worker pod.start", "kontiki-worker pod.ready", "kontiki-master pod.report"} {
			if !slices.Contains(got, want) {
				return fmt.Errorf("%q is missing in %q", want, got)
			}
		}
		return nil
	})

	must(t, "dev", "kill", d.Node)
	must(t, "dev", "start", d.Node)
	healthy(t)
	await.That(t, "the command says what the worker does not know after its restart", func() error {
		shown, err := kontiki("trace", "pod", "web", "-n", ns)
		if err != nil || !strings.Contains(shown, "Not known: receive, volumes, sandbox, create, start, ready.") || !strings.Contains(shown, "worker "+d.Node+" was started at ") || !strings.Contains(shown, "admit") {
			return fmt.Errorf("%s %w", shown, err)
		}
		return nil
	})
}

func stepsOf(d *timeline.Document) (names []string) {
	for _, s := range d.Sources {
		for _, step := range s.Steps {
			names = append(names, step.Name)
		}
	}
	return names
}
