package nodelifecycle

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/test/harness"
)

// TestWorkersWithoutANodeAreForgotten: workers come and leave under new names.
func TestWorkersWithoutANodeAreForgotten(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	if _, err := client.Create(ctx, h.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}}}); err != nil {
		t.Fatal(err)
	}
	for _, state := range []State{Alive, Suspect, Dead, Left} {
		for _, name := range []string{"node", "none"} {
			t.Run(fmt.Sprint(state, " with ", name), func(t *testing.T) {
				hl := &health{Config: Config{Client: h.Client, Now: time.Now}, members: map[string]Member{name: {Name: name, State: state}}}
				if _, err := hl.reconcile(ctx, h.Client.View(), controller.Key{Name: name}); err != nil {
					t.Fatal(err)
				}
				_, known := hl.members[name]
				if want := name == "node" || state == Alive; known != want {
					t.Errorf("it is known: %t", known)
				}
			})
		}
	}
}
