package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/scheduler/devices"
	"github.com/kontiki/kontiki/scheduler/framework"
	victims "github.com/kontiki/kontiki/scheduler/preemption"
	"github.com/kontiki/kontiki/scheduler/queue"
)

// The annotations of the pods of a gang.
const (
	gangSize    = "kontiki.io/gang-size"    // how many pods must be placed at once
	gangTimeout = "kontiki.io/gang-timeout" // after how long an event says that and why the gang is not placed
)

// largestGang limits the size of a gang: its bindings must fit into one command.
const largestGang = 256

const defaultGangTimeout = 5 * time.Minute

// gang has the pods of a gang that are known.
type gang struct {
	key framework.GangKey
	// pending are those that are to be placed, placed those that have a node, assumed or bound.
	pending map[types.UID]*framework.PodInfo
	placed  map[types.UID]bool
	// states is the size that each of these pods states, and sizes how many pods state each. They should agree.
	states map[types.UID]int
	sizes  map[int]int
	// since is when it first had all its pods without being placed, or its first one while it has never had all (complete), timeout the
	// shortest that its pods state, and told whether its having passed has been reported.
	since          time.Time
	timeout        time.Duration
	complete, told bool
	// why is why it was not placed when it was tried last.
	why string
}

// has returns how many pods of the gang there are.
func (g *gang) has() int { return len(g.pending) + len(g.placed) }

// size returns how many pods of the gang must be placed at once: the largest number that one of them states.
func (g *gang) size() (largest int) {
	for size := range g.sizes {
		largest = max(largest, size)
	}
	return largest
}

// disagreement says that the pods of the gang state different sizes; it is empty if they agree.
func (g *gang) disagreement() string {
	if len(g.sizes) < 2 {
		return ""
	}
	return fmt.Sprintf("; the pods of the gang disagree on its size (from %d to %d), and the largest counts", slices.Min(slices.Collect(maps.Keys(g.sizes))), g.size())
}

// count notes what a pod states of the gang.
func (g *gang) count(pod *corev1.Pod) {
	g.discount(pod.UID)
	size, timeout, problem := gangParameters(pod)
	if problem != "" {
		return
	}
	g.states[pod.UID] = size
	g.sizes[size]++
	if g.timeout == 0 || timeout < g.timeout {
		g.timeout = timeout
	}
}

