package numa

import (
	"math/bits"
	"strconv"
)

// Set is a set of NUMA nodes with IDs from 0 to 63: bit n is node n. In hints, the empty set means any nodes.
type Set uint64

// Of makes a set. IDs out of range are left out.
func Of(nodes ...int) Set {
	var s Set
	for _, n := range nodes {
		if n >= 0 && n < 64 {
			s |= 1 << n
		}
	}
	return s
}

// Has says whether a node is in the set.
func (s Set) Has(node int) bool { return s&Of(node) != 0 }

// HasAny says whether any of these nodes is in the set.
func (s Set) HasAny(nodes []int) bool { return s&Of(nodes...) != 0 }

// Count returns the number of nodes.
func (s Set) Count() int { return bits.OnesCount64(uint64(s)) }

// Nodes returns the IDs in order.
func (s Set) Nodes() []int {
	var out []int
	for rest := s; rest != 0; rest &= rest - 1 {
		out = append(out, bits.TrailingZeros64(uint64(rest)))
	}
	return out
}

// narrower says whether the set has fewer nodes than another, or as many with lower IDs.
func (s Set) narrower(than Set) bool {
	if a, b := s.Count(), than.Count(); a != b {
		return a < b
	}
	return s < than
}

func (s Set) String() string { return strconv.FormatUint(uint64(s), 2) }

// Subsets calls f for each set of some of these nodes, small ones first.
func Subsets(nodes []int, f func(Set)) {
	var visit func(from, size int, s Set)
	visit = func(from, size int, s Set) {
		if size == 0 {
			f(s)
			return
		}
		for i := from; i <= len(nodes)-size; i++ {
			visit(i+1, size-1, s|Of(nodes[i]))
		}
	}
	for size := 1; size <= len(nodes); size++ {
		visit(0, size, 0)
	}
}
