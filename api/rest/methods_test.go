package rest_test

import (
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/test/harness"
)

// TestConnectionsNeedAnUpgrade: exec, attach and portforward are refused without an upgrade as the client's error, and take no other method
// than GET and POST, whereas proxies take all.
func TestConnectionsNeedAnUpgrade(t *testing.T) {
	h, agent := withAgent(t)
	config := h.Config("admin", "system:masters")
	const pod = "/api/v1/namespaces/default/pods/p/"
	for _, path := range []string{pod + "exec?command=id&stdout=1", pod + "attach?stdout=1", pod + "portforward?ports=80"} {
		for _, method := range []string{"GET", "POST"} {
			if code, body := raw(t, config, method, path, "", nil); code != http.StatusBadRequest || !strings.Contains(body, "Upgrade request required") {
				t.Errorf("%s %s: %d %s", method, path, code, body)
			}
		}
		for _, method := range []string{"HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			if code, body := raw(t, config, method, path, "", nil); code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d %s", method, path, code, body)
			}
		}
	}
	for _, path := range []string{"binding", "eviction", "log"} {
		if code, body := raw(t, config, "DELETE", pod+path, "", nil); code != http.StatusMethodNotAllowed {
			t.Errorf("DELETE %s: %d %s", path, code, body)
		}
	}
	agent.take()
	for _, method := range []string{"HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		if code, body := raw(t, config, method, "/api/v1/nodes/w1/proxy/metrics", "", nil); code != http.StatusTeapot || len(agent.take()) != 1 {
			t.Errorf("%s of a proxy: %d %s", method, code, body)
		}
	}
}

// TestPathsEndWhereTheyAreServed: nothing is served below subresources and other paths that stand for themselves.
func TestPathsEndWhereTheyAreServed(t *testing.T) {
	h := harness.New(t)
	named := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(name)) })
	}
	h.REST.Extra = map[string]http.Handler{"/kontiki/v1/certs": named("certs"), "/debug/": named("debug")}
	config := h.Config("admin", "system:masters")
	if _, err := h.Clientset().CoreV1().Pods("default").Create(t.Context(), pod("t1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const one = "/api/v1/namespaces/default/pods/t1"
	for path, want := range map[string]int{
		one + "/status": 200, one + "/status/": 200, one + "/status/foo": 404, one + "/log/foo": 404, one + "/exec/foo": 404,
		"/api/v1/nodes/n/status/foo": 404, "/apis/apps/v1/namespaces/default/deployments/d/scale/foo": 404,
		"/kontiki/v1/certs": 200, "/kontiki/v1/certs/foo": 404, "/debug/": 200, "/debug/x": 200, "/debug": 404,
	} {
		if code, body := raw(t, config, "GET", path, "", nil); code != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

// TestPostsOfAnotherNamespace: what is posted to a subresource must not name another namespace than the path.
func TestPostsOfAnotherNamespace(t *testing.T) {
	h := harness.New(t)
	config := h.Config("admin", "system:masters")
	if _, err := h.Clientset().CoreV1().Pods("default").Create(t.Context(), pod("p"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for path, body := range map[string]string{
		"pods/p/eviction":               `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p","namespace":"kube-system"}}`,
		"pods/p/binding":                `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"p","namespace":"kube-system"},"target":{"kind":"Node","name":"n"}}`,
		"bindings":                      `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"p","namespace":"kube-system"},"target":{"kind":"Node","name":"n"}}`,
		"serviceaccounts/default/token": `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","metadata":{"namespace":"kube-system"},"spec":{"audiences":["a"]}}`,
	} {
		code, answer := raw(t, config, "POST", "/api/v1/namespaces/default/"+path, "application/json", []byte(body))
		if code != http.StatusBadRequest || !strings.Contains(answer, "the namespace of the provided object does not match the namespace sent on the request") {
			t.Errorf("%s: %d %s", path, code, answer)
		}
	}
	if got, err := h.Clientset().CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{}); err != nil || got.Spec.NodeName != "" || got.DeletionTimestamp != nil {
		t.Errorf("the pod is %+v, %v", got, err)
	}
}
