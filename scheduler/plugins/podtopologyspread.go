package plugins

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// PodTopologySpread refuses nodes by the pod's hard topology spread constraints, and scores the others by its soft ones. Pods
// without constraints have default ones, if there is something that selects pods like them.
type PodTopologySpread struct {
	// View returns the state with the Services and owners of pods.
	View func() client.View
	// Defaults are the constraints of pods that have none. SystemDefaults says that they are upstream's, for which a node need not
	// have all topology keys.
	Defaults       []corev1.TopologySpreadConstraint
	SystemDefaults bool
}

// SystemConstraints are upstream's default constraints.
var SystemConstraints = []corev1.TopologySpreadConstraint{
	{TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 3},
	{TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 5},
}

// Name returns the plugin's name.
func (*PodTopologySpread) Name() string { return "PodTopologySpread" }

var (
	tooCrowded = framework.Refuse(framework.Unschedulable, "PodTopologySpread", "node(s) didn't match pod topology spread constraints")
	noDomain   = framework.Refuse(framework.UnschedulableAndUnresolvable, "PodTopologySpread", "node(s) didn't match pod topology spread constraints (missing required label)")
)

// constraints returns the pod's constraints, or the default ones.
func (s *PodTopologySpread) constraints(p *framework.PodInfo) (hard, soft []framework.SpreadTerm) {
	if len(p.Spec.TopologySpreadConstraints) > 0 {
		return p.Hard, p.Soft
	}
	if len(s.Defaults) == 0 {
		return nil, nil
	}
	selector := defaultSelector(s.View(), p.Pod)
	if selector.Empty() {
		return nil, nil
	}
	hard, soft = framework.CompileSpread(p.Pod, s.Defaults)
	for _, terms := range [][]framework.SpreadTerm{hard, soft} {
		for i := range terms {
			terms[i].Selector = selector
		}
	}
	return hard, soft
}

// spreadCounts counts the pods that match one constraint, by domain.
type spreadCounts struct {
	*framework.SpreadTerm
	namespace string
	domains   *framework.Domains
	// included says which nodes count, by index.
	included []bool
	count    []int32
	// live says which domains have a node that counts, and liveDomains how many they are.
	live        []bool
	liveDomains int
}

func newSpreadCounts(c *framework.Cluster, p *framework.PodInfo, term *framework.SpreadTerm, eligible func(*framework.NodeInfo) bool) *spreadCounts {
	domains := c.Domains(term.Key)
	s := &spreadCounts{
		SpreadTerm: term, namespace: p.Namespace, domains: domains,
		included: make([]bool, len(c.Nodes)), count: make([]int32, domains.Count), live: make([]bool, domains.Count),
	}
	required := nodeaffinity.GetRequiredNodeAffinity(p.Pod)
	for i, n := range c.Nodes {
		d := domains.Of[i]
		if d < 0 || !eligible(n) || !includes(term, p.Pod, required, n.Node) {
			continue
		}
		s.included[i] = true
		if !s.live[d] {
			s.live[d] = true
			s.liveDomains++
		}
		for _, other := range n.Pods {
			if term.Counts(p.Namespace, other.Pod) {
				s.count[d]++
			}
		}
	}
	return s
}

// includes says whether a node's pods and its domain count.
func includes(t *framework.SpreadTerm, pod *corev1.Pod, required nodeaffinity.RequiredNodeAffinity, node *corev1.Node) bool {
	if t.HonorAffinity {
		if matches, _ := required.Match(node); !matches { // a selector that cannot be parsed matches nothing, as upstream
			return false
		}
	}
	return !t.HonorTaints || tolerates(pod, node)
}

// domainOf returns the domain in which a pod counts; -1 if it does not.
func (s *spreadCounts) domainOf(p *framework.PodInfo, n *framework.NodeInfo) int32 {
	if !s.included[n.Index] || !s.Counts(s.namespace, p.Pod) {
		return -1
	}
	return s.domains.Of[n.Index]
}

