package definitions_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

// TestDefinitionsOfASnapshot: a master that has fallen behind and gets a snapshot serves what it defines, with its objects, and no longer what it does not;
// what both define in different ways it serves as the snapshot does.
func TestDefinitionsOfASnapshot(t *testing.T) {
	gadgetsResource := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "gadgets"}
	toolsResource := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "tools"}
	gadgets := strings.NewReplacer("widgets", "gadgets", "Widget", "Gadget", "wd", "gd").Replace(widgets)
	tools := strings.NewReplacer("widgets", "tools", "Widget", "Tool", "wd", "tl").Replace(widgets)

	behind := harness.New(t)
	old := dynamicClient(t, behind)
	define(t, old, gadgets)
	define(t, old, tools)

	ahead := harness.New(t)
	c := dynamicClient(t, ahead)
	define(t, c, widgets)
	made, err := c.Resource(widgetsResource).Namespace("default").Create(ctx, object(t, `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, spec: {color: red}}`), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 { // so that the snapshot is newer, and its definitions have other revisions
		if _, err := c.Resource(widgetsResource).Namespace("default").Create(ctx, object(t, fmt.Sprintf(`{apiVersion: example.com/v1, kind: Widget, metadata: {name: w%d}, spec: {}}`, i)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	define(t, c, strings.Replace(tools, "default: 3", "default: 7", 1))
	var snapshot bytes.Buffer
	if _, err := ahead.Store.Snapshot().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	if a, b := ahead.Store.View().Revision(), behind.Store.View().Revision(); a <= b {
		t.Fatalf("the snapshot is of revision %d, the other master at %d", a, b)
	}
	if err := behind.Store.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}

	await.That(t, "the snapshot's resources to be served", func() error {
		got, err := old.Resource(widgetsResource).Namespace("default").Get(ctx, "a", metav1.GetOptions{})
		if err == nil && (got.GetUID() != made.GetUID() || got.GetResourceVersion() != made.GetResourceVersion()) {
			err = fmt.Errorf("it is %v", got.Object)
		}
		return err
	})
	if list, err := old.Resource(widgetsResource).List(ctx, metav1.ListOptions{FieldSelector: "spec.color=red"}); err != nil || len(list.Items) != 1 {
		t.Errorf("list by a selectable field: %v %v", list, err)
	}
	if _, err := old.Resource(gadgetsResource).List(ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what the snapshot does not define is served: %v", err)
	}
	tool, err := old.Resource(toolsResource).Namespace("default").Create(ctx, object(t, `{apiVersion: example.com/v1, kind: Tool, metadata: {name: a}, spec: {}}`), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if size := tool.Object["spec"].(map[string]any)["size"]; size != int64(7) {
		t.Errorf("the default is of the definition before the snapshot: %v", tool.Object)
	}
}
