package definitions_test

import (
	"context"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/test/harness"
)

var definitionsResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  names: {plural: widgets, kind: Widget, shortNames: [wd], categories: [all]}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    selectableFields:
    - jsonPath: .spec.color
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            x-kubernetes-validations:
            - {rule: "self.size <= self.max", message: "size is over max"}
            properties:
              size: {type: integer, minimum: 1, default: 3}
              max: {type: integer, default: 10}
              color: {type: string}
              replicas: {type: integer}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
              port: {x-kubernetes-int-or-string: true}
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, weight: {type: integer}}
          status:
            type: object
            properties: {replicas: {type: integer}, selector: {type: string}}
`

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

func dynamicClient(t *testing.T, h *harness.Harness) dynamic.Interface {
	t.Helper()
	c, err := dynamic.NewForConfig(h.Config("admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var ctx = context.Background()

func define(t *testing.T, c dynamic.Interface, text string) *unstructured.Unstructured {
	t.Helper()
	crd, err := c.Resource(definitionsResource).Create(ctx, object(t, text), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return crd
}

func condition(crd *unstructured.Unstructured, of string) string {
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, c := range conditions {
		if c := c.(map[string]any); c["type"] == of {
			return c["status"].(string) + " " + c["reason"].(string)
		}
	}
	return ""
}

// TestDefinedAtOnce: the response to the creation of a definition says that it is established, and its objects can be created.
func TestDefinedAtOnce(t *testing.T) {
	h := harness.New(t)
	c := dynamicClient(t, h)
	crd := define(t, c, widgets)
	if got := condition(crd, "Established"); got != "True InitialNamesAccepted" {
		t.Fatalf("Established: %q in %v", got, crd.Object["status"])
	}
	res := c.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}).Namespace("default")
	made, err := res.Create(ctx, object(t, `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, spec: {color: red, unknown: 1, port: 80, free: {x: {deep: 1}}}, status: {replicas: 3}}`), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec := made.Object["spec"].(map[string]any)
	if spec["size"] != int64(3) || spec["unknown"] != nil || made.Object["status"] != nil || made.GetGeneration() != 1 || made.GetUID() == "" {
		t.Fatalf("created: %v", made.Object)
	}
	if free, _, _ := unstructured.NestedInt64(made.Object, "spec", "free", "x", "deep"); free != 1 {
		t.Errorf("a field that is to be kept was removed: %v", spec)
	}
	if len(made.GetManagedFields()) != 1 || !strings.Contains(string(made.GetManagedFields()[0].FieldsV1.GetRawBytes()), "f:color") {
		t.Errorf("managed fields: %v", made.GetManagedFields())
	}
	_, err = res.Create(ctx, object(t, `{apiVersion: example.com/v1, kind: Widget, metadata: {name: b}, spec: {size: 0}}`), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1") {
		t.Errorf("too small: %v", err)
	}
	_, err = res.Create(ctx, object(t, `{apiVersion: example.com/v1, kind: Widget, metadata: {name: b}, spec: {size: 11}}`), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "size is over max") {
		t.Errorf("over max: %v", err)
	}
	list, err := res.List(ctx, metav1.ListOptions{FieldSelector: "spec.color=red"})
	if err != nil || len(list.Items) != 1 || list.GetKind() != "WidgetList" || list.Items[0].GetKind() != "Widget" {
		t.Errorf("list: %v %v", list, err)
	}
	if list, err = res.List(ctx, metav1.ListOptions{FieldSelector: "spec.color=blue"}); err != nil || len(list.Items) != 0 {
		t.Errorf("list of none: %v %v", list, err)
	}
	patched, err := res.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"size":5}}`), metav1.PatchOptions{})
	if err != nil || patched.GetGeneration() != 2 {
		t.Errorf("merge patch: %v %v", patched, err)
	}
	if _, err := res.Apply(ctx, "a", object(t, `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, spec: {parts: [{name: x, weight: 1}]}}`), metav1.ApplyOptions{FieldManager: "one"}); err != nil {
		t.Fatal(err)
	}
	applied, err := res.Apply(ctx, "a", object(t, `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, spec: {parts: [{name: z, weight: 1}]}}`), metav1.ApplyOptions{FieldManager: "two"})
	if err != nil {
		t.Fatal(err)
	}
	if parts, _, _ := unstructured.NestedSlice(applied.Object, "spec", "parts"); len(parts) != 2 {
		t.Errorf("two managers apply two parts: %v", parts)
	}
	if _, err = res.Patch(ctx, "a", types.StrategicMergePatchType, []byte(`{}`), metav1.PatchOptions{}); !apierrors.IsUnsupportedMediaType(err) {
		t.Errorf("strategic merge: %v", err)
	}
	status := applied.DeepCopy()
	unstructured.SetNestedField(status.Object, int64(7), "status", "replicas")
	unstructured.SetNestedField(status.Object, int64(9), "spec", "size")
	if status, err = res.UpdateStatus(ctx, status, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if n, _, _ := unstructured.NestedInt64(status.Object, "status", "replicas"); n != 7 || status.GetGeneration() != applied.GetGeneration() {
		t.Errorf("status: %v", status.Object)
	}
	if n, _, _ := unstructured.NestedInt64(status.Object, "spec", "size"); n != 5 {
		t.Errorf("an update of the status changed the spec: %v", status.Object)
	}
	scaled, err := res.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"replicas":4}}`), metav1.PatchOptions{}, "scale")
	if err != nil {
		t.Fatal(err)
	}
	if n, _, _ := unstructured.NestedInt64(scaled.Object, "status", "replicas"); n != 7 || scaled.GetKind() != "Scale" {
		t.Errorf("scale: %v", scaled.Object)
	}
}

// TestNamesConflict: a definition whose kind is in use is not served until the other is gone.
func TestNamesConflict(t *testing.T) {
	h := harness.New(t)
	c := dynamicClient(t, h)
	define(t, c, widgets)
	other := strings.ReplaceAll(strings.ReplaceAll(widgets, "widgets", "gadgets"), "shortNames: [wd], ", "")
	crd := define(t, c, other)
	if got := condition(crd, "NamesAccepted"); got != "False ListKindConflict" {
		t.Errorf("NamesAccepted: %q", got)
	}
	if got := condition(crd, "Established"); got != "False NotAccepted" {
		t.Errorf("Established: %q", got)
	}
	_, err := c.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "gadgets"}).List(ctx, metav1.ListOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("a definition without names is served: %v", err)
	}
}