func (g *gang) discount(uid types.UID) {
	size, ok := g.states[uid]
	if !ok {
		return
	}
	delete(g.states, uid)
	if g.sizes[size]--; g.sizes[size] == 0 {
		delete(g.sizes, size)
	}
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
type gangs map[framework.GangKey]*gang

func (g gangs) of(pod *corev1.Pod) *gang {
	key, ok := framework.GangOf(pod)
	if !ok {
		return nil
	}
	if g[key] == nil {
		g[key] = &gang{key: key, pending: map[types.UID]*framework.PodInfo{}, placed: map[types.UID]bool{}, states: map[types.UID]int{}, sizes: map[int]int{}}
	}
	return g[key]
}

// gate returns why a pod of the gang must not be tried: not all of its pods are there; nil if they are.
func (g *gang) gate(p *framework.PodInfo) *framework.Status {
	if _, _, problem := gangParameters(p.Pod); problem != "" {
		return refuseGang("%s", problem)
	}
	if have, size := g.has(), g.size(); have < size {
		return refuseGang("waiting for minCount pods from a gang to appear in scheduling queue: gang %q has %d of %d%s", g.key.Name, have, size, g.disagreement())
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
	size := g.size()
	delete(g.placed, p.UID)
	g.pending[p.UID] = p
	g.count(p.Pod)
	s.regate(g, p.UID)
	if g.size() > size {
		s.withdrawIncomplete(g)
	}
	s.expectGang(g)
	return g.gate(p)
}

// regate lets the other pods of a gang be tried, or keeps them from that, after their number has changed.
func (s *Scheduler) regate(g *gang, but types.UID) {
	if size := g.size(); !g.complete && len(g.pending) > 0 && size > 0 && g.has() >= size {
		g.complete, g.told, g.since = true, false, s.now()
		s.expectGang(g)
	}
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
	key, ok := framework.GangOf(pod)
	g := s.gangs[key]
	if !ok || (g == nil && !placed) {
		return
	}
	g = s.gangs.of(pod)
	_, was := g.pending[pod.UID]
	was = was || g.placed[pod.UID]
	size := g.size()
	delete(g.pending, pod.UID)
	delete(g.placed, pod.UID)
	if placed {
		g.placed[pod.UID] = true
		g.count(pod)
	} else {
		g.discount(pod.UID)
	}
	switch {
	case g.has() == 0:
		delete(s.gangs, key)
	case was && !placed, g.size() > size: // one pod less, or more are needed
		s.regate(g, "")
		s.withdrawIncomplete(g)
	case was != placed, g.size() < size:
		s.regate(g, "")
	}
}

// gangTrial is an attempt to place the pending pods of a gang.
type gangTrial struct {
	*gang
	size    int
	members []*queue.Entry
	placed  []*decision
	refused []*decision
	// bound and binding are the numbers of pods of the gang that had a node before, for certain or perhaps: their binding may fail.
	bound, binding int
	// nominated are the nodes where members expected room before the attempt.
	nominated map[types.UID]string
	// awaits means that pods are being deleted to make room for the gang.
	awaits bool
}

// fits returns how many pods of the gang have a node.
func (t *gangTrial) fits() int { return len(t.placed) + t.bound }

// scheduleGang decides about all pending pods of a gang at once: either so many find a place that the gang is complete, or none is placed.
func (s *Scheduler) scheduleGang(ctx context.Context, first *queue.Entry, g *gang) {
	t := s.tryGang(first, g)
	if t.fits() < t.size {
		s.failGang(ctx, t)
		return
	}
	s.bindGang(ctx, t)
}

// tryGang puts the members that find a node on it. The largest are tried first, since small ones leave less room than they need.
// Members that fit nowhere are tried again if others were placed after them, which their affinity may be about.
func (s *Scheduler) tryGang(first *queue.Entry, g *gang) *gangTrial {
	t := &gangTrial{gang: g, size: g.size(), nominated: map[types.UID]string{}, members: []*queue.Entry{first}}
	for uid := range g.pending {
		if e := s.queue.Get(uid); uid != first.Pod.UID && e != nil && e.Gated == nil {
			s.queue.Take(e)
			t.members = append(t.members, e)
		}
	}
	for uid := range g.placed {
		if s.assumed[uid] == nil {
			t.bound++
		} else {
			t.binding++
		}
	}
	blocked := map[types.UID]int{}
	for _, e := range t.members {
		node := s.cluster.NominatedNode(e.Pod.UID)
		t.nominated[e.Pod.UID] = node
		if n := s.cluster.Node(node); n != nil && victims.AwaitsRoom(e.Pod, n) {
			blocked[e.Pod.UID] = 1
		}
		t.awaits = t.awaits || blocked[e.Pod.UID] == 1 || s.preempting[e.Pod.UID]
	}
	slices.SortFunc(t.members, func(a, b *queue.Entry) int {
		x, y := &a.Pod.Requests, &b.Pod.Requests
		return cmp.Or(
			cmp.Compare(blocked[b.Pod.UID], blocked[a.Pod.UID]), // so that the attempt ends soon if it is too early
			cmp.Compare(y.MilliCPU, x.MilliCPU), cmp.Compare(y.Memory, x.Memory), cmp.Compare(a.Pod.Name, b.Pod.Name))
	})
	for left := t.members; len(left) > 0; {
		t.refused = nil
		last := 0 // how many were refused before the last one that was placed
		var again []*queue.Entry
		for _, e := range left {
			d := s.tryMember(e)
			if d.node != nil {
				if status := d.hold(); status != nil {
					d.node, d.failure = nil, notReserved(status)
				}
			}
			if d.node == nil {
				t.refused, again = append(t.refused, d), append(again, e)
				if t.awaits && len(t.members)-len(again)+t.bound < t.size {
					return t
				}
			} else {
				s.cluster.Nominate(d.pod, "")
				s.cluster.Place(d.pod, d.node.Name)
				t.placed = append(t.placed, d)
				last = len(again)
			}
		}
		if last == 0 {
			break
		}
		left = again
	}
	return t
}

// tryMember is decideOn, unless the namespace's budget for devices was used up, perhaps by the same gang.
func (s *Scheduler) tryMember(e *queue.Entry) *decision {
	if !s.searchPaused(e.Pod).IsZero() {
		return &decision{entry: e, pod: e.Pod, failure: searchesPaused}
	}
	return s.decideOn(e)
}

// withdrawIncomplete gives up the room that pods of a gang expect if not all of the gang is there any more.
func (s *Scheduler) withdrawIncomplete(g *gang) {
	for uid, p := range g.pending {
		if s.cluster.NominatedNode(uid) != "" && g.gate(p) != nil {
			s.withdrawGang(p)
		}
	}
}

// withdrawGang gives up the room that a pod of a gang expects.
func (s *Scheduler) withdrawGang(p *framework.PodInfo) {
	s.withdraw(p.Pod)
	none := ""
	s.reporter.add(report{pod: p.Pod, nominated: &none})
}

// failGang takes the members off the nodes again, makes room for the gang if there is a way, and reports to all why it is not placed.
func (s *Scheduler) failGang(ctx context.Context, t *gangTrial) {
	why, reason, by := "others are still being bound", corev1.PodReasonUnschedulable, []string(nil)
	for _, d := range t.refused {
		if d.failure != "" {
			why, reason, by = d.failure, corev1.PodReasonSchedulerError, nil
			break
		}
		why = d.refusal.Message()
		by = append(by, d.refusal.Plugins()...)
	}
	slices.Sort(by)
	by = slices.Compact(by)
	var room *framework.GangNomination
	if by != nil {
		room = s.roomForGang(t)
	}
	s.undoGang(t, by)
	s.freeForGang(ctx, t)
	if room != nil {
		why += " " + room.Message
	}
	if !t.awaits || t.why == "" {
		t.why = why + t.disagreement()
	}
	s.expectGang(t.gang)
	if t.awaits {
		return // what it waits for has been reported
	}
	message := fmt.Sprintf("gang %q: %d of %d pods fit%s; %s", t.key.Name, t.fits(), t.size, t.disagreement(), why)
	for _, e := range t.members {
		if room == nil || len(room.Nodes) == 0 {
			s.reporter.report(e.Pod, reason, message, nil)
		}
	}
	switch {
	case room == nil:
	case room.Hopeless:
		for _, e := range t.members {
			if s.cluster.NominatedNode(e.Pod.UID) != "" {
				s.withdrawGang(e.Pod)
			}
		}
	case len(room.Nodes) > 0:
		s.preemptForGang(ctx, t, room, message)
	}
}

// freeForGang gives up allocations of devices that nobody uses and that keep members from every node.
func (s *Scheduler) freeForGang(ctx context.Context, t *gangTrial) {
	for _, d := range t.refused {
		if d.refusal == nil {
			continue
		}
		for _, plugin := range s.profiles[d.pod.Spec.SchedulerName].PostFilters {
			if plugin.Name() != devices.Name {
				continue
			}
			if d.nomination = plugin.PostFilter(s.cluster, d.pod, d.evaluation, d.refusal); d.nomination != nil {
				s.help(ctx, d)
			}
		}
	}
}

// roomForGang asks plugins how to make room for the members that are missing; nil if that must not be done now.
func (s *Scheduler) roomForGang(t *gangTrial) (room *framework.GangNomination) {
	if t.awaits || t.binding > 0 {
		return nil
	}
	trial := &framework.GangTrial{Key: t.key, Missing: t.size - t.fits(), Evaluation: s.evaluation}
	for _, d := range t.placed {
		trial.Placed = append(trial.Placed, d.pod)
	}
	for _, d := range t.refused {
		if d.refusal.Nodes > 0 {
			trial.Waiting = append(trial.Waiting, d.pod)
		}
		s.cluster.Nominate(d.pod, "") // the gang is looked at anew
	}
	if len(trial.Waiting) < trial.Missing {
		return nil
	}
	members := slices.Concat(trial.Waiting, trial.Placed)
	if i := slices.IndexFunc(members, s.devices.Concerns); i >= 0 {
		began := s.now()
		trial.Late = func() bool { return s.now().Sub(began) > searchBurst }
		defer func() { s.chargeSearch(members[i], began) }()
	}
	err := contain.Run(func() error {
		for _, plugin := range s.profiles[t.members[0].Pod.Spec.SchedulerName].PostFilters {
			if p, ok := plugin.(framework.GangPostFilterPlugin); ok && room == nil {
				s.Metrics.preempting.Inc()
				room = p.PostFilterGang(s.cluster, trial)
			}
		}
		return nil
	})
	if err != nil {
		s.Log.Error("making room for a gang panicked", "gang", t.key, "error", err, "stack", contain.Stack(err))
		s.cluster.Invalidate()
		return nil
	}
	return room
}

// undoGang ends an attempt: the members are pending as before.
func (s *Scheduler) undoGang(t *gangTrial, by []string) {
	s.devices.Quietly(func() { // nobody was refused because of what the members held
		for _, d := range slices.Backward(t.placed) {
			s.cluster.RemovePod(d.pod.UID)
			d.letGo()
		}
	})
	for _, e := range t.members {
		s.cluster.Nominate(e.Pod, t.nominated[e.Pod.UID])
		if by == nil {
			s.queue.Retry(e, s.now())
		} else {
			s.queue.Refused(e, by, s.now())
		}
	}
}

// bindGang binds the placed members: as many as the gang lacks with one command, and the others, whose number has no limit, after
// that. Members beyond the gang's size that do not fit wait as other pods do.
func (s *Scheduler) bindGang(ctx context.Context, t *gangTrial) {
	unit := &together{gang: t.key}
	for _, d := range t.placed {
		s.cluster.RemovePod(d.pod.UID) // assume places it again
		switch a := s.reserve(d); {
		case a == nil:
			unit.broken = true
		case len(unit.members) < t.size-t.bound:
			unit.members = append(unit.members, a)
		default:
			unit.after = append(unit.after, a)
		}
	}
	if unit.broken { // something that was to be reserved is gone
		s.unbound(unit.all(), fmt.Errorf("another pod of gang %q could not be placed", t.key.Name))
		return
	}
	for _, d := range t.refused {
		if d.refusal != nil {
			s.queue.Refused(d.entry, d.refusal.Plugins(), s.now())
			s.reporter.report(d.pod, corev1.PodReasonUnschedulable, d.refusal.Message(), nil)
		} else {
			s.queue.Retry(d.entry, s.now())
		}
	}
	s.binder.addTogether(ctx, unit)
}
