package flow

import (
	"testing"
	"testing/synctest"
	"time"
)

// Sleeps that are marked as virtual are in bubbles of testing/synctest: they advance its clock, and take no time.

// TestATimerOfAnEarlierWriteMeansNothing: on a busy machine the timer's function may run when the next write has begun.
func TestATimerOfAnEarlierWriteMeansNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, stalled := 0, 0
		w := NewWrites(time.Minute, func() { slow++ }, func() { stalled++ })
		for range 3 {
			w.Begin()
			w.overdue()
			w.overdue()
			w.End()
			w.overdue()
		}
		if slow != 0 || stalled != 0 {
			t.Errorf("slow %d times, stalled %d times", slow, stalled)
		}
		w.Begin()
		time.Sleep(Patience + time.Millisecond) // virtual
		synctest.Wait()
		if slow != 1 || stalled != 0 {
			t.Errorf("late: slow %d times, stalled %d times", slow, stalled)
		}
		time.Sleep(time.Minute) // virtual
		synctest.Wait()
		if slow != 1 || stalled != 1 {
			t.Errorf("stalled: slow %d times, stalled %d times", slow, stalled)
		}
		w.End()
	})
}
