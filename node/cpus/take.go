package cpus

import (
	"fmt"
	"slices"

	"k8s.io/utils/cpuset"

	"github.com/kontiki/kontiki/node/numa"
)

// level is a part of a machine that contains processors: a NUMA node, a socket, a cache or a core.
type level func(numa.CPU) int

var (
	nodeLevel   level = func(c numa.CPU) int { return c.Node }
	socketLevel level = func(c numa.CPU) int { return c.Socket }
	cacheLevel  level = func(c numa.CPU) int { return c.Cache }
	coreLevel   level = func(c numa.CPU) int { return c.Core }
)

// taker takes processors from those that are free, so that they are close together: whole NUMA nodes and sockets if the request is that large,
// then whole caches if that is wanted, then whole cores, then single processors. Of equal parts, the one with the fewest free processors
// comes first, so that large parts stay free for large requests.
type taker struct {
	m     *numa.Machine
	byID  map[int]numa.CPU
	free  cpuset.CPUSet
	need  int
	taken cpuset.CPUSet
	// outer and inner are NUMA nodes and sockets, or the reverse if a socket has several NUMA nodes.
	outer, inner level
}

// take returns n of the free processors. caches says whether whole caches, or parts of a single one, are preferred.
func take(m *numa.Machine, free cpuset.CPUSet, n int, caches bool) (cpuset.CPUSet, error) {
	if n > free.Size() {
		return cpuset.CPUSet{}, fmt.Errorf("not enough cpus available to satisfy request: requested=%d, available=%d", n, free.Size())
	}
	t := &taker{m: m, byID: map[int]numa.CPU{}, free: free, need: n, taken: cpuset.New(), outer: nodeLevel, inner: socketLevel}
	sockets := map[int]bool{}
	for _, c := range m.CPUs {
		t.byID[c.ID] = c
		sockets[c.Socket] = true
	}
	if len(sockets) < len(m.Nodes) {
		t.outer, t.inner = socketLevel, nodeLevel
	}
	t.whole(t.outer, t.parts(t.outer))
	t.whole(t.inner, t.parts(t.outer, t.inner))
	if caches {
		t.caches()
	}
	t.whole(coreLevel, t.parts(t.outer, t.inner, coreLevel))
	for _, core := range t.parts(t.outer, t.inner, coreLevel) {
		for _, id := range t.in(coreLevel, core).List() {
			if t.need > 0 {
				t.add(cpuset.New(id))
			}
		}
	}
	return t.taken, nil
}

// in returns the free processors of a part.
func (t *taker) in(l level, part int) cpuset.CPUSet {
	var out []int
	for _, id := range t.free.UnsortedList() {
		if l(t.byID[id]) == part {
			out = append(out, id)
		}
	}
	return cpuset.New(out...)
}

// parts returns the parts of the last level that have free processors, grouped by the levels before it; in each group, those with the fewest
// come first.
func (t *taker) parts(levels ...level) []int { return t.partsIn(t.free, levels) }

func (t *taker) partsIn(free cpuset.CPUSet, levels []level) []int {
	members := map[int]cpuset.CPUSet{}
	for _, id := range free.UnsortedList() {
		p := levels[0](t.byID[id])
		members[p] = members[p].Union(cpuset.New(id))
	}
	order := make([]int, 0, len(members))
	for p := range members {
		order = append(order, p)
	}
	slices.SortFunc(order, func(a, b int) int {
		if d := t.in(levels[0], a).Size() - t.in(levels[0], b).Size(); d != 0 {
			return d
		}
		return a - b
	})
	if len(levels) == 1 {
		return order
	}
	var out []int
	for _, p := range order {
		for _, inner := range t.partsIn(members[p], levels[1:]) {
			if !slices.Contains(out, inner) {
				out = append(out, inner)
			}
		}
	}
	return out
}

// whole takes those parts of which all processors are free and needed.
func (t *taker) whole(l level, parts []int) {
	for _, p := range parts {
		all := t.m.Set(func(c numa.CPU) bool { return l(c) == p })
		if all.Size() <= t.need && all.IsSubsetOf(t.free) {
			t.add(all)
		}
	}
}

// caches takes whole caches while that many processors are needed, and the rest from a single one if it has enough.
func (t *taker) caches() {
	t.whole(cacheLevel, t.parts(t.outer, cacheLevel))
	for _, cache := range t.parts(t.outer, cacheLevel) {
		if t.need == 0 || t.in(cacheLevel, cache).Size() < t.need {
			continue
		}
		outside := t.free.Difference(t.in(cacheLevel, cache))
		t.free = t.in(cacheLevel, cache)
		t.whole(coreLevel, t.parts(coreLevel))
		for _, core := range t.parts(coreLevel) {
			for _, id := range t.in(coreLevel, core).List() {
				if t.need > 0 {
					t.add(cpuset.New(id))
				}
			}
		}
		t.free = t.free.Union(outside)
		return
	}
}

func (t *taker) add(set cpuset.CPUSet) {
	t.taken, t.free = t.taken.Union(set), t.free.Difference(set)
	t.need -= set.Size()
}
