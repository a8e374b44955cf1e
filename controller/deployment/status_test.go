package deployment

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestADeadlineIsNotMissedEarly: progress at the very end of a second is stored with the time at which that second began.
func TestADeadlineIsNotMissedEarly(t *testing.T) {
	progressed := time.Date(2026, 11, 30, 11, 32, 53, 999e6, time.UTC)
	stored := metav1.NewTime(progressed).Rfc3339Copy()
	if left := timeLeft(stored, time.Second, progressed.Add(2*time.Millisecond)); left <= 990*time.Millisecond {
		t.Errorf("2 ms after progress %v are left of a second", left)
	}
	if left := timeLeft(stored, time.Second, progressed.Add(2*time.Second)); left > 0 {
		t.Errorf("after twice the deadline %v are left", left)
	}
}
