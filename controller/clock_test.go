package controller

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestTickersOfOnePeriodTickTogether starts tickers at different times.
func TestTickersOfOnePeriodTickTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const period = 500 * time.Millisecond
		for _, after := range []time.Duration{0, 30 * time.Millisecond, 170 * time.Millisecond, 499 * time.Millisecond} {
			time.Sleep(after)
			ticker := alignedClock{}.NewTicker(period)
			defer ticker.Stop()
			began := time.Now()
			if first := <-ticker.C(); first.Sub(began) > 2*period {
				t.Errorf("started after %s, the first tick comes after %s", after, first.Sub(began))
			}
			for range 3 {
				if tick := <-ticker.C(); !tick.Equal(tick.Truncate(period)) {
					t.Errorf("started after %s, it ticks at %s", after, tick)
				}
			}
		}
	})
}
