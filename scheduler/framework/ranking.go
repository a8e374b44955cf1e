package framework

// ranking orders the nodes of an evaluation by the scores that are kept as sums, so that the best one is found without a look at all of
// them. It is a tournament: a binary tree whose leaves are the nodes, and each inner vertex has the better of its two children.
type ranking struct {
	e *Evaluation
	// winner has the node (its index) that wins below each vertex, -1 if there is none that passes. The children of vertex v are 2v and
	// 2v+1, the root is 1, and the leaf of node i is leaves+i.
	winner []int32
	leaves int
	open   []int // vertices whose winners have not been tried, reused
}

func newRanking(e *Evaluation) *ranking {
	r := &ranking{e: e, leaves: 1}
	for r.leaves < len(e.nodes) {
		r.leaves *= 2
	}
	r.winner = make([]int32, 2*r.leaves)
	for i := range r.winner {
		r.winner[i] = -1
	}
	return r
}

// better says whether node a comes before node b, as in less.
func (r *ranking) better(a, b int32) bool {
	x, y := &r.e.nodes[a], &r.e.nodes[b]
	if x.fixed != y.fixed {
		return x.fixed > y.fixed
	}
	if x.pods != y.pods {
		return x.pods < y.pods
	}
	return a < b
}

func (r *ranking) best(a, b int32) int32 {
	if a < 0 || (b >= 0 && r.better(b, a)) {
		return b
	}
	return a
}

// update puts a node that was looked at where it belongs.
func (r *ranking) update(node int) {
	v := r.leaves + node
	r.winner[v] = int32(node)
	if r.e.nodes[node].status != nil {
		r.winner[v] = -1
	}
	for v /= 2; v > 0; v /= 2 {
		r.winner[v] = r.best(r.winner[2*v], r.winner[2*v+1])
	}
}

// first returns the first node that a function accepts, in order; -1 if it accepts none of the first ones, up to a limit.
func (r *ranking) first(limit int, accepts func(node int32) bool) int32 {
	r.open = append(r.open[:0], 1)
	for range limit {
		next := -1
		for i, v := range r.open {
			if r.winner[v] >= 0 && (next < 0 || r.better(r.winner[v], r.winner[r.open[next]])) {
				next = i
			}
		}
		if next < 0 {
			return -1
		}
		v := r.open[next]
		node := r.winner[v]
		if accepts(node) {
			return node
		}
		r.open[next] = r.open[len(r.open)-1]
		r.open = r.open[:len(r.open)-1]
		for v < r.leaves { // all below v but the node
			v *= 2
			if r.winner[v] == node {
				r.open = append(r.open, v+1)
			} else {
				r.open = append(r.open, v)
				v++
			}
		}
	}
	return -1
}
