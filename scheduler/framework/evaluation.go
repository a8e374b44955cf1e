package framework

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/sets"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
)

// Evaluation is what the plugins of a profile find out about a pod on all nodes. It can be kept for later pods with the same
// Signature: CatchUp brings it up to date, and then it says about them exactly what a new one would.
//
// For each node it keeps the first refusal by a filter that depends on nothing but the node, and the scores that do. Everything else
// is asked each time, of objects that hold counts, so that a decision needs a few passes over arrays.
type Evaluation struct {
	cluster *Cluster
	profile *Profile
	pod     *PodInfo
	epoch   uint64
	seen    uint64 // the changes of the cluster's log before this number are contained

	refused  *Status // by PreFilter, for all nodes
	filters  []podFilter
	trackers []Tracker
	// only are the nodes that filters limit the pod to, nil for all; limiters are the plugins that do it.
	only     sets.Set[string]
	limiters []string
	scores   []podScore
	lasting  bool // no filter is volatile, and no plugin reads a label that others of the template do not have

	nodes []nodeResult // by NodeInfo.Index
	// unknown are the nodes that must be looked at, perhaps several times; ranking orders the others once it is needed.
	unknown []int32
	ranking *ranking
	// kept has the raw scores of the plugins in scores that have a place in it, by node.
	kept [][]int64

	active     []PodFilter // the trackers among the filters that refuse any node at present
	fit        []*NodeInfo // reused memory, for the results
	total, raw []int64
}

type podFilter struct {
	plugin  string
	filter  PodFilter
	tracker bool
}

type podScore struct {
	PodScore
	weight    int64
	comparer  Comparer
	normalize func(nodes []*NodeInfo, scores []int64)
	place     int // in kept; -1 if scores are not kept
}

// nodeResult is what is kept about a node.
type nodeResult struct {
	known  bool
	status *Status // the first refusal by a filter that is no tracker
	by     int     // the filter that refused, an index into filters
	fixed  int64   // the weighted scores that need no normalization
	pods   int32   // how many there are
}

// NewEvaluation looks at a pod.
func NewEvaluation(c *Cluster, profile *Profile, p *PodInfo) *Evaluation {
	c.Settle()
	e := &Evaluation{cluster: c, profile: profile, pod: p, epoch: c.Epoch, seen: c.log.next()}
	e.lasting = !e.distinguished()
	e.preFilter()
	if e.refused == nil {
		e.preScore()
		if e.only == nil {
			e.nodes = make([]nodeResult, len(c.Nodes))
			e.unknown = make([]int32, len(c.Nodes))
			for i := range e.unknown {
				e.unknown[i] = int32(i)
			}
		}
	}
	return e
}

func (e *Evaluation) preFilter() {
	for _, plugin := range e.profile.Filters {
		filter, status := plugin.PreFilter(e.cluster, e.pod)
		if status != nil {
			if e.refused = status; status.Code != Unschedulable {
				return // nothing that another plugin says would change it
			}
			continue
		}
		if filter == nil {
			continue
		}
		tracker, tracks := filter.(Tracker)
		if tracks {
			e.trackers = append(e.trackers, tracker)
		}
		if _, volatile := filter.(Volatile); volatile {
			e.lasting = false
		}
		e.filters = append(e.filters, podFilter{plugin.Name(), filter, tracks})
		if limiter, ok := filter.(NodeLimiter); ok {
			e.limit(plugin.Name(), limiter.OnlyNodes())
		}
	}
	if e.refused == nil && e.only != nil && len(e.only) == 0 {
		if len(e.limiters) == 1 {
			e.refused = Refuse(UnschedulableAndUnresolvable, e.limiters[0], "node(s) didn't satisfy plugin "+e.limiters[0])
		} else {
			e.refused = Refuse(UnschedulableAndUnresolvable, e.limiters[0], fmt.Sprintf("node(s) didn't satisfy plugin(s) %v simultaneously", e.limiters))
		}
	}
}

func (e *Evaluation) limit(plugin string, only sets.Set[string]) {
	if only == nil {
		return
	}
	e.limiters = append(e.limiters, plugin)
	slices.Sort(e.limiters)
	if e.only == nil {
		e.only = only
	} else {
		e.only = e.only.Intersection(only)
	}
}

