package e2e_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

const restoredDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]ss.restored.example.com}
spec:
  group: restored.example.com
  names: {plural: %[1]ss, kind: %[2]s}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {color: {type: string, default: %[3]s}}}}}}
`

// TestCustomResourcesAreRestored with their definition from a backup, on every master, although it was deleted; and what was defined since is gone.
func TestCustomResourcesAreRestored(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	t.Cleanup(func() {
		if _, err := kontiki("kubectl", "delete", "crd", "cars.restored.example.com", "boats.restored.example.com", "--ignore-not-found", "--timeout=60s"); err != nil {
			t.Error(err)
		}
	})
	apply(t, fmt.Sprintf(restoredDefinition, "car", "Car", "green"))
	apply(t, in(ns, "apiVersion: restored.example.com/v1\nkind: Car\nmetadata: {name: a}\nspec: {}\n"))
	file := filepath.Join(t.TempDir(), "state.snapshot")
	contains(t, must(t, "snapshot", "save", file), "saved revision")
	contains(t, must(t, "snapshot", "inspect", file), "cars.restored.example.com")

	kubectl(t, "delete", "crd", "cars.restored.example.com", "--timeout=60s")
	apply(t, fmt.Sprintf(restoredDefinition, "boat", "Boat", "blue"))
	contains(t, must(t, "snapshot", "restore", file), "restored revision")

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := range masters {
		master := fmt.Sprint("master-", i+1)
		config, err := clientcmd.BuildConfigFromFlags("", env.Kubeconfig())
		if err != nil {
			t.Fatal(err)
		}
		if config.Dial, err = env.DialFrom(master); err != nil {
			t.Fatal(err)
		}
		config.Host = "https://127.0.0.1:6443"
		c, err := dynamic.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		of := func(plural string) dynamic.ResourceInterface {
			return c.Resource(schema.GroupVersionResource{Group: "restored.example.com", Version: "v1", Resource: plural}).Namespace(ns)
		}
		car, err := of("cars").Get(ctx, "a", metav1.GetOptions{})
		if err != nil {
			t.Fatalf("%s: %v", master, err)
		}
		if color, _, _ := unstructured.NestedString(car.Object, "spec", "color"); color != "green" {
			t.Errorf("%s has %v", master, car.Object)
		}
		made := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "restored.example.com/v1", "kind": "Car", "metadata": map[string]any{"name": master}, "spec": map[string]any{}}}
		if made, err = of("cars").Create(ctx, made, metav1.CreateOptions{}); err != nil {
			t.Fatalf("%s: %v", master, err)
		}
		if color, _, _ := unstructured.NestedString(made.Object, "spec", "color"); color != "green" {
			t.Errorf("%s makes %v", master, made.Object)
		}
		if _, err := of("boats").List(ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s serves what the backup does not define: %v", master, err)
		}
	}
	if out := kubectl(t, "get", "crd", "cars.restored.example.com", "-o", `jsonpath={.status.conditions[?(@.type=="Established")].status}`); !strings.Contains(out, "True") {
		t.Errorf("the definition is %s", out)
	}
}
