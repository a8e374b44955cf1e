package plugins

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// NodeAffinity refuses nodes that a pod's node selector or node affinity does not match, and prefers those that match its preferred
// terms. The configuration may add an affinity to those of all pods.
type NodeAffinity struct {
	added     *nodeaffinity.NodeSelector
	addedSoft *nodeaffinity.PreferredSchedulingTerms
}

// NewNodeAffinity returns the plugin; added may be nil.
func NewNodeAffinity(added *corev1.NodeAffinity) (*NodeAffinity, error) {
	a := &NodeAffinity{}
	if added == nil {
		return a, nil
	}
	var err error
	if required := added.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
		if a.added, err = nodeaffinity.NewNodeSelector(required); err != nil {
			return nil, fmt.Errorf("addedAffinity.requiredDuringSchedulingIgnoredDuringExecution: %w", err)
		}
	}
	if preferred := added.PreferredDuringSchedulingIgnoredDuringExecution; len(preferred) > 0 {
		if a.addedSoft, err = nodeaffinity.NewPreferredSchedulingTerms(preferred); err != nil {
			return nil, fmt.Errorf("addedAffinity.preferredDuringSchedulingIgnoredDuringExecution: %w", err)
		}
	}
	return a, nil
}

// Name returns the plugin's name.
func (*NodeAffinity) Name() string { return "NodeAffinity" }

var (
	affinityMismatch = framework.Refuse(framework.UnschedulableAndUnresolvable, "NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
	addedMismatch    = framework.Refuse(framework.UnschedulableAndUnresolvable, "NodeAffinity", "node(s) didn't match scheduler-enforced node affinity")
	affinityConflict = framework.Refuse(framework.UnschedulableAndUnresolvable, "NodeAffinity", "pod affinity terms conflict")
)

type affinityFilter struct {
	plugin   *NodeAffinity
	required nodeaffinity.RequiredNodeAffinity
	only     sets.Set[string]
}

// PreFilter returns a filter for a pod with a selector or an affinity.
func (a *NodeAffinity) PreFilter(_ *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	affinity := requiredTerms(p.Pod)
	if affinity == nil && p.Spec.NodeSelector == nil && a.added == nil {
		return nil, nil
	}
	f := &affinityFilter{plugin: a, required: nodeaffinity.GetRequiredNodeAffinity(p.Pod)}
	if affinity != nil {
		if f.only = namedNodes(affinity.NodeSelectorTerms); f.only != nil && len(f.only) == 0 {
			return nil, affinityConflict
		}
	}
	return f, nil
}

func requiredTerms(pod *corev1.Pod) *corev1.NodeSelector {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// namedNodes returns the nodes that the terms, one of which must match, name; nil if one does not name any. The pods of a DaemonSet
// have such terms.
func namedNodes(terms []corev1.NodeSelectorTerm) sets.Set[string] {
	var all sets.Set[string]
	for i := range terms {
		var names sets.Set[string]
		for _, field := range terms[i].MatchFields {
			if field.Key != metav1.ObjectNameField || field.Operator != corev1.NodeSelectorOpIn {
				continue
			}
			if listed := sets.New(field.Values...); names == nil {
				names = listed
			} else {
				names = names.Intersection(listed)
			}
		}
		if names == nil {
			return nil
		}
		all = all.Union(names)
	}
	return all
}

func (f *affinityFilter) OnlyNodes() sets.Set[string] { return f.only }

func (f *affinityFilter) Filter(n *framework.NodeInfo) *framework.Status {
	if f.plugin.added != nil && !f.plugin.added.Match(n.Node) {
		return addedMismatch
	}
	if matches, _ := f.required.Match(n.Node); !matches { // a selector that cannot be parsed matches nothing, as upstream
		return affinityMismatch
	}
	return nil
}

type affinityScore struct {
	plugin    *NodeAffinity
	preferred *nodeaffinity.PreferredSchedulingTerms
}

// PreScore returns a score for a pod with preferred terms.
func (a *NodeAffinity) PreScore(_ *framework.Cluster, p *framework.PodInfo, _ framework.PodFilter) framework.PodScore {
	s := &affinityScore{plugin: a}
	if affinity := p.Spec.Affinity; affinity != nil && affinity.NodeAffinity != nil && len(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		// Validation has already parsed the terms; ones that cannot be parsed prefer nothing.
		s.preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if s.preferred == nil && a.addedSoft == nil {
		return nil
	}
	return s
}

// Score returns the sum of the weights of the terms that match.
func (s *affinityScore) Score(n *framework.NodeInfo) (sum int64) {
	if s.plugin.addedSoft != nil {
		sum += s.plugin.addedSoft.Score(n.Node)
	}
	if s.preferred != nil {
		sum += s.preferred.Score(n.Node)
	}
	return sum
}

func (*affinityScore) Normalize(_ []*framework.NodeInfo, scores []int64) {
	framework.NormalizeByMax(scores, false)
}

// Events says that a node that matches may help.
func (a *NodeAffinity) Events() []framework.Hint {
	matches := func(p *framework.PodInfo, node *corev1.Node) bool {
		if a.added != nil && !a.added.Match(node) {
			return false
		}
		required, _ := nodeaffinity.GetRequiredNodeAffinity(p.Pod).Match(node)
		return required
	}
	return []framework.Hint{{Resource: framework.Node, Actions: framework.Add | framework.Update, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
		old, now := e.Nodes()
		return matches(p, now) && (old == nil || !matches(p, old))
	}}}
}