// hasAll returns a function that says whether a node has the topology keys of all constraints.
func hasAll(terms []framework.SpreadTerm) func(*framework.NodeInfo) bool {
	return func(n *framework.NodeInfo) bool {
		for i := range terms {
			if _, ok := n.Labels[terms[i].Key]; !ok {
				return false
			}
		}
		return true
	}
}

// hardCounts also knows the least count of a domain.
type hardCounts struct {
	*spreadCounts
	self int32 // 1 if the pod counts for its own constraint
	// domainsWith has the number of live domains by their count, and least is the smallest count of one.
	domainsWith []int32
	least       int32
}

type spreadFilter []*hardCounts

// PreFilter counts for a pod with hard constraints.
func (s *PodTopologySpread) PreFilter(c *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	hard, _ := s.constraints(p)
	if len(hard) == 0 {
		return nil, nil
	}
	f := make(spreadFilter, len(hard))
	for i := range hard {
		h := &hardCounts{spreadCounts: newSpreadCounts(c, p, &hard[i], hasAll(hard))}
		if hard[i].Selector.Matches(labelsOf(p)) {
			h.self = 1
		}
		for d, live := range h.live {
			if live {
				h.domainsWith = grow(h.domainsWith, h.count[d])
				h.domainsWith[h.count[d]]++
			}
		}
		h.settle()
		f[i] = h
	}
	return &f, nil
}

func grow(list []int32, index int32) []int32 {
	for int(index) >= len(list) {
		list = append(list, 0)
	}
	return list
}

// settle finds the least count from the last one on.
func (h *hardCounts) settle() {
	for h.liveDomains > 0 && h.domainsWith[h.least] == 0 {
		h.least++
	}
}

func (h *hardCounts) add(p *framework.PodInfo, n *framework.NodeInfo, sign int32) {
	d := h.domainOf(p, n)
	if d < 0 {
		return
	}
	h.domainsWith[h.count[d]]--
	h.count[d] += sign
	h.domainsWith = grow(h.domainsWith, h.count[d])
	h.domainsWith[h.count[d]]++
	h.least = min(h.least, h.count[d])
	h.settle()
}

// minimum is the least count; 0 if there are fewer domains than the constraint asks for.
func (h *hardCounts) minimum() int32 {
	if h.liveDomains < max(h.MinDomains, 1) {
		return 0
	}
	return h.least
}

// AddPod counts a pod more.
func (f *spreadFilter) AddPod(p *framework.PodInfo, n *framework.NodeInfo) {
	for _, h := range *f {
		h.add(p, n, 1)
	}
}

// RemovePod counts a pod less.
func (f *spreadFilter) RemovePod(p *framework.PodInfo, n *framework.NodeInfo) {
	for _, h := range *f {
		h.add(p, n, -1)
	}
}

func (f *spreadFilter) Filter(n *framework.NodeInfo) *framework.Status {
	for _, h := range *f {
		d := h.domains.Of[n.Index]
		if d < 0 {
			return noDomain
		}
		if h.count[d]+h.self-h.minimum() > int32(h.MaxSkew) {
			return tooCrowded
		}
	}
	return nil
}

// Events says which pods and nodes may help.
func (s *PodTopologySpread) Events() []framework.Hint {
	counts := func(p *framework.PodInfo, others ...*corev1.Pod) bool {
		hard, _ := s.constraints(p)
		for i := range hard {
			for _, other := range others {
				if other != nil && other.Namespace == p.Namespace && hard[i].Selector.Matches(labelsOf(&framework.PodInfo{Pod: other})) {
					return true
				}
			}
		}
		return false
	}
	return []framework.Hint{
		{Resource: framework.AssignedPod, Actions: framework.Add | framework.Update | framework.Delete, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
			old, now := e.Pods()
			return counts(p, old, now)
		}},
		{Resource: framework.Node, Actions: framework.Add | framework.Update | framework.Delete, Wakes: func(_ *framework.PodInfo, e *framework.Event) bool {
			old, now := e.Nodes()
			return old == nil || now == nil || !maps.Equal(old.Labels, now.Labels) || !apiequality.Semantic.DeepEqual(old.Spec.Taints, now.Spec.Taints)
		}},
	}
}
