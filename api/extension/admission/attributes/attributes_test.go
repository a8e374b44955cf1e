package attributes

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/registry/builtin"
)

// TestAnnotationsAreBounded in their names, number and size, and none replaces another.
func TestAnnotationsAreBounded(t *testing.T) {
	a, _ := Of(context.Background(), &objects.Attributes{Request: &objects.Request{}, Operation: objects.OpConnect, Object: &corev1.PodExecOptions{}})
	if a.AddAnnotation("no name/", "x") == nil {
		t.Error("a wrong name")
	}
	if err := a.AddAnnotation("example.com/long", strings.Repeat("x", maxAnnotationBytes+1)); err != nil || len(a.values["example.com/long"]) != maxAnnotationBytes {
		t.Errorf("a long value: %v", err)
	}
	for range 2 {
		if err := a.AddAnnotation("example.com/a", "x"); err != nil {
			t.Error(err)
		}
	}
	if a.AddAnnotation("example.com/a", "y") == nil {
		t.Error("another value of the same name")
	}
	for i := range maxAnnotations - 2 {
		if err := a.AddAnnotation(fmt.Sprint("example.com/n", i), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if a.AddAnnotation("example.com/more", "x") == nil {
		t.Error("too many")
	}
}

// TestEquivalents: versions of the same stored objects, with the subresource.
func TestEquivalents(t *testing.T) {
	i := &Interfaces{Table: registry.NewCatalog(builtin.Kinds()).Table()}
	of := func(group, version, resource, subresource string) string {
		var out []string
		for _, r := range i.EquivalentResourcesFor(schema.GroupVersionResource{Group: group, Version: version, Resource: resource}, subresource) {
			out = append(out, r.Group+"/"+r.Version)
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ got, want string }{
		{of("", "v1", "pods", ""), "/v1"},
		{of("", "v1", "events", ""), "/v1 events.k8s.io/v1"},
		{of("autoscaling", "v1", "horizontalpodautoscalers", "status"), "autoscaling/v2 autoscaling/v1"},
		{of("autoscaling", "v1", "horizontalpodautoscalers", "nothing"), "autoscaling/v1"},
		{of("", "v1", "nothing", ""), ""},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
	if kind := i.KindFor(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, "scale"); kind.Kind != "Scale" || kind.Group != "autoscaling" {
		t.Error(kind)
	}
}
