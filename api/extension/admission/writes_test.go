package admission_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	reviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  names: {kind: Widget, plural: widgets}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}, colour: {type: string, default: red}}}}}}
  - name: v2
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}, colour: {type: string, default: red}}}}}}
`

// TestCustomResources: webhooks and policies see them in the version that they name, what they add is pruned and defaulted, and a policy may have
// parameters of a custom kind.
func TestCustomResources(t *testing.T) {
	f := start(t)
	c, err := dynamic.NewForConfig(f.Config("admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	crd := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(widgets), &crd.Object); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).Create(ctx, crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	v1 := c.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}).Namespace("default")
	widget := func(name string, size int64) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": name}, "spec": map[string]any{"size": size}}}
	}
	if _, err := v1.Create(ctx, widget("most", 7), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	f.answers["/v2"] = patching(`[{"op":"remove","path":"/spec/colour"},{"op":"add","path":"/spec/unknown","value":1},{"op":"replace","path":"/spec/size","value":9007199254740993}]`)
	f.mutates("v2", "/v2", rule("example.com", "v2", "widgets", create), nil)
	made, err := v1.Create(ctx, widget("a", 1), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec, _, _ := unstructured.NestedMap(made.Object, "spec")
	if fmt.Sprint(spec) != "map[colour:red size:9007199254740993]" || made.GetAPIVersion() != "example.com/v1" {
		t.Errorf("%v", made.Object)
	}
	if taken := f.taken(); len(taken) != 1 || taken[0].request.Kind.Version != "v2" || !strings.Contains(string(taken[0].request.Object.Raw), `"example.com/v2"`) {
		t.Errorf("%v", taken)
	}
	deny := admissionv1.DenyAction
	f.policy("sizes", admissionv1.ValidatingAdmissionPolicySpec{MatchConstraints: constraints("example.com", "v2", "widgets", create), ParamKind: &admissionv1.ParamKind{APIVersion: "example.com/v1", Kind: "Widget"},
		Validations: []admissionv1.Validation{{Expression: "object.spec.size <= params.spec.size", MessageExpression: "'at most ' + string(params.spec.size)"}}},
		func(b *admissionv1.ValidatingAdmissionPolicyBinding) {
			b.Spec.ParamRef = &admissionv1.ParamRef{Name: "most", Namespace: "default", ParameterNotFoundAction: &deny}
		})
	if _, err := v1.Create(ctx, widget("b", 1), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "denied request: at most 7") {
		t.Error(err)
	}
}

// TestTransactionsAndGRPC: each operation of a transaction is shown before anything is stored, once, and a refusal keeps all of it from being stored.
// The gRPC front has the same rules.
func TestTransactionsAndGRPC(t *testing.T) {
	f := start(t)
	f.answers["/v"] = func(r *reviewv1.AdmissionRequest, response *reviewv1.AdmissionResponse) {
		response.Allowed = r.Name != "c"
	}
	f.answers["/m"] = patching(`[{"op":"add","path":"/metadata/labels","value":{"seen":"yes"}}]`)
	f.mutates("m", "/m", rule("", "v1", "configmaps", create), nil)
	f.validates("v", "/v", rule("", "v1", "configmaps", create), nil)
	object := func(name string) *kontikiv1.Object {
		raw, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name, "namespace": "default"}})
		if err != nil {
			t.Fatal(err)
		}
		return &kontikiv1.Object{Kind: &kontikiv1.Kind{Version: "v1", Kind: "ConfigMap"}, Encoding: kontikiv1.Encoding_ENCODING_JSON, Data: raw}
	}
	api := kontikiv1.NewObjectsClient(f.GRPC("admin", "system:masters"))
	made, err := api.Create(ctx, &kontikiv1.CreateRequest{Object: object("a")})
	if err != nil || !strings.Contains(string(made.GetObject().GetData()), `"seen":"yes"`) {
		t.Fatalf("%v, %v", made, err)
	}
	if _, err := api.Create(ctx, &kontikiv1.CreateRequest{Object: object("c")}); err == nil || !strings.Contains(err.Error(), `admission webhook "v.example.com" denied the request`) {
		t.Error(err)
	}
	f.taken()
	transact := func(names ...string) error {
		request := &kontikiv1.TransactRequest{}
		for _, name := range names {
			request.Operations = append(request.Operations, &kontikiv1.Operation{Operation: &kontikiv1.Operation_Create{Create: &kontikiv1.CreateRequest{Object: object(name)}}})
		}
		_, err := api.Transact(ctx, request)
		return err
	}
	if err := transact("b", "c"); err == nil || !strings.Contains(err.Error(), "denied the request") {
		t.Error(err)
	}
	if n := len(f.taken()); n != 4 {
		t.Errorf("%d reviews of two operations by two webhooks", n)
	}
	if _, err := f.CoreV1().ConfigMaps("default").Get(ctx, "b", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a part of a refused transaction: %v", err)
	}
	if err := transact("b", "d"); err != nil {
		t.Error(err)
	}
	if cm, err := f.CoreV1().ConfigMaps("default").Get(ctx, "d", metav1.GetOptions{}); err != nil || cm.Labels["seen"] != "yes" {
		t.Errorf("%v, %v", cm, err)
	}
}

// TestHostileWebhooks: what a webhook answers is bounded and checked; no answer stores anything but what the request may store.
func TestHostileWebhooks(t *testing.T) {
	f := start(t)
	many := `[` + strings.Repeat(`{"op":"add","path":"/data/x","value":"y"},`, 10_000) + `{"op":"add","path":"/data/x","value":"y"}]`
	growing := `[{"op":"add","path":"/data/x","value":"` + strings.Repeat("y", 100_000) + `"}` + strings.Repeat(`,{"op":"copy","from":"/data","path":"/data/y"}`, 60) + `]`
	for name, patch := range map[string]string{
		"not-a-patch": `{"a":"b"}`, "many": many, "growing": growing, "kind": `[{"op":"replace","path":"/kind","value":"Secret"}]`,
		"namespace": `[{"op":"replace","path":"/metadata/namespace","value":"kube-system"}]`, "no-metadata": `[{"op":"remove","path":"/metadata"}]`, "null": `[{"op":"replace","path":"","value":null}]`,
		"string": `[{"op":"replace","path":"","value":"x"}]`, "test": `[{"op":"test","path":"/data","value":"x"}]`,
	} {
		f.answers["/"+name] = patching(patch)
		f.mutates(name, "/"+name, rule("", "v1", "configmaps", create), nil)
		_, err := f.configMap(name, func(cm *corev1.ConfigMap) { cm.Data = map[string]string{"a": "b"} })
		if err == nil || !apierrors.IsInternalError(err) && !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
			t.Errorf("%s: %v", name, err)
		}
		if err := f.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := f.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("stored: %v, %v", list.Items, err)
	}
	f.answers["/annotations"] = func(_ *reviewv1.AdmissionRequest, r *reviewv1.AdmissionResponse) {
		r.AuditAnnotations = map[string]string{"not a name/": "x", "long": strings.Repeat("x", 1<<20)}
		for i := range 1000 {
			r.AuditAnnotations[fmt.Sprint("a", i)] = "x"
			r.Warnings = append(r.Warnings, fmt.Sprint("warning ", i, "\n\x00", strings.Repeat("x", 1000)))
		}
	}
	f.validates("annotations", "/annotations", rule("", "v1", "configmaps", create), nil)
	if _, err := f.configMap("annotated", nil); err != nil {
		t.Error(err)
	}
}
