package plugins

import (
	"maps"

	"k8s.io/apimachinery/pkg/labels"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// InterPodAffinity refuses nodes by the required affinity and anti-affinity of the pod and by the anti-affinity of placed pods, and
// scores the others by the preferred terms of both.
type InterPodAffinity struct {
	// HardWeight is the weight, for the score, of a placed pod's required affinity for a new pod that matches it: that affinity does
	// not concern the new pod, but both are better placed together.
	HardWeight int64
	// IgnorePlaced ignores the preferred terms of placed pods for pods without preferred terms.
	IgnorePlaced bool
}

// Name returns the plugin's name.
func (*InterPodAffinity) Name() string { return "InterPodAffinity" }

func refuseAffinity(code framework.Code, reason string) *framework.Status {
	return framework.Refuse(code, "InterPodAffinity", reason)
}

var (
	notNear    = refuseAffinity(framework.UnschedulableAndUnresolvable, "node(s) didn't match pod affinity rules")
	tooNear    = refuseAffinity(framework.Unschedulable, "node(s) didn't match pod anti-affinity rules")
	notWelcome = refuseAffinity(framework.Unschedulable, "node(s) didn't satisfy existing pods anti-affinity rules")
)

// interPodFilter counts, by domain, the pods that match the pod's terms and those whose terms match the pod.
type interPodFilter struct {
	cluster *framework.Cluster
	pod     *framework.PodInfo
	// All terms in near must be satisfied, and none in far. Only a pod that matches all terms in near counts for them: they are one
	// condition, although each has its own topology key.
	near, far []countedTerm
	// refusing counts the placed pods whose anti-affinity the pod matches, with an entry for each topology key.
	refusing []countedTerm
	// self means that the pod itself matches all terms in near: the first pod of a group with affinity to itself must be placed
	// somewhere.
	self bool
}

// countedTerm counts pods by the domains of a topology key.
type countedTerm struct {
	term    *framework.AffinityTerm // nil in refusing
	domains *framework.Domains
	count   []int32
	total   int
}

func newCountedTerm(c *framework.Cluster, key string, term *framework.AffinityTerm) countedTerm {
	domains := c.Domains(key)
	return countedTerm{term: term, domains: domains, count: make([]int32, domains.Count)}
}

func (t *countedTerm) add(n *framework.NodeInfo, sign int) {
	if d := t.domains.Of[n.Index]; d >= 0 {
		t.count[d] += int32(sign)
		t.total += sign
	}
}

// in returns the count of a node's domain, and whether the node is in one.
func (t *countedTerm) in(n *framework.NodeInfo) (int32, bool) {
	d := t.domains.Of[n.Index]
	if d < 0 {
		return 0, false
	}
	return t.count[d], true
}

// PreFilter counts over all pods for a pod with required terms, otherwise over those with anti-affinity.
func (*InterPodAffinity) PreFilter(c *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	f := &interPodFilter{cluster: c, pod: p, self: len(p.Near) > 0 && framework.MatchesAll(p.Near, p.Pod, c.Namespaces)}
	for i := range p.Near {
		f.near = append(f.near, newCountedTerm(c, p.Near[i].Key, &p.Near[i]))
	}
	for i := range p.Far {
		f.far = append(f.far, newCountedTerm(c, p.Far[i].Key, &p.Far[i]))
	}
	if len(f.near)+len(f.far)+c.Averse == 0 {
		return f, nil
	}
	for _, n := range c.Nodes {
		pods := n.Pods
		if len(f.near)+len(f.far) == 0 {
			pods = n.Averse
		}
		for _, other := range pods {
			f.count(other, n, 1)
		}
	}
	return f, nil
}

// AddPod counts a pod more.
func (f *interPodFilter) AddPod(p *framework.PodInfo, n *framework.NodeInfo) { f.count(p, n, 1) }

// RemovePod counts a pod less.
func (f *interPodFilter) RemovePod(p *framework.PodInfo, n *framework.NodeInfo) { f.count(p, n, -1) }

func (f *interPodFilter) count(other *framework.PodInfo, n *framework.NodeInfo, sign int) {
	if len(f.near) > 0 && framework.MatchesAll(f.pod.Near, other.Pod, f.cluster.Namespaces) {
		for i := range f.near {
			f.near[i].add(n, sign)
		}
	}
	for i := range f.far {
		if f.far[i].term.Matches(other.Pod, f.cluster.Namespaces) {
			f.far[i].add(n, sign)
		}
	}
	for i := range other.Far {
		if term := &other.Far[i]; term.Matches(f.pod.Pod, f.cluster.Namespaces) {
			f.refusingBy(term.Key).add(n, sign)
		}
	}
}

func (f *interPodFilter) refusingBy(key string) *countedTerm {
	for i := range f.refusing {
		if f.refusing[i].domains.Key == key {
			return &f.refusing[i]
		}
	}
	f.refusing = append(f.refusing, newCountedTerm(f.cluster, key, nil))
	return &f.refusing[len(f.refusing)-1]
}

// Idle says that no term refuses any node.
func (f *interPodFilter) Idle() bool {
	if len(f.near) > 0 {
		return false
	}
	for i := range f.far {
		if f.far[i].total > 0 {
			return false
		}
	}
	for i := range f.refusing {
		if f.refusing[i].total > 0 {
			return false
		}
	}
	return true
}

func (f *interPodFilter) Filter(n *framework.NodeInfo) *framework.Status {
	if len(f.near) > 0 && !f.nearOthers(n) {
		return notNear
	}
	for i := range f.far {
		if count, _ := f.far[i].in(n); count > 0 {
			return tooNear
		}
	}
	for i := range f.refusing {
		if count, _ := f.refusing[i].in(n); count > 0 {
			return notWelcome
		}
	}
	return nil
}

func (f *interPodFilter) nearOthers(n *framework.NodeInfo) bool {
	satisfied, total := true, 0
	for i := range f.near {
		count, ok := f.near[i].in(n)
		if !ok {
			return false
		}
		satisfied = satisfied && count > 0
		total += f.near[i].total
	}
	return satisfied || (total == 0 && f.self)
}

// Events says which pods, nodes and namespaces may help.
func (a *InterPodAffinity) Events() []framework.Hint {
	return []framework.Hint{
		{Resource: framework.AssignedPod, Actions: framework.Add, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
			_, now := e.Pods()
			return len(p.Near) > 0 && matchesMaybe(p.Near, now)
		}},
		{Resource: framework.AssignedPod, Actions: framework.Update, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
			old, now := e.Pods()
			return !maps.Equal(old.Labels, now.Labels) && (len(p.Near)+len(p.Far) > 0)
		}},
		{Resource: framework.AssignedPod, Actions: framework.Delete, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
			old, _ := e.Pods()
			gone := framework.NewPodInfo(old)
			return anyMatchesMaybe(p.Far, old) || anyMatchesMaybe(gone.Far, p.Pod) || (len(p.Near) > 0 && matchesMaybe(p.Near, old))
		}},
		{Resource: framework.Node, Actions: framework.Add | framework.Update | framework.Delete, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
			old, now := e.Nodes()
			return old == nil || now == nil || !maps.Equal(old.Labels, now.Labels)
		}},
		{Resource: framework.Namespace, Actions: framework.Update},
	}
}

// matchesMaybe says whether all terms apply to a pod, if terms that select namespaces by labels apply to its namespace.
func matchesMaybe(terms []framework.AffinityTerm, pod *corev1.Pod) bool {
	for i := range terms {
		if !matchMaybe(&terms[i], pod) {
			return false
		}
	}
	return true
}

func anyMatchesMaybe(terms []framework.AffinityTerm, pod *corev1.Pod) bool {
	for i := range terms {
		if matchMaybe(&terms[i], pod) {
			return true
		}
	}
	return false
}

func matchMaybe(t *framework.AffinityTerm, pod *corev1.Pod) bool {
	return (t.Namespaces[pod.Namespace] || t.Across != nil) && t.Selector.Matches(labels.Set(pod.Labels))
}
