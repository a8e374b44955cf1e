package garbage

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/test/harness"
)

// A collector that falls behind the history is restarted, and must not need the changes that it missed.
func TestAFreshStartNeedsNothingThatWasMissed(t *testing.T) {
	h := harness.New(t)
	b := &bed{Harness: h, t: t}
	gc := newCollector(h.Client, controllertest.NewRecorder())
	owner, waits := b.cm("owner"), b.cm("waits")
	dependent, blocking := b.cm("dependent", of(owner)), b.cm("blocking", of(waits))
	late := b.cm("late")
	enqueued := func(v client.View) (out []string) {
		gc.start(v, func(k controller.Key) { out = append(out, k.Name) })
		slices.Sort(out)
		return out
	}
	if got := enqueued(h.Client.View()); len(got) != 0 {
		t.Errorf("nothing is wrong, and %v are looked at", got)
	}
	b.delete(owner, metav1.DeletePropagationBackground)
	b.delete(waits, metav1.DeletePropagationForeground)
	if err := h.Client.Delete(context.Background(), late); err != nil {
		t.Fatal(err)
	}
	want := []string{string(dependent.UID), string(blocking.UID), string(waits.UID)}
	slices.Sort(want)
	if got := enqueued(h.Client.View()); !slices.Equal(got, want) {
		t.Errorf("%v are looked at, want %v", got, want)
	}
	if items, owners := gc.graph.size(); items != 3 || owners != 2 {
		t.Errorf("the graph holds %d items and %d owners, want 3 and 2", items, owners)
	}
	// Changes that are delivered again have no effect.
	stored, _ := client.Get[*corev1.ConfigMap](h.Client.View(), "default", "dependent")
	gc.enqueue(h.Client.View(), client.Event{New: stored}, func(controller.Key) {})
	if items, owners := gc.graph.size(); items != 3 || owners != 2 {
		t.Errorf("the graph holds %d items and %d owners after a change that it knew", items, owners)
	}
}
