package rest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/rest"
	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/internal/tracing"
	"github.com/kontiki/kontiki/test/harness"
)

const callersTrace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func tracedAPI(t *testing.T, sampler sdktrace.Sampler) (*harness.Harness, *tracetest.SpanRecorder, *timeline.Recorder) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	tracer := tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sampler)), sdktrace.WithSpanProcessor(spans)))
	steps := timeline.New(tracer)
	h := harness.NewConfigured(t, func(c *apiserver.Config) {
		c.Tracer, c.Timeline = tracer, steps
		c.Timelines = func(_ context.Context, pod *corev1.Pod) any { return steps.Of(string(pod.UID)) }
	})
	h.Roles()
	h.Serve()
	return h, spans, steps
}

// send sends a request as a user, with the caller's trace, and returns the code, the body and the warnings.
func send(t *testing.T, config *clientrest.Config, method, path, contentType, body string) (int, []byte, []string) {
	t.Helper()
	c, err := clientrest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, config.Host+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("traceparent", callersTrace)
	response, err := c.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, data, response.Header.Values("Warning")
}

func podBody(name, annotations string) string {
	return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"` + name + `"` + annotations + `},"spec":{"containers":[{"name":"c","image":"i"}]}}`
}

func traceOf(t *testing.T, data []byte) string {
	t.Helper()
	var pod corev1.Pod
	if err := json.Unmarshal(data, &pod); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return pod.Annotations[tracing.Annotation]
}

// An administrator's trace is continued through admission, and by the pod's annotation after that.
func TestARequestIsTraced(t *testing.T) {
	h, spans, steps := tracedAPI(t, sdktrace.NeverSample())
	admin := h.Config("admin", "system:masters")
	before := len(spans.Ended())
	code, data, warnings := send(t, admin, http.MethodPost, "/api/v1/namespaces/default/pods", "application/json", podBody("a", ""))
	if code != http.StatusCreated || len(warnings) != 0 {
		t.Fatalf("%d %s %q", code, data, warnings)
	}
	trace := traceOf(t, data)
	if !strings.HasPrefix(trace, callersTrace[:36]) {
		t.Errorf("the pod's trace is %q", trace)
	}
	var names []string
	for _, span := range spans.Ended()[before:] {
		if span.SpanContext().TraceID().String() == callersTrace[3:35] {
			names = append(names, span.Name())
		}
	}
	if want := "POST /api/v1/namespaces/{:namespace}/pods"; !slices.Contains(names, want) || !slices.Contains(names, "admission.mutate") || !slices.Contains(names, "admission.validate") {
		t.Errorf("spans %q", names)
	}
	var pod corev1.Pod
	if err := json.Unmarshal(data, &pod); err != nil {
		t.Fatal(err)
	}
	l := steps.Of(string(pod.UID))
	if len(l.Steps) != 2 || l.Steps[0].Name != timeline.Admit || l.Steps[1].Name != timeline.Store || l.Steps[0].Ended.After(l.Steps[1].Ended) {
		t.Errorf("steps %+v", l.Steps)
	}
	// A watch stays open: it is no span.
	ctx, cancel := context.WithCancel(t.Context())
	w, err := h.Clientset().CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.Stop()
	cancel()
}

// Nobody chooses the trace that the scheduler and the workers add to, and a user without the right cannot make the cluster record.
func TestTracesCannotBeForged(t *testing.T) {
	h, spans, _ := tracedAPI(t, sdktrace.NeverSample())
	admin := h.Config("admin", "system:masters")
	if _, err := client.Create(t.Context(), h.Client, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pods"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"*"}}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Create(t.Context(), h.Client, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "ann"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "pods"}, Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "ann"}}}); err != nil {
		t.Fatal(err)
	}
	forged := `,"annotations":{"kontiki.io/traceparent":"` + callersTrace + `"}`
	ann := h.Config("ann")
	before := len(spans.Ended())
	code, data, warnings := send(t, ann, http.MethodPost, "/api/v1/namespaces/default/pods", "application/json", podBody("b", forged))
	if code != http.StatusCreated || traceOf(t, data) != "" || len(warnings) != 1 || !strings.Contains(warnings[0], tracing.Annotation) {
		t.Errorf("%d, trace %q, warnings %q", code, traceOf(t, data), warnings)
	}
	if n := len(spans.Ended()) - before; n != 0 {
		t.Errorf("%d spans were recorded", n)
	}
	patch := `{"metadata":{"annotations":{"kontiki.io/traceparent":"` + callersTrace + `","other":"x"}}}`
	code, data, warnings = send(t, ann, http.MethodPatch, "/api/v1/namespaces/default/pods/b", "application/merge-patch+json", patch)
	if code != http.StatusOK || traceOf(t, data) != "" || len(warnings) != 1 || !bytes.Contains(data, []byte(`"other":"x"`)) {
		t.Errorf("%d %s %q", code, data, warnings)
	}
	_, data, _ = send(t, admin, http.MethodPost, "/api/v1/namespaces/default/pods", "application/json", podBody("c", forged))
	trace := traceOf(t, data)
	if trace == "" || trace == callersTrace {
		t.Errorf("the trace is %q", trace)
	}
	for _, patch := range []string{`{"metadata":{"annotations":{"kontiki.io/traceparent":null}}}`, patch} {
		if _, data, _ = send(t, admin, http.MethodPatch, "/api/v1/namespaces/default/pods/c", "application/merge-patch+json", patch); traceOf(t, data) != trace {
			t.Errorf("%s made the trace %q of %q", patch, traceOf(t, data), trace)
		}
	}
	_, data, _ = send(t, admin, http.MethodPost, "/api/v1/namespaces/default/pods?dryRun=All", "application/json", podBody("d", forged))
	if traceOf(t, data) != "" {
		t.Error("a dry run has a trace")
	}
}

// What a component of the master creates begins a trace of its own, as often as the configuration says.
func TestPodsOfControllersBeginTraces(t *testing.T) {
	h, spans, _ := tracedAPI(t, sdktrace.AlwaysSample())
	pod, err := client.Create(t.Context(), h.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
	if err != nil {
		t.Fatal(err)
	}
	trace, ok := tracing.Parse(pod.Annotations[tracing.Annotation])
	if !ok || !slices.ContainsFunc(spans.Ended(), func(s sdktrace.ReadOnlySpan) bool {
		return s.Name() == "create pods" && s.SpanContext().TraceID() == trace.TraceID()
	}) {
		t.Errorf("trace %+v", trace)
	}
}

func TestWhoMayGetAPodSeesItsTimeline(t *testing.T) {
	h, _, _ := tracedAPI(t, sdktrace.NeverSample())
	admin := h.Config("admin", "system:masters")
	send(t, admin, http.MethodPost, "/api/v1/namespaces/default/pods", "application/json", podBody("a", ""))
	path := rest.TimelinePath + "default/a"
	var l timeline.Log
	code, data, _ := send(t, admin, http.MethodGet, path, "", "")
	if err := json.Unmarshal(data, &l); err != nil || code != http.StatusOK || len(l.Steps) != 2 {
		t.Errorf("%d %s", code, data)
	}
	for _, x := range []struct {
		config       *clientrest.Config
		method, path string
		code         int
	}{
		{h.Config("eve"), http.MethodGet, path, http.StatusForbidden},
		{admin, http.MethodDelete, path, http.StatusMethodNotAllowed},
		{admin, http.MethodGet, rest.TimelinePath + "default/none", http.StatusNotFound},
		{admin, http.MethodGet, rest.TimelinePath + "default", http.StatusNotFound},
		{admin, http.MethodGet, rest.TimelinePath + "default/a/b", http.StatusNotFound},
	} {
		if code, data, _ := send(t, x.config, x.method, x.path, "", ""); code != x.code {
			t.Errorf("%s %s: %d %s", x.method, x.path, code, data)
		}
	}
}
