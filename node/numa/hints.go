// Package numa aligns what a pod gets of a machine, its processors, memory and devices, on the same NUMA nodes, as the kubelet's topology
// manager does (KEP-693).
//
// Every provider says in Hints on which sets of NUMA nodes it could satisfy a request. Policy.Merge chooses the set that suits all of them, and
// says whether the pod may run with it.
package numa

import (
	"fmt"
	"slices"
	"strconv"
)

// Hint is a set of NUMA nodes on which a request can be satisfied. Preferred means that no smaller set could be. The empty set means any
// nodes.
type Hint struct {
	Nodes     Set
	Preferred bool
}

// Hints are the hints of one provider by resource. A nil list means that the provider does not mind, an empty one that the request cannot be
// satisfied.
type Hints map[string][]Hint

// The policies' names, which are those of the kubelet's topologyManagerPolicy.
const (
	None           = "none"
	BestEffort     = "best-effort"
	Restricted     = "restricted"
	SingleNUMANode = "single-numa-node"
)

// The scopes' names, which are those of the kubelet's topologyManagerScope.
const (
	ScopeContainer = "container"
	ScopePod       = "pod"
)

// Options are the kubelet's topologyManagerPolicyOptions.
type Options struct {
	// Nearest (prefer-closest-numa-nodes) takes, of two sets of one size, the one whose nodes are nearer to each other.
	Nearest bool
	// MaxNodes (max-allowable-numa-nodes) is how many NUMA nodes a machine may have for a policy other than none, because all sets of nodes
	// are looked at. It is 8, the default, to 16.
	MaxNodes int
}

const defaultMaxNodes, mostNodes = 8, 16

// ParseOptions reads options by their names.
func ParseOptions(in map[string]string) (Options, error) {
	o := Options{MaxNodes: defaultMaxNodes}
	for name, value := range in {
		var err error
		switch name {
		case "prefer-closest-numa-nodes":
			o.Nearest, err = strconv.ParseBool(value)
		case "max-allowable-numa-nodes":
			if o.MaxNodes, err = strconv.Atoi(value); err == nil && (o.MaxNodes < defaultMaxNodes || o.MaxNodes > mostNodes) {
				err = fmt.Errorf("want %d to %d", defaultMaxNodes, mostNodes)
			}
		default:
			return o, fmt.Errorf("unknown topology manager policy option %q", name)
		}
		if err != nil {
			return o, fmt.Errorf("bad value %q for topology manager policy option %q: %w", value, name, err)
		}
	}
	return o, nil
}

// CheckScope returns an error for a scope that is not known.
func CheckScope(scope string) error {
	if scope != ScopeContainer && scope != ScopePod {
		return fmt.Errorf("unknown topology manager scope %q: want %s or %s", scope, ScopeContainer, ScopePod)
	}
	return nil
}

// Policy merges hints.
type Policy struct {
	name      string
	nodes     []int
	distances [][]int // by position in nodes; nil unless the nearest nodes are preferred
}

// NewPolicy returns the policy of a name for a machine.
func NewPolicy(name string, m *Machine, o Options) (*Policy, error) {
	nodes := m.IDs()
	if !slices.Contains([]string{None, BestEffort, Restricted, SingleNUMANode}, name) {
		return nil, fmt.Errorf("unknown topology manager policy %q: want %s, %s, %s or %s", name, None, BestEffort, Restricted, SingleNUMANode)
	}
	if name != None && len(nodes) > max(o.MaxNodes, defaultMaxNodes) {
		return nil, fmt.Errorf("topology manager policy %q: this machine has %d NUMA nodes, and the limit is %d (option max-allowable-numa-nodes)", name, len(nodes), max(o.MaxNodes, defaultMaxNodes))
	}
	p := &Policy{name: name, nodes: nodes}
	if o.Nearest {
		p.distances = m.Distances()
	}
	return p, nil
}

// Aligns says whether the policy looks at hints at all.
func (p *Policy) Aligns() bool { return p.name != None }

// Merge returns the set of nodes that suits all providers best, and whether a pod is admitted with it.
func (p *Policy) Merge(providers []Hints) (Hint, bool) {
	if !p.Aligns() {
		return Hint{}, true
	}
	all := Of(p.nodes...)
	lists := listsOf(providers)
	if p.name == SingleNUMANode {
		lists = single(lists)
	}
	best := p.merge(all, lists)
	switch p.name {
	case BestEffort:
		return best, true
	case SingleNUMANode:
		if best.Nodes == all {
			best = Hint{0, best.Preferred} // no preference
		}
	}
	return best, best.Preferred
}

