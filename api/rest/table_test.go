package rest_test

import (
	"context"
	"reflect"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/test/harness"
)

const wantsTable = "application/json;as=Table;v=v1;g=meta.k8s.io"

// A request for a table of a resource without one fails before it has any effect, unless the client accepts another format as well.
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

// Clients that are older than meta.k8s.io/v1 ask for v1beta1, and read no other version.
func TestTablesAndMetadataOfTheOlderVersion(t *testing.T) {
	h := harness.New(t)
	config := h.Config("admin", "system:masters")
	if _, err := h.Clientset().CoreV1().Pods("default").Create(context.Background(), pod("p"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const pods = "/api/v1/namespaces/default/pods"
	for _, c := range []struct{ path, as, kind string }{
		{pods, "Table", "Table"},
		{pods + "/p", "Table", "Table"},
		{pods + "/p", "PartialObjectMetadata", "PartialObjectMetadata"},
		{pods, "PartialObjectMetadataList", "PartialObjectMetadataList"},
		{pods + "?watch=1&timeoutSeconds=1", "Table", "Table"},
		{pods + "?watch=1&timeoutSeconds=1", "PartialObjectMetadata", "PartialObjectMetadata"},
	} {
		for version, code := range map[string]int{"v1": 200, "v1beta1": 200, "v1alpha1": 406} {
			got, body := raw(t, config, "GET", c.path, "", nil, "Accept", "application/json;as="+c.as+";g=meta.k8s.io;v="+version)
			if got != code {
				t.Errorf("%s as %s %s: %d %s", c.path, c.as, version, got, body)
				continue
			}
			// What a table's rows include is of the same version.
			all := strings.Count(body, `"apiVersion":"meta.k8s.io/`)
			if of := strings.Count(body, `"apiVersion":"meta.k8s.io/`+version+`"`); code == 200 && (of == 0 || of != all || !strings.Contains(body, `"kind":"`+c.kind+`"`)) {
				t.Errorf("%s as %s %s: %s", c.path, c.as, version, body)
			}
		}
	}
}

// Roles have no columns of their own, as upstream.
func TestAKindWithoutColumnsHasThoseOfEveryObject(t *testing.T) {
	h := harness.New(t)
	config := h.Config("admin", "system:masters")
	role := `{"kind":"Role","apiVersion":"rbac.authorization.k8s.io/v1","metadata":{"name":"r"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}]}`
	roles := "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles"
	if code, body := raw(t, config, "POST", roles, "application/json", []byte(role)); code != 201 {
		t.Fatalf("%d %s", code, body)
	}
	for _, path := range []string{roles, roles + "/r"} {
		code, answer := raw(t, config, "GET", path, "", nil, "Accept", wantsTable)
		if code != 200 || !strings.Contains(answer, `"name":"Created At","type":"date"`) || !strings.Contains(answer, `"cells":["r","2`) || !strings.Contains(answer, `"kind":"PartialObjectMetadata"`) {
			t.Errorf("%s: %d %s", path, code, answer)
		}
	}
}

// TestTablesConvertAnObjectOnce: all who print a version share what the printers read, in gets, lists and watches; printing does not change it.
func TestTablesConvertAnObjectOnce(t *testing.T) {
	h := harness.New(t)
	config := h.Config("admin", "system:masters")
	if _, err := h.Clientset().CoreV1().Pods("default").Create(context.Background(), pod("p"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const pods = "/api/v1/namespaces/default/pods"
	kind, _ := h.Objects.Kinds().ByResource("", "v1", "pods")
	v, _ := h.Store.View().Get(kind.Key("default", "p"))
	kept, err := h.Objects.Printable(kind, v)
	if err != nil {
		t.Fatal(err)
	}
	before := kept.Internal.DeepCopyObject()
	var printing sync.WaitGroup
	for _, path := range []string{pods + "/p", pods, pods + "?includeObject=Object", pods + "?watch=1&timeoutSeconds=1"} {
		printing.Go(func() {
			if code, body := raw(t, config, "GET", path, "", nil, "Accept", wantsTable); code != 200 || !strings.Contains(body, `"cells":["p","0/1",`) {
				t.Errorf("%s: %d %s", path, code, body)
			}
		})
	}
	printing.Wait()
	if again, err := h.Objects.Printable(kind, v); err != nil || again != kept || !reflect.DeepEqual(again.Internal, before) {
		t.Errorf("converted again, or changed: %v", err)
	}
}
