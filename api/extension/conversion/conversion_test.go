package conversion_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/test/gathered"
	"github.com/kontiki/kontiki/test/harness"
)

var ctx = context.Background()

const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  names: {plural: widgets, kind: Widget}
  scope: Namespaced
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig: {url: "%s/convert", caBundle: %s}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {host: {type: string}, port: {type: integer}}}}}}
  - name: v2
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {address: {type: string}}}}}}
`

// hook converts between host and port, and an address.
type hook struct {
	calls, objects atomic.Int64
	spoilt         atomic.Value // how a response is spoilt: a func(response map[string]any)
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.calls.Add(1)
	body, _ := io.ReadAll(r.Body)
	var review map[string]any
	if err := json.Unmarshal(body, &review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	request := review["request"].(map[string]any)
	var converted []any
	for _, obj := range request["objects"].([]any) {
		h.objects.Add(1)
		u := &unstructured.Unstructured{Object: obj.(map[string]any)}
		spec, _, _ := unstructured.NestedMap(u.Object, "spec")
		if u.GetAPIVersion() == "example.com/v1" {
			u.Object["spec"] = map[string]any{"address": fmt.Sprintf("%v:%v", spec["host"], spec["port"])}
		} else {
			host, port, _ := strings.Cut(spec["address"].(string), ":")
			var n int
			fmt.Sscan(port, &n)
			u.Object["spec"] = map[string]any{"host": host, "port": n}
		}
		u.SetAPIVersion(request["desiredAPIVersion"].(string))
		u.SetResourceVersion("77")
		converted = append(converted, u.Object)
	}
	response := map[string]any{"uid": request["uid"], "result": map[string]any{"status": "Success"}, "convertedObjects": converted}
	if spoil, ok := h.spoilt.Load().(func(map[string]any)); ok {
		spoil(response)
	}
	json.NewEncoder(w).Encode(map[string]any{"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response})
}

func start(t *testing.T) (*hook, *harness.Harness, dynamic.Interface) {
	t.Helper()
	converter := &hook{}
	server := httptest.NewTLSServer(converter)
	t.Cleanup(server.Close)
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.LocalWebhooks = true })
	c, err := dynamic.NewForConfig(h.Config("admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	bundle := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(fmt.Sprintf(definition, server.URL, bundle)), &u.Object); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).Create(ctx, u, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return converter, h, c
}

func widgets(c dynamic.Interface, version string) dynamic.ResourceInterface {
	return c.Resource(schema.GroupVersionResource{Group: "example.com", Version: version, Resource: "widgets"}).Namespace("default")
}

func widget(version, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/" + version, "kind": "Widget",
		"metadata": map[string]any{"name": name}, "spec": spec}}
}

// TestConvertedOnce: objects are converted by one call a list, and readers share the results.
func TestConvertedOnce(t *testing.T) {
	converter, h, c := start(t)
	for i := range 20 {
		if _, err := widgets(c, "v1").Create(ctx, widget("v1", fmt.Sprint("w", i), map[string]any{"host": "h", "port": int64(i)}), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := converter.calls.Load(); n != 0 {
		t.Errorf("%d calls where no conversion is needed", n)
	}
	for range 3 {
		list, err := widgets(c, "v2").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		address, _, _ := unstructured.NestedString(list.Items[3].Object, "spec", "address")
		if len(list.Items) != 20 || !strings.HasPrefix(address, "h:") || list.Items[3].GetResourceVersion() == "77" {
			t.Fatalf("list: %v", list.Items[3])
		}
	}
	if _, err := widgets(c, "v2").Get(ctx, "w7", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	if calls, objects := converter.calls.Load(), converter.objects.Load(); calls != 1 || objects != 20 {
		t.Errorf("%d calls with %d objects, want 1 with 20", calls, objects)
	}
	counted := gathered.Values(t, h.Conversions)
	for _, series := range []string{
		`apiserver_conversion_webhook_request_total{failure_type="",result="success"}`, `apiserver_conversion_webhook_duration_seconds{failure_type="",result="success"}`,
		`apiserver_crd_conversion_webhook_duration_seconds{crd_name="widgets.example.com",from_version="v1",succeeded="true",to_version="v2"}`,
	} {
		if counted[series] != 1 {
			t.Errorf("%s is %v, want 1", series, counted[series])
		}
	}
	made, err := widgets(c, "v2").Create(ctx, widget("v2", "other", map[string]any{"address": "x:80"}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stored, err := widgets(c, "v1").Get(ctx, "other", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if port, _, _ := unstructured.NestedInt64(stored.Object, "spec", "port"); port != 80 || stored.GetUID() != made.GetUID() {
		t.Errorf("stored: %v", stored.Object)
	}
}

// TestABrokenWebhook: what a webhook may not do is an error of the request, and other versions go on.
func TestABrokenWebhook(t *testing.T) {
	converter, h, c := start(t)
	if _, err := widgets(c, "v1").Create(ctx, widget("v1", "a", map[string]any{"host": "h"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	object := func(r map[string]any) map[string]any { return r["convertedObjects"].([]any)[0].(map[string]any) }
	for want, spoil := range map[string]func(map[string]any){
		"must have the same name":        func(r map[string]any) { object(r)["metadata"].(map[string]any)["name"] = "b" },
		"must have the same kind":        func(r map[string]any) { object(r)["kind"] = "Gadget" },
		"invalid groupVersion":           func(r map[string]any) { object(r)["apiVersion"] = "example.com/v3" },
		"must have the same name: a != ": func(r map[string]any) { delete(object(r), "metadata") },
		"returned 0 objects, expected":   func(r map[string]any) { r["convertedObjects"] = []any{} },
		"expected response.uid":          func(r map[string]any) { r["uid"] = "x" },
		"no, thanks":                     func(r map[string]any) { r["result"] = map[string]any{"status": "Failure", "message": "no, thanks"} },
		"Invalid value":                  func(r map[string]any) { object(r)["metadata"].(map[string]any)["labels"] = map[string]any{"-": "x"} },
	} {
		converter.spoilt.Store(spoil)
		if _, err := widgets(c, "v2").Get(ctx, "a", metav1.GetOptions{}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "conversion webhook for example.com/v1, Kind=Widget failed") {
			t.Errorf("want %q: %v", want, err)
		}
	}
	converter.spoilt.Store(func(map[string]any) { panic(http.ErrAbortHandler) })
	if _, err := widgets(c, "v2").Get(ctx, "a", metav1.GetOptions{}); err == nil {
		t.Error("no answer is no error")
	}
	counted := gathered.Values(t, h.Conversions)
	for kind, want := range map[string]float64{"conversion_webhook_invalid_converted_object_failure": 5, "conversion_webhook_partial_response_failure": 1,
		"conversion_webhook_malformed_response_failure": 2, "conversion_webhook_call_failure": 1} {
		if got := counted[fmt.Sprintf("apiserver_conversion_webhook_request_total{failure_type=%q,result=\"failure\"}", kind)]; got != want {
			t.Errorf("%v calls failed with %s, want %v", got, kind, want)
		}
	}
	if got := counted[`apiserver_crd_conversion_webhook_duration_seconds{crd_name="widgets.example.com",from_version="v1",succeeded="false",to_version="v2"}`]; got != 9 {
		t.Errorf("%v calls failed, want 9", got)
	}
	if _, err := widgets(c, "v1").Get(ctx, "a", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}
