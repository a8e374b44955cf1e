package serviceaccount_test

import (
	"context"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/serviceaccount"
	"github.com/kontiki/kontiki/test/harness"
)

func TestEveryNamespaceHasAnAccountAndTheCA(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	controllertest.Create(t, h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "before"}})
	stop := controllertest.Run(t, h.Client, serviceaccount.New(h.Client, func() ([]byte, <-chan struct{}) { return []byte("first"), nil }))
	controllertest.Create(t, h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "after"}})
	holds := func(namespace, ca string) {
		t.Helper()
		controllertest.Await(t, h.Client, namespace, "kube-root-ca.crt", "the CA", func(cm *corev1.ConfigMap) bool {
			return len(cm.Data) == 1 && cm.Data["ca.crt"] == ca
		})
		controllertest.Await(t, h.Client, namespace, "default", "to be there", func(*corev1.ServiceAccount) bool { return true })
	}
	for _, ns := range []string{"default", "kube-system", "before", "after"} {
		holds(ns, "first")
	}
	// Objects that are changed or deleted are restored.
	controllertest.Change(t, h.Client, "after", "kube-root-ca.crt", func(cm *corev1.ConfigMap) {
		cm.Data = map[string]string{"ca.crt": "forged", "more": "x"}
	})
	holds("after", "first")
	sa, _ := client.Get[*corev1.ServiceAccount](h.Client.View(), "after", "default")
	cm, _ := client.Get[*corev1.ConfigMap](h.Client.View(), "after", "kube-root-ca.crt")
	for _, obj := range []client.Object{sa, cm} {
		if err := h.Client.Delete(ctx, obj); err != nil {
			t.Fatal(err)
		}
	}
	controllertest.Await(t, h.Client, "after", "default", "another account", func(now *corev1.ServiceAccount) bool { return now.UID != sa.UID })
	holds("after", "first")
	stop()
	// A leader with another CA writes it to all namespaces, and again when it changes.
	var mu sync.Mutex
	now, changed := "second", make(chan struct{})
	controllertest.Run(t, h.Client, serviceaccount.New(h.Client, func() ([]byte, <-chan struct{}) {
		mu.Lock()
		defer mu.Unlock()
		return []byte(now), changed
	}))
	for _, ns := range []string{"default", "kube-system", "before", "after"} {
		holds(ns, "second")
	}
	mu.Lock()
	close(changed)
	now, changed = "second and third", make(chan struct{})
	mu.Unlock()
	for _, ns := range []string{"default", "kube-system", "before", "after"} {
		holds(ns, "second and third")
	}
}

// TestWhatUsersDoToTheCAIsUndone: what they write beside it, what they take away, and that they make it immutable, which nobody could
// change when the CA does.
func TestWhatUsersDoToTheCAIsUndone(t *testing.T) {
	h := harness.New(t)
	stop := controllertest.Run(t, h.Client, serviceaccount.New(h.Client, func() ([]byte, <-chan struct{}) { return []byte("ca"), nil }))
	right := func(cm *corev1.ConfigMap) bool {
		return len(cm.Data) == 1 && cm.Data["ca.crt"] == "ca" && len(cm.BinaryData) == 0 && cm.Annotations["kubernetes.io/description"] != "" && cm.Immutable == nil
	}
	yes := true
	for name, change := range map[string]func(*corev1.ConfigMap){
		"data":             func(cm *corev1.ConfigMap) { cm.Data["more"] = "x" },
		"binary data":      func(cm *corev1.ConfigMap) { cm.BinaryData = map[string][]byte{"more": []byte("x")} },
		"the annotation":   func(cm *corev1.ConfigMap) { cm.Annotations = nil },
		"an immutable one": func(cm *corev1.ConfigMap) { cm.Data, cm.Immutable = map[string]string{"ca.crt": "forged"}, &yes },
	} {
		controllertest.Await(t, h.Client, "default", "kube-root-ca.crt", "the CA, before "+name, right)
		controllertest.Change(t, h.Client, "default", "kube-root-ca.crt", change)
		controllertest.Await(t, h.Client, "default", "kube-root-ca.crt", "the CA, after "+name, right)
	}
	controllertest.Change(t, h.Client, "default", "kube-root-ca.crt", func(cm *corev1.ConfigMap) { cm.Immutable = &yes })
	stop()
	controllertest.Run(t, h.Client, serviceaccount.New(h.Client, func() ([]byte, <-chan struct{}) { return []byte("next"), nil }))
	controllertest.Await(t, h.Client, "default", "kube-root-ca.crt", "the next CA", func(cm *corev1.ConfigMap) bool { return cm.Data["ca.crt"] == "next" })
}

func TestNamespacesThatEndGetNothing(t *testing.T) {
	h := harness.New(t)
	controllertest.Create(t, h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ending"}})
	if err := h.Client.Delete(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ending"}}); err != nil {
		t.Fatal(err)
	}
	controllertest.Run(t, h.Client, serviceaccount.New(h.Client, func() ([]byte, <-chan struct{}) { return []byte("ca"), nil }))
	controllertest.Create(t, h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "next"}})
	controllertest.Await(t, h.Client, "next", "kube-root-ca.crt", "to be there", func(*corev1.ConfigMap) bool { return true })
	if _, ok := client.Get[*corev1.ServiceAccount](h.Client.View(), "ending", "default"); ok {
		t.Error("a namespace that ends got an account")
	}
}
