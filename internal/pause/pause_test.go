package pause

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		if !For(context.Background(), time.Minute) || time.Since(begun) != time.Minute {
			t.Errorf("waited %s", time.Since(begun))
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if For(ctx, time.Minute) || time.Since(begun) != time.Minute+time.Second {
			t.Errorf("waited %s beyond the end of the context", time.Since(begun)-time.Minute)
		}
		if For(ctx, 0) {
			t.Error("went on though the context had ended")
		}
	})
}

func TestEveryCallsAtOnceAndUntilTheContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		begin := time.Now()
		Every(ctx, time.Minute, func() {
			if at := time.Since(begin); at != time.Duration(calls)*time.Minute {
				t.Errorf("call %d was made after %v", calls, at)
			}
			if calls++; calls == 3 {
				cancel()
			}
		})
		if calls != 3 {
			t.Errorf("there were %d calls", calls)
		}
	})
}
