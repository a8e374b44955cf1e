package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/scheduler/framework"
	"github.com/kontiki/kontiki/scheduler/queue"
)

// Gangs are pods that are placed together or not at all. A pod names its gang by a label or an annotation.
const (
	gangName    = "kontiki.io/gang"
	gangSize    = "kontiki.io/gang-size"    // how many pods must be placed at once
	gangTimeout = "kontiki.io/gang-timeout" // after how long an event says that and why the gang is not placed
)

// largestGang limits the size of a gang: its bindings must fit into one command.
const largestGang = 256

const defaultGangTimeout = 5 * time.Minute

// gangKey identifies a gang.
type gangKey struct{ namespace, name string }

// gang has the pods of a gang that are known.
type gang struct {
	key gangKey
	// pending are those that are to be placed, placed those that have a node, assumed or bound.
	pending map[types.UID]*framework.PodInfo
	placed  map[types.UID]bool
	// since is when it first had all its pods without being placed, and told whether that has been reported as too long ago.
	since time.Time
	told  bool
}

// gangOf returns the key of a pod's gang; false if it has none.
func gangOf(pod *corev1.Pod) (gangKey, bool) {
	name := cmp.Or(pod.Labels[gangName], pod.Annotations[gangName])
	return gangKey{pod.Namespace, name}, name != ""
}

// gangParameters returns how many pods of a gang must be placed at once, and its timeout, or what is wrong with them.
func gangParameters(pod *corev1.Pod) (size int, timeout time.Duration, problem string) {
	size, err := strconv.Atoi(pod.Annotations[gangSize])
	if err != nil || size < 1 || size > largestGang {
		return 0, 0, fmt.Sprintf("annotation %s: %q must be a number from 1 to %d", gangSize, pod.Annotations[gangSize], largestGang)
	}
	timeout = defaultGangTimeout
	if text, ok := pod.Annotations[gangTimeout]; ok {
		if timeout, err = time.ParseDuration(text); err != nil || timeout <= 0 {
			return 0, 0, fmt.Sprintf("annotation %s: %q must be a duration such as 2m", gangTimeout, text)
		}
	}
	return size, timeout, ""
}

func refuseGang(format string, args ...any) *framework.Status {
	return framework.Refuse(framework.UnschedulableAndUnresolvable, "GangScheduling", fmt.Sprintf(format, args...))
}

// gangs knows the gangs of all pods. It belongs to the loop.
type gangs map[gangKey]*gang

func (g gangs) of(pod *corev1.Pod) *gang {
	key, ok := gangOf(pod)
	if !ok {
		return nil
	}
	if g[key] == nil {
		g[key] = &gang{key: key, pending: map[types.UID]*framework.PodInfo{}, placed: map[types.UID]bool{}}
	}
	return g[key]
}

// gate returns why a pod of the gang must not be tried: not all of its pods are there; nil if they are.
func (g *gang) gate(p *framework.PodInfo) *framework.Status {
	size, _, problem := gangParameters(p.Pod)
	if problem != "" {
		return refuseGang("%s", problem)
	}
	if have := len(g.pending) + len(g.placed); have < size {
		return refuseGang("waiting for minCount pods from a gang to appear in scheduling queue: gang %q has %d of %d", g.key.name, have, size)
	}
	return nil
}

// joinGang notes that a pod is pending, and returns why it must not be tried yet. If it was the last one that its gang waited for, the
// others are tried too.
func (s *Scheduler) joinGang(p *framework.PodInfo) *framework.Status {
	g := s.gangs.of(p.Pod)
	if g == nil {
		return nil
	}
	delete(g.placed, p.UID)
	g.pending[p.UID] = p
	s.regate(g, p.UID)
	return g.gate(p)
}

// regate lets the other pods of a gang be tried, or keeps them from that, after their number has changed.
func (s *Scheduler) regate(g *gang, but types.UID) {
	for uid, p := range g.pending {
		e := s.queue.Get(uid)
		if uid == but || e == nil {
			continue
		}
		status := g.gate(p)
		if status == nil && e.Gated == nil {
			continue
		}
		if status == nil {
			status = s.gatePlugins(p)
		}
		s.queue.Add(p, status, s.now())
	}
}

