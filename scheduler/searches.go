package scheduler

import (
	"time"

	"github.com/kontiki/kontiki/scheduler/framework"
	"github.com/kontiki/kontiki/scheduler/queue"
)

// The search for devices can take exponential time, and whoever may create ResourceClaims decides how long. The loop makes one decision
// after the other, so each namespace has a budget for it: all its pods with devices together may take one part in searchShare of the time,
// and searchBurst of it at once. Attempts that took less than slowSearch are not counted.
const (
	searchShare = queue.CostFactor
	searchBurst = 5 * time.Second
	slowSearch  = 100 * time.Millisecond
	// longestPause limits how long a namespace waits, whatever an attempt took.
	longestPause = queue.LongestWait
)

// searchesPaused is what pods are told that wait for their namespace's budget.
const searchesPaused = "the search for devices took too long for Pods of this namespace; its Pods with devices are tried again later"

// searches knows, by namespace, when what its slow attempts took will have been paid: searchShare times as long as they took.
type searches map[string]time.Time

// charge counts an attempt that has ended now.
func (s searches) charge(namespace string, took time.Duration, now time.Time) {
	for name, paid := range s {
		if !paid.After(now) {
			delete(s, name)
		}
	}
	paid := s[namespace]
	if paid.Before(now) {
		paid = now
	}
	paid = paid.Add(searchShare * min(took, longestPause))
	if latest := now.Add(searchShare*searchBurst + longestPause); paid.After(latest) {
		paid = latest
	}
	s[namespace] = paid
}

// pausedUntil returns when the next pod of a namespace may be tried.
func (s searches) pausedUntil(namespace string) time.Time {
	return s[namespace].Add(-searchShare * searchBurst)
}

// searchPaused returns until when a pod must wait because of the budget for its devices; zero if it need not.
func (s *Scheduler) searchPaused(p *framework.PodInfo) time.Time {
	if until := s.searches.pausedUntil(p.Namespace); until.After(s.now()) && s.devices.Concerns(p) {
		return until
	}
	return time.Time{}
}

// chargeSearch counts what an attempt for a pod took that began at a time, and returns it; zero if it is not counted.
func (s *Scheduler) chargeSearch(p *framework.PodInfo, began time.Time) time.Duration {
	now := s.now()
	took := now.Sub(began)
	if took < slowSearch || !s.devices.Concerns(p) {
		return 0
	}
	s.searches.charge(p.Namespace, took, now)
	return took
}
