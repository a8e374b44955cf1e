package definitions_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/objects"
	kontikirest "github.com/kontiki/kontiki/api/rest"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

var widgetsResource = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}

// send sends a request, and returns the status code and the body.
func send(t *testing.T, h *harness.Harness, method, path, body string) (int, []byte) {
	t.Helper()
	config := h.Config("admin", "system:masters")
	c, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, config.Host+path, bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, data
}

// TestCustomResourcesInTransactions: they are validated, defaulted and changed together with others, or nothing is.
func TestCustomResourcesInTransactions(t *testing.T) {
	h := harness.New(t)
	c := dynamicClient(t, h)
	define(t, c, widgets)
	widget := func(name, spec string) string {
		return `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"namespace":"default","name":"` + name + `"},"spec":` + spec + `}`
	}
	const settings = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"default","name":"settings"}}`
	code, body := send(t, h, "POST", kontikirest.TransactionsPath, `{"operations":[{"create":`+settings+`},{"create":`+widget("a", `{"size":11}`)+`}]}`)
	if code != http.StatusUnprocessableEntity || !strings.Contains(string(body), "size is over max") {
		t.Fatalf("%d %s", code, body)
	}
	configMaps := c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace("default")
	if _, err := configMaps.Get(ctx, "settings", metav1.GetOptions{}); err == nil {
		t.Error("a transaction with an invalid custom resource changed something")
	}
	code, body = send(t, h, "POST", kontikirest.TransactionsPath, `{"fieldManager":"tests","operations":[{"create":`+settings+`},{"create":`+widget("a", `{"color":"red"}`)+`},
		{"apply":`+widget("b", `{"parts":[{"name":"x","weight":1}]}`)+`}]}`)
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	list, err := c.Resource(widgetsResource).Namespace("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Fatalf("%v %v", list, err)
	}
	for _, w := range list.Items {
		if size, _, _ := unstructured.NestedInt64(w.Object, "spec", "size"); size != 3 {
			t.Errorf("%s: size %d", w.GetName(), size)
		}
	}
	revision := list.Items[1].GetResourceVersion()
	code, body = send(t, h, "POST", kontikirest.TransactionsPath, `{"operations":[{"delete":{"apiVersion":"example.com/v1","kind":"Widget","namespace":"default","name":"a"}},
		{"update":`+strings.Replace(widget("b", `{"size":2,"max":1}`), `"name":"b"`, `"name":"b","resourceVersion":"`+revision+`"`, 1)+`}]}`)
	if code != http.StatusUnprocessableEntity {
		t.Errorf("%d %s", code, body)
	}
	if _, err := c.Resource(widgetsResource).Namespace("default").Get(ctx, "a", metav1.GetOptions{}); err != nil {
		t.Errorf("a refused transaction deleted an object: %v", err)
	}
}

// TestDeletedCustomResourcesAreKept: a copy can be brought back, as of any other object.
func TestDeletedCustomResourcesAreKept(t *testing.T) {
	h := harness.New(t)
	c := dynamicClient(t, h)
	define(t, c, widgets)
	res := c.Resource(widgetsResource).Namespace("default")
	made, err := res.Create(ctx, object(t, `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, spec: {color: red}}`), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	code, body := send(t, h, "GET", objects.DeletedPath+"?namespace=default", "")
	if code != http.StatusOK || !strings.Contains(string(body), string(made.GetUID())) {
		t.Fatalf("%d %s", code, body)
	}
	code, body = send(t, h, "GET", objects.DeletedPath+"/"+string(made.GetUID()), "")
	var kept struct {
		Spec map[string]any
	}
	if err := json.Unmarshal(body, &kept); code != http.StatusOK || err != nil || kept.Spec["color"] != "red" {
		t.Errorf("%d %v %s", code, err, body)
	}
}

// TestADefinitionAndItsObjectInOneTransaction are refused, with what to do instead; and so it can be done.
func TestADefinitionAndItsObjectInOneTransaction(t *testing.T) {
	h := harness.New(t)
	definition, err := json.Marshal(object(t, widgets))
	if err != nil {
		t.Fatal(err)
	}
	const widget = `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"namespace":"default","name":"a"},"spec":{}}`
	post := func(operations ...string) (int, string) {
		code, body := send(t, h, "POST", kontikirest.TransactionsPath, `{"fieldManager":"tests","operations":[`+strings.Join(operations, ",")+`]}`)
		return code, string(body)
	}
	for _, operation := range []string{"create", "apply"} {
		code, body := post(`{"`+operation+`":`+string(definition)+`}`, `{"create":`+widget+`}`)
		if code != http.StatusBadRequest || !strings.Contains(body, `operations[1]`) || !strings.Contains(body, objects.DefinedHere) {
			t.Errorf("%s: %d %s", operation, code, body)
		}
	}
	if code, body := post(`{"create":` + widget + `}`); code != http.StatusBadRequest || strings.Contains(body, objects.DefinedHere) {
		t.Errorf("without a definition: %d %s", code, body)
	}
	kind := &kontikiv1.Kind{Group: "example.com", Version: "v1", Kind: "Widget"}
	create := func(kind *kontikiv1.Kind, text string) *kontikiv1.Operation {
		return &kontikiv1.Operation{Operation: &kontikiv1.Operation_Create{Create: &kontikiv1.CreateRequest{
			Object: &kontikiv1.Object{Kind: kind, Encoding: kontikiv1.Encoding_ENCODING_JSON, Data: []byte(text)}}}}
	}
	defined := create(&kontikiv1.Kind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}, string(definition))
	call := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	_, err = call.Transact(ctx, &kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{defined, create(kind, widget)}})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), objects.DefinedHere) {
		t.Errorf("by gRPC: %v", err)
	}
	if code, body := post(`{"create":` + string(definition) + `}`); code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	if _, err := call.Transact(ctx, &kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{create(kind, widget)}}); err != nil {
		t.Error(err)
	}
}
