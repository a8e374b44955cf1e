// Package pause waits for a duration or for the end of a context.
package pause

import (
	"context"
	"time"
)

// For waits for d, or until the context ends if that is sooner. It returns true if the time has passed and the context has not
// ended; false means that the caller should stop.
func For(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// Every calls do at once and then every interval, until the context ends. A call that takes longer than the interval delays the next one.
func Every(ctx context.Context, interval time.Duration, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		do()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
