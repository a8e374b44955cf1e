package top

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

func newPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "nginx"}}}}
}

// follow runs a feed until the test ends.
func follow(t *testing.T, config *rest.Config, query Query) (*Feed, *kubernetes.Clientset) {
	t.Helper()
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	f := newFeed(set.CoreV1().RESTClient(), query, make(chan struct{}, 1))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return f, set
}

// shows waits until the screen of a model that is fed has all texts, and none of those that begin with "!".
func shows(t *testing.T, f *Feed, m *Model, texts ...string) {
	t.Helper()
	await.That(t, strings.Join(texts, ", "), func() error {
		m.Update(f.Snapshot())
		screen := screenText(m)
		for _, text := range texts {
			without, not := strings.CutPrefix(text, "!")
			if strings.Contains(screen, without) == not {
				return fmt.Errorf("%q in\n%s", text, screen)
			}
		}
		return nil
	})
}

func TestPodsAreListedAndFollowed(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	config := h.Config("admin", "system:masters")
	f, set := follow(t, config, Query{Kind: podKind})
	m := NewModel(f.query, time.Now)
	m.Resize(120, 20)
	shows(t, f, m, "there are none")
	pods := set.CoreV1().Pods("default")
	for _, name := range []string{"web-0", "web-1"} {
		if _, err := pods.Create(ctx, newPod(name), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	shows(t, f, m, "NAMESPACE", "READY", "STATUS", "web-0", "web-1", "0/1", "Pending")
	r := m.Selected()
	stale := *r
	stale.UID = "00000000-0000-0000-0000-000000000000"
	if err := remove(ctx, f.client, podKind, &stale); err == nil || !strings.Contains(err.Error(), "UID") {
		t.Errorf("another object of the same name: %v", err)
	}
	text, err := objectYAML(ctx, f.client, podKind, r)
	if err != nil || !strings.Contains(text, "image: nginx") || strings.Contains(text, "managedFields") {
		t.Errorf("YAML: %v\n%s", err, text)
	}
	text, err = description(config, podKind, r)
	if err != nil || !strings.Contains(text, "Name:             web-0") {
		t.Errorf("describe: %v\n%s", err, text)
	}
	request, container, all, err := logRequest(ctx, f.client, f.query, r, "", true)
	if err != nil || container != "main" || len(all) != 1 || !strings.Contains(request.URL().String(), "previous=true") {
		t.Errorf("logs: %v, %q of %q by %v", err, container, all, request)
	}
	if err := remove(ctx, f.client, podKind, r); err != nil {
		t.Fatal(err)
	}
	shows(t, f, m, "!web-0", "web-1")
}

func TestEveryKindThatIsServedIsShown(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	set := h.Clientset()
	client := set.CoreV1().RESTClient()
	definition := `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"boats.sea.example"},"spec":{"group":"sea.example",
		"scope":"Namespaced","names":{"plural":"boats","singular":"boat","kind":"Boat","shortNames":["bt"]},"versions":[{"name":"v1","served":true,"storage":true,
		"additionalPrinterColumns":[{"name":"Sail","type":"string","jsonPath":".spec.sail"}],
		"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"sail":{"type":"string"}}}}}}}]}}`
	if err := client.Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").SetHeader("Content-Type", "application/json").Body([]byte(definition)).Do(ctx).Error(); err != nil {
		t.Fatal(err)
	}
	var kind Kind
	await.That(t, "the kind", func() error {
		all, err := kinds(ctx, set.Discovery())
		if err != nil {
			return err
		}
		for _, name := range []string{"po", "deploy", "Node", "ingresses.networking.k8s.io", "storageclasses"} {
			if _, ok := find(all, name); !ok {
				return fmt.Errorf("no %s", name)
			}
		}
		found, ok := find(all, "bt")
		if kind = found; !ok || kind.Title() != "boats.sea.example" || !kind.Namespaced || !kind.Watched {
			return fmt.Errorf("found %v: %+v", ok, found)
		}
		return nil
	})
	boat, err := json.Marshal(map[string]any{"apiVersion": "sea.example/v1", "kind": "Boat", "metadata": map[string]any{"name": "kon-tiki"},
		"spec": map[string]any{"sail": "\x1b[2J\x1b]0;owned\x07square\u202e"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Post().AbsPath("/apis/sea.example/v1/namespaces/default/boats").SetHeader("Content-Type", "application/json").Body(boat).Do(ctx).Error(); err != nil {
		t.Fatal(err)
	}
	f, _ := follow(t, h.Config("admin", "system:masters"), Query{Kind: kind, Namespace: "default"})
	m := NewModel(f.query, time.Now)
	shows(t, f, m, "SAIL", "kon-tiki", "square", "!\x1b", "!owned", "!\u202e")
	text, err := description(h.Config("admin", "system:masters"), kind, m.Selected())
	if err != nil || !strings.Contains(text, "kon-tiki") {
		t.Errorf("describe: %v\n%s", err, text)
	}
}

func TestWhatMayNotBeReadSaysSo(t *testing.T) {
	h := harness.New(t)
	h.Roles()
	f, _ := follow(t, h.Config("jane"), Query{Kind: podKind, Namespace: "default"})
	m := NewModel(f.query, time.Now)
	m.Resize(200, 10)
	shows(t, f, m, `User "jane" cannot list resource "pods"`)
}

func TestALongListIsCut(t *testing.T) {
	f := newFeed(nil, Query{Kind: podKind}, make(chan struct{}, 1))
	event := func(kind, name string) string {
		return fmt.Sprintf(`{"type":%q,"object":{"kind":"Table","rows":[{"cells":[%q],"object":{"metadata":{"name":%q,"uid":%q,"resourceVersion":"7"}}}]}}`, kind, name, name, name)
	}
	for i := range maxRows + 1 {
		if err := f.apply([]byte(event("ADDED", fmt.Sprint("pod-", i)))); err != nil {
			t.Fatal(err)
		}
	}
	if s := f.Snapshot(); len(s.Rows) != maxRows || !s.More {
		t.Errorf("%d rows, more: %v", len(s.Rows), s.More)
	}
	if err := f.apply([]byte(event("DELETED", "pod-3"))); err != nil || len(f.Snapshot().Rows) != maxRows-1 || f.version != "7" {
		t.Errorf("a deletion: %v, %d rows, at %s", err, len(f.Snapshot().Rows), f.version)
	}
	for _, bad := range []string{"{", `{"type":"ERROR","object":{"code":500,"message":"broken"}}`} {
		if f.apply([]byte(bad)) == nil {
			t.Errorf("%s is no error", bad)
		}
	}
}

func TestPathsOfHostileNamesAreRefused(t *testing.T) {
	for _, name := range []string{"..", "a/b", ".", "a%2fb"} {
		if p, err := podKind.path("default", name); err == nil {
			t.Errorf("%q: %s", name, p)
		}
		if p, err := podKind.path(name, ""); err == nil {
			t.Errorf("namespace %q: %s", name, p)
		}
	}
	if p, err := podKind.path("default", "web-0"); err != nil || p != "/api/v1/namespaces/default/pods/web-0" {
		t.Error(p, err)
	}
}

func TestUsageIsShownBesideTheTable(t *testing.T) {
	answer := `{"items":[{"metadata":{"namespace":"default","name":"web-0"},"containers":[{"usage":{"cpu":"250m","memory":"64Mi"}},{"usage":{"cpu":"1","memory":"1Gi"}}]}]}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if w.Header().Set("Content-Type", "application/json"); r.URL.Path == "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods" {
			fmt.Fprint(w, answer)
			return
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"usage may not be read","code":403,"reason":"Forbidden"}`)
	}))
	defer server.Close()
	set, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	f := newFeed(set.CoreV1().RESTClient(), Query{Kind: podKind, Namespace: "default"}, make(chan struct{}, 1))
	usage, err := f.usage(context.Background())
	if u := usage["default/web-0"]; err != nil || u.cpu() != "1250m" || u.memory() != "1088Mi" {
		t.Errorf("%v: %s, %s", err, u.cpu(), u.memory())
	}
	f.query.Namespace = "other"
	if _, err := f.usage(context.Background()); err == nil || !strings.Contains(err.Error(), "usage may not be read") {
		t.Errorf("forbidden: %v", err)
	}
}
