package fence

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/internal/volumes"
)

// The time counts from when this process saw the mark, for each mark anew.
func TestTheWaitIsLongerThanALease(t *testing.T) {
	now := time.Now()
	f := &fence{Config: Config{Now: func() time.Time { return now }}, seen: map[string]mark{}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "1", Annotations: map[string]string{volumes.FencingNode: "10s"}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}}}
	left := func() time.Duration {
		t.Helper()
		result, err := f.wait(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		return result.After
	}
	if left() != 15*time.Second {
		t.Errorf("%s are left at the beginning", left())
	}
	now = now.Add(14 * time.Second)
	if left() != time.Second {
		t.Errorf("%s are left after 14 s", left())
	}
	f.forget("n") // the mark was removed, and set again
	if left() != 15*time.Second {
		t.Errorf("%s are left for a new mark", left())
	}
	now = now.Add(14 * time.Second)
	node.UID = "2"
	if left() != 15*time.Second {
		t.Errorf("%s are left for a new node", left())
	}
}
