package flow

import (
	"sync"
	"time"
)

// longestRetry limits the seconds after which a refused client is told to try again.
const longestRetry = 32

// retry computes that time for a level, from how many requests it has dropped lately: it doubles when many were dropped, and falls
// by one second when few were.
type retry struct {
	mu sync.Mutex
	// history has the seconds in which requests were dropped; the last one is not over yet.
	history []droppedIn
	seconds int64
	changed int64 // when seconds was last raised
}

type droppedIn struct{ second, requests int64 }

// after counts a dropped request and returns the seconds after which its client should try again.
func (t *retry) after(now time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seconds = max(t.seconds, 1)
	second := now.Unix()
	if last := len(t.history) - 1; last >= 0 && t.history[last].second == second {
		t.history[last].requests++
		return int(t.seconds)
	}
	t.adjust(second)
	t.history = append(t.history, droppedIn{second, 1})
	return int(t.seconds)
}

// adjust considers what was dropped in as many seconds before this one as clients are told to wait.
func (t *retry) adjust(second int64) {
	first, dropped := 0, int64(0)
	for i, h := range t.history {
		if second-h.second > longestRetry {
			first = i + 1
		}
		if second-h.second <= t.seconds {
			dropped += h.requests
		}
	}
	t.history = t.history[first:]
	switch {
	case dropped >= 3*t.seconds && second-t.changed >= t.seconds:
		t.seconds, t.changed = min(2*t.seconds, longestRetry), second
	case dropped < t.seconds && t.seconds > 1:
		t.seconds--
	}
}