// listsOf returns the hints for each resource of each provider.
func listsOf(providers []Hints) [][]Hint {
	var out [][]Hint
	for _, hints := range providers {
		if len(hints) == 0 {
			out = append(out, []Hint{{0, true}})
		}
		for _, list := range hints {
			switch {
			case list == nil:
				out = append(out, []Hint{{0, true}})
			case len(list) == 0:
				out = append(out, []Hint{{0, false}})
			default:
				out = append(out, list)
			}
		}
	}
	return out
}

// single leaves only hints of one node, and those without a preference.
func single(lists [][]Hint) [][]Hint {
	var out [][]Hint
	for _, list := range lists {
		var kept []Hint
		for _, h := range list {
			if h.Preferred && h.Nodes.Count() <= 1 {
				kept = append(kept, h)
			}
		}
		out = append(out, kept)
	}
	return out
}

// merge tries every combination of one hint of each list.
func (p *Policy) merge(all Set, lists [][]Hint) Hint {
	widest := widestOfNarrowest(lists)
	var best *Hint
	var visit func(i int, chosen []Hint)
	visit = func(i int, chosen []Hint) {
		if i < len(lists) {
			for _, h := range lists[i] {
				visit(i+1, append(chosen, h))
			}
			return
		}
		if merged := intersect(all, chosen); merged.Nodes != 0 && (best == nil || p.better(*best, merged, widest)) {
			best = &merged
		}
	}
	visit(0, nil)
	if best == nil {
		return Hint{all, false}
	}
	return *best
}

// intersect merges a combination. It is preferred if each of its hints is, and they are equal where they name nodes.
func intersect(all Set, chosen []Hint) Hint {
	merged, named := Hint{all, true}, Set(0)
	for _, h := range chosen {
		merged.Preferred = merged.Preferred && h.Preferred
		if h.Nodes == 0 {
			continue
		}
		merged.Nodes &= h.Nodes
		merged.Preferred = merged.Preferred && (named == 0 || named == h.Nodes)
		named = h.Nodes
	}
	return merged
}

// widestOfNarrowest returns how many nodes the request needs that needs most: a set of that size is the best of those that are not preferred.
func widestOfNarrowest(lists [][]Hint) int {
	widest := 0
	for _, list := range lists {
		var narrowest Set
		for _, h := range list {
			if h.Nodes != 0 && (narrowest == 0 || h.Nodes.narrower(narrowest)) {
				narrowest = h.Nodes
			}
		}
		widest = max(widest, narrowest.Count())
	}
	return widest
}

// better says whether a candidate replaces the best hint so far.
func (p *Policy) better(best, candidate Hint, widest int) bool {
	if best.Preferred != candidate.Preferred {
		return candidate.Preferred
	}
	if best.Preferred {
		return p.fitter(best.Nodes, candidate.Nodes)
	}
	have, want := best.Nodes.Count(), candidate.Nodes.Count()
	switch {
	case have > widest:
		return p.fitter(best.Nodes, candidate.Nodes)
	case have == widest:
		return want == widest && p.fitter(best.Nodes, candidate.Nodes)
	case want > widest || want < have:
		return false
	case want == widest || want > have:
		return true
	}
	return p.fitter(best.Nodes, candidate.Nodes)
}

// fitter says whether set b is to be taken rather than a: it has fewer nodes, or as many that are nearer to each other, or lower numbers.
func (p *Policy) fitter(a, b Set) bool {
	if a == b {
		return false
	}
	if a.Count() == b.Count() && p.distances != nil && p.name != SingleNUMANode {
		if da, db := p.distance(a), p.distance(b); da != db {
			return db < da
		}
	}
	return b.narrower(a)
}

// distance is the average distance between the nodes of a set.
func (p *Policy) distance(set Set) float64 {
	sum, n := 0, 0
	for i, from := range p.nodes {
		for j, to := range p.nodes {
			if set.Has(from) && set.Has(to) {
				sum += p.distances[i][j]
				n++
			}
		}
	}
	return float64(sum) / float64(max(n, 1))
}

// Prefer marks the hints that have as few nodes as a request needs at least.
func Prefer(hints []Hint, least int) []Hint {
	for i := range hints {
		hints[i].Preferred = hints[i].Nodes.Count() == least
	}
	return hints
}
