package fsm

import (
	"context"
	"fmt"
	"math/rand"
	"sort"
	"testing"

	"github.com/kontiki/kontiki/internal/kv"
)

// ended is a context that has ended: Next returns the pending events and does not wait.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// checkTree checks the tree's invariants.
func checkTree(t *testing.T, root *node) {
	t.Helper()
	if root == nil {
		return
	}
	depth := -1
	var walk func(n *node, level int, low, high string) int
	walk = func(n *node, level int, low, high string) int {
		if n.children == nil {
			if depth == -1 {
				depth = level
			}
			if level != depth {
				t.Fatalf("leaf at level %d, another at %d", level, depth)
			}
			if n.count != len(n.items) || len(n.items) >= leafCap {
				t.Fatalf("leaf of %d counts %d", len(n.items), n.count)
			}
			if !sort.SliceIsSorted(n.items, func(i, j int) bool { return n.items[i].Key < n.items[j].Key }) {
				t.Fatal("leaf is not in order")
			}
			for _, v := range n.items {
				if v.Key < low || high != "" && v.Key >= high {
					t.Fatalf("key %q is outside [%q, %q)", v.Key, low, high)
				}
			}
			return n.count
		}
		if len(n.children) != len(n.seps)+1 || len(n.children) >= innerCap || len(n.children) < 2 && n == root {
			t.Fatalf("inner node of %d children and %d separators", len(n.children), len(n.seps))
		}
		sum := 0
		for i, c := range n.children {
			l, h := low, high
			if i > 0 {
				l = n.seps[i-1]
			}
			if i < len(n.seps) {
				h = n.seps[i]
			}
			sum += walk(c, level+1, l, h)
		}
		if sum != n.count {
			t.Fatalf("node counts %d of %d", n.count, sum)
		}
		return sum
	}
	walk(root, 0, "", "")
}

// TestTreeGrowsAndShrinks fills and empties trees in several orders, with edits of random length, and checks that no edit changes
// the earlier roots.
func TestTreeGrowsAndShrinks(t *testing.T) {
	const n = 6000
	orders := map[string]func() []int{
		"ascending": func() []int {
			p := make([]int, n)
			for i := range p {
				p[i] = i
			}
			return p
		},
		"descending": func() []int {
			p := make([]int, n)
			for i := range p {
				p[i] = n - 1 - i
			}
			return p
		},
		"random": func() []int { return rand.New(rand.NewSource(1)).Perm(n) },
	}
	key := func(i int) string { return fmt.Sprintf("/k%05d", i) }
	for in, fill := range orders {
		for out, empty := range orders {
			t.Run(in+"-"+out, func(t *testing.T) {
				r := rand.New(rand.NewSource(2))
				var root *node
				edit := uint64(1)
				var kept []*node
				var sizes []int
				step := func(i int) {
					if r.Intn(10) == 0 {
						edit++
						if r.Intn(20) == 0 {
							kept, sizes = append(kept, root), append(sizes, i)
						}
					}
				}
				for i, k := range fill() {
					step(i)
					var prev *kv.Version
					if root, prev = root.put(edit, &kv.Version{Key: key(k)}); prev != nil {
						t.Fatalf("%s was there", key(k))
					}
				}
				checkTree(t, root)
				for i, k := range empty() {
					step(n - i)
					var prev *kv.Version
					if root, prev = root.remove(edit, key(k)); prev == nil || prev.Key != key(k) {
						t.Fatalf("removed %v instead of %s", prev, key(k))
					}
					if root.get(key(k)) != nil {
						t.Fatalf("%s is still there", key(k))
					}
					if i%500 == 0 {
						checkTree(t, root)
					}
				}
				if root != nil {
					t.Fatalf("%d are left", root.len())
				}
				for i, old := range kept {
					checkTree(t, old)
					if old.len() != sizes[i] {
						t.Fatalf("an old root has %d, had %d", old.len(), sizes[i])
					}
				}
			})
		}
	}
}

func TestTreeLoad(t *testing.T) {
	for _, n := range []int{0, 1, 55, 56, 57, 1567, 1568, 1569, 1624, 44000} {
		l := loader{edit: 1}
		for i := range n {
			l.add(&kv.Version{Key: fmt.Sprintf("/k%05d", i)})
		}
		root := l.finish()
		checkTree(t, root)
		if root.len() != n {
			t.Fatalf("loaded %d, want %d", root.len(), n)
		}
		edit := uint64(2)
		for i := 0; i < n; i += 3 { // such a tree can be changed like any other
			root, _ = root.remove(edit, fmt.Sprintf("/k%05d", i))
		}
		checkTree(t, root)
		if want := n - (n+2)/3; root.len() != want || root.rank("/l") != want {
			t.Fatalf("%d are left, want %d", root.len(), want)
		}
	}
}