// leaveGang notes that a pod is not pending any more; placed says whether it has a node.
func (s *Scheduler) leaveGang(pod *corev1.Pod, placed bool) {
	key, ok := gangOf(pod)
	g := s.gangs[key]
	if !ok || (g == nil && !placed) {
		return
	}
	g = s.gangs.of(pod)
	_, was := g.pending[pod.UID]
	was = was || g.placed[pod.UID]
	delete(g.pending, pod.UID)
	delete(g.placed, pod.UID)
	if placed {
		g.placed[pod.UID] = true
	}
	switch {
	case len(g.pending)+len(g.placed) == 0:
		delete(s.gangs, key)
	case was != placed:
		s.regate(g, "")
	}
}

// scheduleGang decides about all pending pods of a gang at once: either so many find a place that the gang is complete, or none is placed.
func (s *Scheduler) scheduleGang(ctx context.Context, first *queue.Entry, g *gang) {
	size, timeout, _ := gangParameters(first.Pod.Pod) // which the gate has checked
	members := []*queue.Entry{first}
	for uid := range g.pending {
		if e := s.queue.Get(uid); uid != first.Pod.UID && e != nil && e.Gated == nil {
			s.queue.Take(e)
			members = append(members, e)
		}
	}
	slices.SortFunc(members, func(a, b *queue.Entry) int { return cmp.Compare(a.Pod.Name, b.Pod.Name) })
	if g.since.IsZero() {
		g.since = s.now()
	}
	var placed []*decision
	var refused *decision
	for _, e := range members {
		d := s.decideOn(e)
		if d.node == nil {
			refused = d
			continue
		}
		s.cluster.Place(d.pod, d.node.Name)
		placed = append(placed, d)
	}
	if len(placed)+s.bound(g) < size {
		s.undoGang(g, members, placed, refused, size, timeout)
		return
	}
	g.since, g.told = time.Time{}, false
	s.bindGang(ctx, g, members, placed, refused)
}

// bound returns how many pods of a gang are bound. Those that are only assumed do not count: their binding may fail.
func (s *Scheduler) bound(g *gang) (n int) {
	for uid := range g.placed {
		if s.assumed[uid] == nil {
			n++
		}
	}
	return n
}

// undoGang takes the members off the nodes again, and reports to all why the gang is not placed.
func (s *Scheduler) undoGang(g *gang, members []*queue.Entry, placed []*decision, refused *decision, size int, timeout time.Duration) {
	for _, d := range placed {
		s.cluster.RemovePod(d.pod.UID)
	}
	var by []string
	why, reason := "", corev1.PodReasonUnschedulable
	switch {
	case refused == nil:
		why = "others are still being bound"
	case refused.failure != "":
		why, reason = refused.failure, corev1.PodReasonSchedulerError
	default:
		by, why = refused.refusal.Plugins(), refused.refusal.Message()
	}
	message := fmt.Sprintf("gang %q: %d of %d pods fit; %s", g.key.name, len(placed)+s.bound(g), size, why)
	late := !g.told && s.now().Sub(g.since) >= timeout
	for _, e := range members {
		if by == nil {
			s.queue.Retry(e, s.now())
		} else {
			s.queue.Refused(e, by, s.now())
		}
		s.reporter.report(e.Pod, reason, message, nil)
		if late {
			s.Recorder.Eventf(e.Pod.Pod, corev1.EventTypeWarning, "GangNotPlaced", "gang %q was not placed within %v: %s", g.key.name, timeout, why)
		}
	}
	g.told = g.told || late
}

// bindGang binds the placed members with one command. Members beyond the gang's size that do not fit wait as other pods do.
func (s *Scheduler) bindGang(ctx context.Context, g *gang, members []*queue.Entry, placed []*decision, refused *decision) {
	unit := &together{}
	for _, d := range placed {
		s.cluster.RemovePod(d.pod.UID) // assume places it again
		if a := s.reserve(d); a != nil {
			unit.members = append(unit.members, a)
		} else {
			unit.broken = true
		}
	}
	if unit.broken { // something that was to be reserved is gone
		for _, a := range unit.members {
			s.unbound(a, fmt.Errorf("another pod of gang %q could not be placed", g.key.name))
		}
		return
	}
	for _, e := range members {
		if s.assumed[e.Pod.UID] != nil || refused == nil {
			continue
		}
		if refused.refusal != nil {
			s.queue.Refused(e, refused.refusal.Plugins(), s.now())
			s.reporter.report(e.Pod, corev1.PodReasonUnschedulable, refused.refusal.Message(), nil)
		} else {
			s.queue.Retry(e, s.now())
		}
	}
	s.binder.addTogether(ctx, unit)
}
