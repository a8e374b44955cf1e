package customresources_test

import (
	"fmt"
	"runtime"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/customresources"
	"github.com/kontiki/kontiki/test/harness"
)

// TestAThousandDefinitionsComeAndGo: definitions that are created, used, changed and deleted leave nothing behind: no kind in the table, no
// key of theirs in the store, no goroutine, and no memory that grows with their number.
func TestAThousandDefinitionsComeAndGo(t *testing.T) {
	h := harness.New(t)
	controllertest.Run(t, h.Client, customresources.New(h.Client))
	c, err := dynamic.NewForConfig(h.Config("admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	var goroutines, kinds int
	var heap uint64
	round := func(n int) {
		for i := range n {
			plural := fmt.Sprintf("widgets%d", i)
			crd := controllertest.Create(t, h.Client, definition(plural, fmt.Sprintf("Widget%d", i)))
			res := c.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: plural}).Namespace("default")
			if _, err := res.Create(ctx, widget("a", func(u *unstructured.Unstructured) { u.SetKind(fmt.Sprintf("Widget%d", i)) }), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			crd = crd.DeepCopy()
			crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Description = "changed"
			if _, err := client.Update(ctx, h.Client, crd); err != nil {
				t.Fatal(err)
			}
			if _, err := res.Get(ctx, "a", metav1.GetOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if served := len(h.Objects.Kinds().Kinds()); kinds != 0 && served != kinds+n {
			t.Errorf("%d kinds are served, want %d", served, kinds+n)
		}
		client.Each(h.Client.View(), "", func(crd *apiextensionsv1.CustomResourceDefinition) bool {
			if err := h.Client.Delete(ctx, crd); err != nil {
				t.Error(err)
			}
			return true
		})
		awaitTrue(t, "all definitions to be gone", func() bool {
			return len(client.List[*apiextensionsv1.CustomResourceDefinition](h.Client.View(), "", nil)) == 0
		})
	}
	measure := func() (int, int, uint64) {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), len(h.Objects.Kinds().Kinds()), m.HeapAlloc
	}
	round(50) // what is made once is made then
	goroutines, kinds, heap = measure()
	round(1000)
	var after, table int
	var grown uint64
	awaitTrue(t, "goroutines to end", func() bool {
		after, table, grown = measure()
		return after <= goroutines+20
	})
	if table != kinds {
		t.Errorf("%d kinds are served, want %d", table, kinds)
	}
	for _, prefix := range []string{"/example.com/", "/allocated/customresourcenames/"} {
		if n := h.Store.View().Count(prefix, prefix[:len(prefix)-1]+"0"); n != 0 {
			t.Errorf("%d keys are left below %s", n, prefix)
		}
	}
	// The history of the store, and deleted objects that can be brought back, are limited by other means than by what exists.
	const allowed = 120 << 20
	if grown > heap+allowed {
		t.Errorf("the heap has grown from %d to %d MiB", heap>>20, grown>>20)
	}
	t.Logf("goroutines %d to %d, heap %d to %d MiB", goroutines, after, heap>>20, grown>>20)
}
