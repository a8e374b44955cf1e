package controller

import (
	"time"

	"k8s.io/utils/clock"
)

// alignedClock is the clock of the queues. All of its tickers with one period tick together, at multiples of the period: each queue has
// two tickers, and an idle process would otherwise wake up for each of those of some 60 controllers.
type alignedClock struct{ clock.RealClock }

// NewTicker implements clock.WithTicker. The first tick comes within one period, and the second may come up to a period after it.
func (alignedClock) NewTicker(period time.Duration) clock.Ticker {
	now := time.Now()
	t := &alignedTicker{ticker: time.NewTicker(period)}
	t.align = time.AfterFunc(now.Truncate(period).Add(period).Sub(now), func() { t.ticker.Reset(period) })
	return t
}

// alignedTicker implements clock.Ticker.
type alignedTicker struct {
	ticker *time.Ticker
	align  *time.Timer
}

func (t *alignedTicker) C() <-chan time.Time { return t.ticker.C }

// Stop ends the ticks, unless the ticker is being aligned at this moment; then they end when it is collected.
func (t *alignedTicker) Stop() {
	t.align.Stop()
	t.ticker.Stop()
}