func (e *Evaluation) preScore() {
	for _, plugin := range e.profile.Scores {
		score := plugin.PreScore(e.cluster, e.pod, e.FilterOf(plugin.Name()))
		if score == nil {
			continue
		}
		s := podScore{PodScore: score, weight: plugin.Weight, place: -1}
		if normalizer, ok := score.(Normalizer); ok {
			s.normalize = normalizer.Normalize
		}
		tracker, tracks := score.(Tracker)
		if tracks && !slices.Contains(e.trackers, tracker) {
			e.trackers = append(e.trackers, tracker)
		}
		if s.comparer, _ = score.(Comparer); s.comparer == nil && !tracks && s.normalize != nil && e.only == nil {
			s.place = len(e.kept)
			e.kept = append(e.kept, make([]int64, len(e.cluster.Nodes)))
		}
		e.scores = append(e.scores, s)
	}
}

// FilterOf returns what a plugin's PreFilter returned; nil if it has nothing to do with the pod.
func (e *Evaluation) FilterOf(plugin string) PodFilter {
	for i := range e.filters {
		if e.filters[i].plugin == plugin {
			return e.filters[i].filter
		}
	}
	return nil
}

// fixed says whether the scores of a plugin are kept as part of the sum.
func (s *podScore) fixed() bool { return s.comparer == nil && s.normalize == nil }

// Lasting says whether the evaluation can be kept for other pods.
func (e *Evaluation) Lasting() bool { return e.lasting && e.only == nil && e.refused == nil }

// CatchUp applies what has changed since. It returns false if that is more than the evaluation can follow.
func (e *Evaluation) CatchUp() bool {
	c := e.cluster
	changes, ok := c.log.since(e.seen)
	if !ok || e.epoch != c.Epoch {
		return false
	}
	for i := range changes {
		change := &changes[i]
		if change.Node.Node == nil {
			continue
		}
		if r := &e.nodes[change.Node.Index]; r.known {
			r.known = false
			e.unknown = append(e.unknown, int32(change.Node.Index))
		}
		if change.Pod != nil {
			e.track(change.Pod, change.Node, change.Added)
		}
	}
	if len(e.unknown) > 2*len(e.nodes) { // those that were looked at since are in it, too
		slices.Sort(e.unknown)
		e.unknown = slices.Compact(e.unknown)
	}
	e.seen = c.log.next()
	return true
}

func (e *Evaluation) track(p *PodInfo, n *NodeInfo, added bool) {
	for _, tracker := range e.trackers {
		if added {
			tracker.AddPod(p, n)
		} else {
			tracker.RemovePod(p, n)
		}
	}
}

// mostTried is how many of the best nodes are tried before all are looked at.
const mostTried = 64

// Choose returns the best node for a pod of the evaluation's signature, the one that Best chooses of those that Fit returns, or why there
// is none.
func (e *Evaluation) Choose(p *PodInfo) (*NodeInfo, *Refusal) {
	if n := e.chooseRanked(); n != nil {
		return n, nil
	}
	fit, refusal := e.Fit(p)
	if refusal != nil {
		return nil, refusal
	}
	return e.Best(fit), nil
}

// chooseRanked is Choose if the order of the nodes is known, that is, if all scores that differ between nodes are kept as sums. It
// returns nil if it cannot tell.
func (e *Evaluation) chooseRanked() *NodeInfo {
	c := e.cluster
	if e.refused != nil || e.only != nil || len(c.Nominated) > 0 || enoughNodes(len(c.Nodes), e.profile.Percentage) < len(c.Nodes) {
		return nil
	}
	for i := range e.scores {
		if s := &e.scores[i]; !s.fixed() && (s.comparer == nil || s.comparer.Compare(nil)) {
			return nil
		}
	}
	if e.ranking == nil {
		e.ranking = newRanking(e)
		for i := range e.nodes {
			if e.nodes[i].known {
				e.ranking.update(i)
			}
		}
	}
	e.lookAtUnknown()
	e.rouse()
	best := e.ranking.first(mostTried, func(i int32) bool {
		return !slices.ContainsFunc(e.active, func(f PodFilter) bool { return f.Filter(c.Nodes[i]) != nil })
	})
	if best < 0 {
		return nil
	}
	return c.Nodes[best]
}

// lookAtUnknown makes all nodes known.
func (e *Evaluation) lookAtUnknown() {
	for _, i := range e.unknown {
		if r := &e.nodes[i]; !r.known {
			e.look(e.cluster.Nodes[i], r)
		}
		if e.ranking != nil {
			e.ranking.update(int(i))
		}
	}
	e.unknown = e.unknown[:0]
}

