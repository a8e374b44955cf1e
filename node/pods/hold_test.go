package pods

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/runtime"
)

// What is held is killed at once, is not reported as ended, and runs again when it is not held any more.
func TestAPodThatIsHeld(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		var held atomic.Bool
		n.m.c.Hold = func(_ context.Context, p *corev1.Pod) bool { return held.Load() && p.Name == "db" }
		db, web := pod("db", corev1.RestartPolicyAlways, "sleep|1000000"), pod("web", corev1.RestartPolicyAlways, "sleep|1000000")
		n.m.Update(db)
		n.m.Update(web)
		synctest.Wait()
		first, other := n.running(db, "c1"), n.running(web, "c1")
		held.Store(true)
		n.m.Enforce()
		synctest.Wait()
		if c, err := n.rt.Container(t.Context(), first.ID); err == nil && c.State == runtime.StateRunning {
			t.Error("a container of a held pod is running")
		}
		if got := n.running(web, "c1"); got.ID != other.ID {
			t.Error("another pod was touched")
		}
		if s := n.status(db); s.Phase != corev1.PodRunning {
			t.Errorf("its phase is %s", s.Phase)
		}
		if len(n.said("VolumeLeaseExpired")) != 1 {
			t.Errorf("events: %v", n.said("VolumeLeaseExpired"))
		}
		held.Store(false)
		n.m.Retry()
		pass(time.Minute) // longer than the back-off
		if again := n.running(db, "c1"); again.ID == first.ID {
			t.Error("it did not run again")
		}
	})
}
