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