// Fit returns the nodes that all filters pass for a pod of the evaluation's signature, or why there are none. The list is valid until
// the next call.
func (e *Evaluation) Fit(p *PodInfo) ([]*NodeInfo, *Refusal) {
	c := e.cluster
	if len(c.Nodes) == 0 {
		return nil, &Refusal{}
	}
	if e.refused != nil {
		return nil, &Refusal{Nodes: len(c.Nodes), All: e.refused}
	}
	clear(e.fit) // do not keep removed nodes in memory
	e.fit = e.fit[:0]
	if e.only != nil {
		return e.fitOnly(p)
	}
	e.rouse()
	enough := enoughNodes(len(c.Nodes), e.profile.Percentage)
	if enough == len(c.Nodes) {
		e.lookAtUnknown()
	}
	for i := range c.Nodes {
		if enough < len(c.Nodes) {
			i = (c.start + i) % len(c.Nodes)
		}
		if n := c.Nodes[i]; e.passes(p, n) {
			if e.fit = append(e.fit, n); len(e.fit) == enough && enough < len(c.Nodes) {
				c.start = (i + 1) % len(c.Nodes)
				break
			}
		}
	}
	if len(e.fit) > 0 {
		return e.fit, nil
	}
	refusal := &Refusal{Nodes: len(c.Nodes), Single: make(map[string]*Status, len(c.Nodes))}
	for _, n := range c.Nodes {
		refusal.Single[n.Name] = e.refusalBy(p, n)
	}
	return nil, refusal
}

// Passes says whether all filters pass a node for a pod of the evaluation's signature.
func (e *Evaluation) Passes(p *PodInfo, n *NodeInfo) bool {
	return e.refused == nil && (e.only == nil || e.only.Has(n.Name)) && e.Filter(p, n) == nil
}

// fitOnly is Fit for a pod that filters limit to some nodes.
func (e *Evaluation) fitOnly(p *PodInfo) ([]*NodeInfo, *Refusal) {
	refusal := &Refusal{
		Nodes: len(e.cluster.Nodes), Single: map[string]*Status{},
		Rest: Refuse(UnschedulableAndUnresolvable, e.limiters[0], fmt.Sprintf("node(s) didn't satisfy plugin(s) %v", e.limiters)),
	}
	for _, name := range sets.List(e.only) {
		n := e.cluster.Node(name)
		if n == nil {
			continue
		}
		if status := e.Filter(p, n); status != nil {
			refusal.Single[name] = status
		} else {
			e.fit = append(e.fit, n)
		}
	}
	if len(e.fit) > 0 {
		return e.fit, nil
	}
	return nil, refusal
}

// passes says whether all filters pass a node.
func (e *Evaluation) passes(p *PodInfo, n *NodeInfo) bool {
	r := &e.nodes[n.Index]
	if !r.known {
		e.look(n, r)
	}
	if r.status != nil {
		return false
	}
	if e.awaited(p, n) {
		return e.Filter(p, n) == nil
	}
	for _, filter := range e.active {
		if filter.Filter(n) != nil {
			return false
		}
	}
	return true
}

// Tracks says whether a pod on one node may make another node refuse the evaluation's pod, or not refuse it any more.
func (e *Evaluation) Tracks() bool {
	e.rouse()
	return len(e.active) > 0
}

// rouse finds the trackers that may refuse nodes.
func (e *Evaluation) rouse() {
	e.active = e.active[:0]
	for i := range e.filters {
		if f := &e.filters[i]; f.tracker {
			if idler, ok := f.filter.(Idler); !ok || !idler.Idle() {
				e.active = append(e.active, f.filter)
			}
		}
	}
}

// look computes what is kept about a node.
func (e *Evaluation) look(n *NodeInfo, r *nodeResult) {
	*r = nodeResult{known: true, pods: int32(len(n.Pods))}
	for i := range e.filters {
		if f := &e.filters[i]; !f.tracker {
			if r.status = f.filter.Filter(n); r.status != nil {
				r.by = i
				return // scores of nodes that are refused are not needed
			}
		}
	}
	for i := range e.scores {
		s := &e.scores[i]
		if s.fixed() {
			r.fixed += s.weight * s.Score(n)
		} else if s.place >= 0 {
			e.kept[s.place][n.Index] = s.Score(n)
		}
	}
}

// refusalBy returns the first refusal of a node, in the order of the profile's filters.
func (e *Evaluation) refusalBy(p *PodInfo, n *NodeInfo) *Status {
	if e.awaited(p, n) {
		return e.Filter(p, n)
	}
	r := &e.nodes[n.Index]
	if !r.known {
		e.look(n, r)
	}
	for i := range e.filters {
		if r.status != nil && i == r.by {
			return r.status
		}
		if f := &e.filters[i]; f.tracker {
			if status := f.filter.Filter(n); status != nil {
				return status
			}
		}
	}
	return nil
}

