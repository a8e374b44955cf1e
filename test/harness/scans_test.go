package harness_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/harness"
)

// TestScansAreCounted: of the given resources, by ranges; a get costs nothing.
func TestScansAreCounted(t *testing.T) {
	h, scans := harness.NewScanned(t, "configmaps")
	for _, name := range []string{"a", "b", "c"} {
		if _, err := client.Create(context.Background(), h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}); err != nil {
			t.Fatal(err)
		}
	}
	scans.Reset()
	if _, ok := client.Get[*corev1.ConfigMap](h.Client.View(), "default", "a"); !ok || scans.Visited() != 0 {
		t.Errorf("a get visited %d objects", scans.Visited())
	}
	h.Serve()
	list, err := h.Clientset().CoreV1().ConfigMaps("default").List(context.Background(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 3 || scans.Visited() != 3 {
		t.Errorf("a list of %d objects visited %d, %v", len(list.Items), scans.Visited(), err)
	}
}
