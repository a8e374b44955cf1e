// Package preemption finds pods of lower priority that can make room for a pod which fits nowhere (the plugin DefaultPreemption). It
// only chooses; the scheduler carries out what was chosen.
package preemption

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// Default is the plugin DefaultPreemption.
type Default struct {
	// View returns the state with the PodDisruptionBudgets.
	View func() client.View
	Now  func() time.Time
	// The search ends when victims have been found on this share of the nodes in question, in percent, and on at least so many nodes.
	MinPercentage, MinNodes int

	start int // where the search goes on next time
}

// NewDefault returns the plugin with upstream's parameters.
func NewDefault(view func() client.View) *Default {
	return &Default{View: view, Now: time.Now, MinPercentage: 10, MinNodes: 100}
}

// Name returns the plugin's name.
func (*Default) Name() string { return "DefaultPreemption" }

const prefix = "preemption: "

var (
	noVictims  = framework.Refuse(framework.UnschedulableAndUnresolvable, "DefaultPreemption", "No preemption victims found for incoming pod")
	notHelpful = framework.Refuse(framework.UnschedulableAndUnresolvable, "DefaultPreemption", "Preemption is not helpful for scheduling")
)

// candidate is a node with the pods that would have to go.
type candidate struct {
	node       *framework.NodeInfo
	victims    []*framework.PodInfo // in order of importance
	leaving    []*framework.PodInfo // those that have to go, and are being deleted anyway
	violations int                  // of PodDisruptionBudgets
	broken     int                  // gangs that lose a pod
}

// search is what one search for victims knows.
type search struct {
	*Default
	budgets *budgets
	// leaves says whether a pod is being deleted anyway, may whether one may be a victim.
	leaves, may func(*framework.PodInfo) bool
}

// PostFilter chooses a node, and the fewest and least important pods on it, so that the pod fits without them.
func (d *Default) PostFilter(c *framework.Cluster, p *framework.PodInfo, e *framework.Evaluation, r *framework.Refusal) *framework.Nomination {
	if reason := d.ineligible(c, p, r); reason != "" {
		return &framework.Nomination{Message: prefix + reason}
	}
	found, refused := d.candidates(c, p, e, r)
	if len(found) == 0 {
		all := framework.Refusal{Nodes: r.Nodes, Single: refused, Rest: notHelpful}
		return &framework.Nomination{Message: prefix + all.Message(), Hopeless: true}
	}
	best := d.best(found)
	return &framework.Nomination{
		Node: best.node.Name, Victims: best.victims,
		Message: fmt.Sprintf(prefix+"found a potential placement for pod on node %v, preempting %d victims", best.node.Name, len(best.victims)+len(best.leaving)),
	}
}

// ineligible returns why a pod must not preempt others now; "" if it may.
func (d *Default) ineligible(c *framework.Cluster, p *framework.PodInfo, r *framework.Refusal) string {
	if p.Spec.PreemptionPolicy != nil && *p.Spec.PreemptionPolicy == corev1.PreemptNever {
		return "not eligible due to preemptionPolicy=Never."
	}
	nominated := c.NominatedNode(p.UID)
	node := c.Node(nominated)
	if node == nil {
		return ""
	}
	if refused := r.Single[nominated]; refused != nil && refused.Code == framework.UnschedulableAndUnresolvable {
		return "" // to wait there would be in vain
	}
	if AwaitsRoom(p, node) {
		return "not eligible due to a terminating pod on the nominated node."
	}
	return ""
}

// AwaitsRoom says whether a pod is being deleted on a node that was preempted, perhaps to make room for a pod that is nominated there.
func AwaitsRoom(p *framework.PodInfo, node *framework.NodeInfo) bool {
	for _, other := range node.Pods {
		if lower(other, p) && leaves(other.Pod) {
			return true
		}
	}
	return false
}

func lower(other, p *framework.PodInfo) bool {
	return corehelpers.PodPriority(other.Pod) < corehelpers.PodPriority(p.Pod)
}

// leaves says whether a pod is being deleted because it was preempted.
func leaves(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
	})
}

// candidates looks for victims on the nodes where that may help. It also returns why others are none.
func (d *Default) candidates(c *framework.Cluster, p *framework.PodInfo, e *framework.Evaluation, r *framework.Refusal) ([]candidate, map[string]*framework.Status) {
	nodes := resolvable(c, r)
	if len(nodes) == 0 {
		return nil, nil
	}
	refused := map[string]*framework.Status{}
	if !c.AnyBelow(corehelpers.PodPriority(p.Pod)) { // the usual case: there is nothing to search
		for _, n := range nodes {
			refused[n.Name] = noVictims
		}
		return nil, refused
	}
	s := d.searchFor(c, func(other *framework.PodInfo) bool { return lower(other, p) })
	found, failed := s.on(nodes, p, e)
	maps.Copy(refused, failed)
	return found, refused
}

func (d *Default) searchFor(c *framework.Cluster, may func(*framework.PodInfo) bool) *search {
	return &search{d, newBudgets(client.List[*policyv1.PodDisruptionBudget](d.View(), "", nil)), c.Leaves, may}
}