// Filter asks all filters about a node as it is now. Pods of at least the pod's priority that are nominated to run on the node count
// as if they ran there, and the node must fit the pod without them too: they may be what its affinity is satisfied by.
func (e *Evaluation) Filter(p *PodInfo, n *NodeInfo) *Status {
	if e.awaited(p, n) {
		if status := e.filterWithNominated(p, n); status != nil {
			return status
		}
	}
	return e.filter(n)
}

func (e *Evaluation) filterWithNominated(p *PodInfo, n *NodeInfo) *Status {
	for _, q := range e.cluster.Nominated[n.Name] {
		if ahead(q, p) {
			e.With(q, n)
			defer e.Without(q, n) // also after a panic
		}
	}
	return e.filter(n)
}

func (e *Evaluation) filter(n *NodeInfo) *Status {
	for i := range e.filters {
		if status := e.filters[i].filter.Filter(n); status != nil {
			return status
		}
	}
	return nil
}

// awaited says whether there are other pods that are nominated to run on a node and go before a pod.
func (e *Evaluation) awaited(p *PodInfo, n *NodeInfo) bool {
	if len(e.cluster.Nominated) == 0 {
		return false
	}
	return slices.ContainsFunc(e.cluster.Nominated[n.Name], func(q *PodInfo) bool { return ahead(q, p) })
}

func ahead(q, p *PodInfo) bool {
	return q.UID != p.UID && corehelpers.PodPriority(q.Pod) >= corehelpers.PodPriority(p.Pod)
}

// With tries what would be if a pod was on a node too. Without undoes it.
func (e *Evaluation) With(p *PodInfo, n *NodeInfo) {
	n.Add(p)
	e.track(p, n, true)
}

// Without tries what would be if a pod was not on its node. With undoes it.
func (e *Evaluation) Without(p *PodInfo, n *NodeInfo) {
	n.Remove(p)
	e.track(p, n, false)
}

// Best returns the best of the nodes that Fit returned.
func (e *Evaluation) Best(nodes []*NodeInfo) *NodeInfo {
	if len(nodes) == 1 {
		return nodes[0]
	}
	scores := e.Scores(nodes)
	best := 0
	for i, score := range scores {
		if score > scores[best] || (score == scores[best] && less(nodes[i], nodes[best])) {
			best = i
		}
	}
	return nodes[best]
}

// less breaks ties: the emptier node, then the one whose name comes first, so that equal inputs give equal results.
func less(a, b *NodeInfo) bool {
	if len(a.Pods) != len(b.Pods) {
		return len(a.Pods) < len(b.Pods)
	}
	return a.Index < b.Index
}

// Scores returns the weighted sum of all scores for each of the nodes, which passed the filters. The list is valid until the next
// call.
func (e *Evaluation) Scores(nodes []*NodeInfo) []int64 {
	e.total = e.total[:0]
	for _, n := range nodes {
		e.total = append(e.total, e.fixed(n))
	}
	for i := range e.scores {
		s := &e.scores[i]
		if s.fixed() || (s.comparer != nil && !s.comparer.Compare(nodes)) {
			continue
		}
		e.raw = e.raw[:0]
		for _, n := range nodes {
			if s.place >= 0 {
				e.raw = append(e.raw, e.kept[s.place][n.Index])
			} else {
				e.raw = append(e.raw, s.Score(n))
			}
		}
		if s.normalize != nil {
			s.normalize(nodes, e.raw)
		}
		for k, score := range e.raw {
			e.total[k] += s.weight * score
		}
	}
	return e.total
}

func (e *Evaluation) fixed(n *NodeInfo) (sum int64) {
	if e.only == nil {
		return e.nodes[n.Index].fixed
	}
	for i := range e.scores {
		if s := &e.scores[i]; s.fixed() {
			sum += s.weight * s.Score(n)
		}
	}
	return sum
}

// Reservers returns the filters that take something for the pod when a node has been chosen.
func (e *Evaluation) Reservers() (out []Reserver) {
	for i := range e.filters {
		if r, ok := e.filters[i].filter.(Reserver); ok {
			out = append(out, r)
		}
	}
	return out
}

// PreBinders returns the filters that do something before the pod is bound.
func (e *Evaluation) PreBinders() (out []PreBinder) {
	for i := range e.filters {
		if b, ok := e.filters[i].filter.(PreBinder); ok {
			out = append(out, b)
		}
	}
	return out
}

// enoughNodes returns how many nodes that pass are enough, of a number of nodes: a percentage, but at least 100 nodes, as upstream.
// Without a percentage, all nodes are looked at: most of what is known about them is kept, so it is not expensive.
func enoughNodes(nodes int, percentage int32) int {
	const least = 100
	if percentage <= 0 || percentage >= 100 || nodes < least {
		return nodes
	}
	return max(nodes*int(percentage)/100, least)
}
