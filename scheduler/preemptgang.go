package scheduler

import (
	"cmp"
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// preemptForGang is preempt for the members of a gang.
func (s *Scheduler) preemptForGang(ctx context.Context, t *gangTrial, room *framework.GangNomination, message string) {
	var members []*framework.PodInfo
	var reports []report
	for _, e := range t.members {
		node, ok := room.Nodes[e.Pod.UID]
		if !ok {
			s.reporter.report(e.Pod, corev1.PodReasonUnschedulable, message, nil)
			continue
		}
		s.cluster.Nominate(e.Pod, "")
		s.reporter.note(e.Pod, message)
		members = append(members, e.Pod)
		reports = append(reports, report{e.Pod.Pod, corev1.PodReasonUnschedulable, message, &node})
	}
	on := map[string]*corev1.Pod{}
	for i, m := range members { // before any of them is nominated, so that none yields to another one
		node := *reports[i].nominated
		s.yield(m, node)
		on[node] = cmp.Or(on[node], m.Pod)
	}
	for i, m := range members {
		s.cluster.Nominate(m, *reports[i].nominated)
	}
	var evictions []eviction
	for _, victim := range room.Victims {
		_, node := s.cluster.Pod(victim.UID)
		evictions = append(evictions, eviction{victim, cmp.Or(on[node], members[0].Pod), node})
	}
	s.carryOut(ctx, members, reports, evictions)
}
