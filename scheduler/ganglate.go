package scheduler

import (
	"cmp"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// expectGang makes the loop say that a gang is not placed when its timeout has passed.
func (s *Scheduler) expectGang(g *gang) {
	if g.told {
		return
	}
	if g.since.IsZero() {
		g.since = s.now()
	}
	s.lateAt(g.due())
}

// lateAt makes the loop look for gangs that are late at a time.
func (s *Scheduler) lateAt(due time.Time) {
	if s.gangsDue.IsZero() || due.Before(s.gangsDue) {
		s.gangsDue = due
	}
}

// due is when the gang's timeout passes.
func (g *gang) due() time.Time { return g.since.Add(cmp.Or(g.timeout, defaultGangTimeout)) }

// gangBound notes that all pods that a gang lacked are bound.
func (s *Scheduler) gangBound(key framework.GangKey) {
	g := s.gangs[key]
	if g == nil {
		return
	}
	g.since, g.complete, g.told, g.why = time.Time{}, false, false, ""
	if len(g.pending) > 0 { // one has taken the place of another meanwhile, or there are more than the size
		g.complete = g.has() >= g.size()
		s.expectGang(g)
	}
}

// tellLate records an event for the pods of each gang whose timeout has passed, and returns when it is to be called next (zero if there
// is no gang to wait for). A gang that has just got its last pod is told of after it was tried.
func (s *Scheduler) tellLate(now time.Time) (next time.Time) {
	if s.gangsDue.IsZero() || s.gangsDue.After(now) {
		return s.gangsDue
	}
	s.gangsDue = time.Time{}
	for _, g := range s.gangs {
		switch {
		case g.told || g.since.IsZero():
		case g.due().After(now):
			s.lateAt(g.due())
		default:
			s.tell(g)
		}
	}
	return s.gangsDue
}

// tell records that a gang is late, unless it is being bound or has not been tried.
func (s *Scheduler) tell(g *gang) {
	size := g.size()
	if size > 0 && (len(g.placed) >= size || (g.has() >= size && g.why == "")) {
		return // expectGang is called if the binding or the attempt fails
	}
	g.told = true
	for _, p := range g.pending {
		why := g.why
		if status := g.gate(p); status != nil {
			why = status.Message()
		}
		s.Recorder.Eventf(p.Pod, corev1.EventTypeWarning, "GangNotPlaced", "gang %q was not placed within %v: %s", g.key.Name, cmp.Or(g.timeout, defaultGangTimeout), why)
	}
}
