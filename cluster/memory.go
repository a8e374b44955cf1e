package cluster

import (
	"context"
	"runtime/debug"
	"time"
)

// A master keeps changes, shared forms of objects and log entries in memory, up to limits that suit a busy cluster. Once a minute it drops
// those that are older than agedRounds minutes, so that a burst leaves nothing behind. That is longer than the five minutes in which a list
// can be continued, and a watch can resume without bookmarks, with upstream's defaults too.
const (
	ageInterval = time.Minute
	agedRounds  = 6
	// returnedBytes is how much must have become free for a collection of garbage that returns it to the system at once.
	returnedBytes = 8 << 20
)

func (c *Cluster) ageMemory(ctx context.Context) error {
	ticker := time.NewTicker(ageInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		freed, err := c.consensus.Age(agedRounds)
		if err != nil {
			return err
		}
		if freed >= returnedBytes {
			debug.FreeOSMemory()
		}
	}
}
