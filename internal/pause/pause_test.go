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