// resolvable returns the nodes where the going of pods may help.
func resolvable(c *framework.Cluster, r *framework.Refusal) (nodes []*framework.NodeInfo) {
	for _, n := range c.Nodes {
		if status := r.Single[n.Name]; status != nil && status.Code == framework.Unschedulable {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// on looks for victims on nodes, until there are enough. It also returns why others are none.
func (s *search) on(nodes []*framework.NodeInfo, p *framework.PodInfo, e *framework.Evaluation) ([]candidate, map[string]*framework.Status) {
	if len(nodes) == 0 {
		return nil, nil
	}
	refused := map[string]*framework.Status{}
	enough := max(len(nodes)*s.MinPercentage/100, s.MinNodes)
	var found []candidate
	harmless := false // one was found that violates no budget
	start := s.start % len(nodes)
	for i := range nodes {
		n := nodes[(start+i)%len(nodes)]
		one, status := s.victims(p, e, n)
		if status != nil {
			refused[n.Name] = status
			continue
		}
		found = append(found, one)
		harmless = harmless || one.violations == 0
		if harmless && len(found) >= enough {
			s.start = start + i + 1
			break
		}
	}
	return found, refused
}

// victims finds the pods on a node that would have to go: it takes away all of lower priority, and gives back, the important ones
// first, those without which the pod fits all the same. Pods whose going would violate a budget are given back before others, and then
// those of gangs. Pods that are being deleted anyway are given back last: they cost nothing.
func (s *search) victims(p *framework.PodInfo, e *framework.Evaluation, n *framework.NodeInfo) (candidate, *framework.Status) {
	var lesser []*framework.PodInfo
	for _, other := range n.Pods {
		if s.may(other) {
			lesser = append(lesser, other)
		}
	}
	if len(lesser) == 0 {
		return candidate{}, noVictims
	}
	slices.SortFunc(lesser, s.moreImportant)
	away := map[*framework.PodInfo]bool{}
	defer func() { // also after a panic
		for other := range away {
			e.With(other, n)
		}
	}()
	for _, other := range lesser {
		e.Without(other, n)
		away[other] = true
	}
	if status := e.Filter(p, n); status != nil {
		return candidate{}, status
	}
	giveBack := func(other *framework.PodInfo) bool {
		e.With(other, n)
		delete(away, other)
		if e.Filter(p, n) == nil {
			return true
		}
		e.Without(other, n)
		away[other] = true
		return false
	}
	one := candidate{node: n}
	staying, leaving := part(lesser, s.leaves)
	protected, others := s.budgets.split(staying)
	for _, other := range protected {
		if !giveBack(other) {
			one.violations++
			one.victims = append(one.victims, other)
		}
	}
	for _, other := range others {
		if !giveBack(other) {
			one.victims = append(one.victims, other)
		}
	}
	for _, other := range leaving {
		if !giveBack(other) {
			one.leaving = append(one.leaving, other)
		}
	}
	if len(one.victims)+len(one.leaving) == 0 {
		return candidate{}, framework.Failed("DefaultPreemption", fmt.Errorf("expected at least one victim pod on node %q", n.Name))
	}
	slices.SortFunc(one.victims, s.moreImportant)
	one.broken = gangsOf(one.victims)
	return one, nil
}

// part divides a list into the pods for which something does not hold and those for which it does.
func part(pods []*framework.PodInfo, holds func(*framework.PodInfo) bool) (not, those []*framework.PodInfo) {
	for _, p := range pods {
		if holds(p) {
			those = append(those, p)
		} else {
			not = append(not, p)
		}
	}
	return not, those
}

// moreImportant orders by priority, then by how long pods have run, then by name.
func (d *Default) moreImportant(a, b *framework.PodInfo) int {
	if x, y := corehelpers.PodPriority(a.Pod), corehelpers.PodPriority(b.Pod); x != y {
		if x > y {
			return -1
		}
		return 1
	}
	if order := d.startOf(a).Compare(d.startOf(b)); order != 0 {
		return order
	}
	if a.Namespace+"/"+a.Name < b.Namespace+"/"+b.Name {
		return -1
	}
	return 1
}

// startOf returns when a pod was started. One that has not been is the youngest.
func (d *Default) startOf(p *framework.PodInfo) time.Time {
	if p.Status.StartTime == nil {
		return d.Now()
	}
	return p.Status.StartTime.Time
}

// best chooses among nodes: the one with the fewest violations of budgets, then the one where the fewest gangs lose a pod, then the one
// whose most important victim has the lowest priority, then that with the smallest sum of priorities, then that with the fewest victims, then that on which the most important
// victims started last, then by name.
func (d *Default) best(found []candidate) candidate {
	best := found[0]
	for _, one := range found[1:] {
		if d.better(one, best) {
			best = one
		}
	}
	return best
}

func (d *Default) better(a, b candidate) bool {
	x, y := d.costs(a), d.costs(b)
	for i := range x {
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return a.node.Name < b.node.Name
}

// costs are what makes a candidate bad, the most important first.
func (d *Default) costs(c candidate) [6]int64 {
	if len(c.victims) == 0 {
		return [6]int64{1: -1}
	}
	highest := corehelpers.PodPriority(c.victims[0].Pod)
	var sum int64
	earliest := d.startOf(c.victims[0])
	for _, v := range c.victims {
		priority := corehelpers.PodPriority(v.Pod)
		// So that all are positive: several victims of negative priority are not better than one.
		sum += int64(priority) + 1<<31
		if start := d.startOf(v); priority == highest && start.Before(earliest) {
			earliest = start
		}
	}
	return [6]int64{int64(c.violations), int64(c.broken), int64(highest), sum, int64(len(c.victims)), -earliest.UnixNano()}
}
