package rest_test

import (
	"context"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/test/harness"
)

const wantsTable = "application/json;as=Table;v=v1;g=meta.k8s.io"

// What has no table says so, before it does anything, unless the client takes something else as well.
func TestTablesThatThereAreNone(t *testing.T) {
	h := harness.New(t)
	config := h.Config("admin", "system:masters")
	if _, err := h.Clientset().CoreV1().Pods("default").Create(context.Background(), pod("p"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	before := h.Store.View().Revision()
	for path, body := range map[string]string{
		"/api/v1/namespaces/default/serviceaccounts/default/token": `{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","spec":{}}`,
		"/api/v1/namespaces/default/pods/p/binding":                `{"target":{"kind":"Node","name":"n"}}`,
		"/api/v1/namespaces/default/pods/p/eviction":               `{"kind":"Eviction","apiVersion":"policy/v1","metadata":{"name":"p"}}`,
	} {
		code, answer := raw(t, config, "POST", path, "application/json", []byte(body), "Accept", wantsTable)
		if code != 406 || !strings.Contains(answer, "only the following media types are accepted") || !strings.Contains(answer, `"reason":"NotAcceptable"`) {
			t.Errorf("%s: %d %s", path, code, answer)
		}
	}
	if now := h.Store.View().Revision(); now != before {
		t.Error("something was done all the same")
	}
	code, answer := raw(t, config, "POST", "/api/v1/namespaces/default/serviceaccounts/default/token", "application/json",
		[]byte(`{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","spec":{}}`), "Accept", wantsTable+",application/json")
	if code != 201 || !strings.Contains(answer, `"kind":"TokenRequest"`) {
		t.Errorf("with something else: %d %s", code, answer)
	}
}

func TestAScaleIsATable(t *testing.T) {
	h := harness.New(t)
	if _, err := h.Clientset().AppsV1().Deployments("default").Create(context.Background(), deployment("d", 3), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	code, answer := raw(t, h.Config("admin", "system:masters"), "GET", "/apis/apps/v1/namespaces/default/deployments/d/scale", "", nil, "Accept", wantsTable)
	if code != 200 || !strings.Contains(answer, `"kind":"Table"`) || !strings.Contains(answer, `"cells":["d",3,0,`) || !strings.Contains(answer, `"kind":"PartialObjectMetadata"`) {
		t.Errorf("%d %s", code, answer)
	}
}
