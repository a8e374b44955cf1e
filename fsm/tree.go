package fsm

import (
	"slices"

	"github.com/kontiki/kontiki/internal/kv"
)

// The state's index is a persistent B+ tree: versions are in the leaves, in order of key; inner nodes have separators and the
// number of versions below them, so that counting a range takes logarithmic time. A node belongs to the edit that created it: only
// that edit changes it in place, all others copy it first. So a published root never changes, and a batch of commands copies each
// node at most once.
//
// doc.go compares it with tidwall/btree (generic, O(1) Copy) and go-immutable-radix v2.

const (
	leafCap  = 64 // a leaf is split when it reaches this many versions
	innerCap = 32 // an inner node is split when it reaches this many children
	leafMin  = leafCap / 4
	innerMin = innerCap / 4
)

type node struct {
	edit     uint64 // the edit that may change the node in place
	count    int    // versions at and below the node
	items    []*kv.Version
	children []*node  // nil for a leaf
	seps     []string // seps[i] <= every key below children[i+1], and > every key below children[i]
}

func newLeaf(edit uint64) *node {
	return &node{edit: edit, items: make([]*kv.Version, 0, leafCap)}
}

func newInner(edit uint64) *node {
	return &node{edit: edit, children: make([]*node, 0, innerCap), seps: make([]string, 0, innerCap-1)}
}

// own returns a node that the edit may change: n itself or a copy.
func (n *node) own(edit uint64) *node {
	if n.edit == edit {
		return n
	}
	if n.children == nil {
		c := newLeaf(edit)
		c.count = n.count
		c.items = append(c.items, n.items...)
		return c
	}
	c := newInner(edit)
	c.count = n.count
	c.children = append(c.children, n.children...)
	c.seps = append(c.seps, n.seps...)
	return c
}

// find returns a key's index in a leaf, and whether the key is there.
func (n *node) find(key string) (int, bool) {
	lo, hi := 0, len(n.items)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if n.items[m].Key < key {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo, lo < len(n.items) && n.items[lo].Key == key
}

// child returns the index of the child that a key belongs to.
func (n *node) child(key string) int {
	lo, hi := 0, len(n.seps)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if n.seps[m] <= key {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo
}

func (n *node) get(key string) *kv.Version {
	if n == nil {
		return nil
	}
	for n.children != nil {
		n = n.children[n.child(key)]
	}
	if i, ok := n.find(key); ok {
		return n.items[i]
	}
	return nil
}

// rank returns the number of keys that are smaller than key.
func (n *node) rank(key string) int {
	if n == nil {
		return 0
	}
	r := 0
	for n.children != nil {
		i := n.child(key)
		for _, c := range n.children[:i] {
			r += c.count
		}
		n = n.children[i]
	}
	i, _ := n.find(key)
	return r + i
}

func (n *node) len() int {
	if n == nil {
		return 0
	}
	return n.count
}

// visit calls f for the keys in [start, end), or from start to the last one if end is empty, until f returns false.
func (n *node) visit(start, end string, f func(*kv.Version) bool) bool {
	if n == nil {
		return true
	}
	if n.children == nil {
		items := n.items
		if start != "" {
			i, _ := n.find(start)
			items = items[i:]
		}
		if end != "" && len(items) > 0 && items[len(items)-1].Key >= end {
			i, _ := n.find(end)
			items = n.items[len(n.items)-len(items) : max(i, len(n.items)-len(items))]
		}
		for _, v := range items {
			if !f(v) {
				return false
			}
		}
		return true
	}
	first := 0
	if start != "" {
		first = n.child(start)
	}
	for i := first; i < len(n.children); i++ {
		if end != "" && i > 0 && n.seps[i-1] >= end {
			return true
		}
		if i > first {
			start = ""
		}
		if !n.children[i].visit(start, end, f) {
			return false
		}
	}
	return true
}

// put returns the root of the tree with v in it, and the version that v replaced.
func (n *node) put(edit uint64, v *kv.Version) (*node, *kv.Version) {
	if n == nil {
		n = newLeaf(edit)
	}
	left, right, sep, prev := n.insert(edit, v)
	if right == nil {
		return left, prev
	}
	root := newInner(edit)
	root.count = left.count + right.count
	root.children = append(root.children, left, right)
	root.seps = append(root.seps, sep)
	return root, prev
}

func (n *node) insert(edit uint64, v *kv.Version) (left, right *node, sep string, prev *kv.Version) {
	n = n.own(edit)
	if n.children == nil {
		i, found := n.find(v.Key)
		if found {
			prev, n.items[i] = n.items[i], v
			return n, nil, "", prev
		}
		n.items = slices.Insert(n.items, i, v)
		n.count++
		if len(n.items) < leafCap {
			return n, nil, "", nil
		}
		right = newLeaf(edit)
		at := leafCap / 2
		if i == leafCap-1 { // keys that arrive in ascending order leave full leaves behind
			at = leafCap - leafMin
		}
		right.items = append(right.items, n.items[at:]...)
		n.items = slices.Delete(n.items, at, len(n.items))
		n.count, right.count = len(n.items), len(right.items)
		return n, right, right.items[0].Key, nil
	}
	i := n.child(v.Key)
	c, r, s, prev := n.children[i].insert(edit, v)
	n.children[i] = c
	if prev == nil {
		n.count++
	}
	if r == nil {
		return n, nil, "", prev
	}
	n.children = slices.Insert(n.children, i+1, r)
	n.seps = slices.Insert(n.seps, i, s)
	if len(n.children) < innerCap {
		return n, nil, "", prev
	}
	at := innerCap / 2
	if i == innerCap-2 {
		at = innerCap - innerMin
	}
	right = newInner(edit)
	right.children = append(right.children, n.children[at:]...)
	right.seps = append(right.seps, n.seps[at:]...)
	sep = n.seps[at-1]
	n.children = slices.Delete(n.children, at, len(n.children))
	n.seps = slices.Delete(n.seps, at-1, len(n.seps))
	for _, c := range right.children {
		right.count += c.count
	}
	n.count -= right.count
	return n, right, sep, prev
}

// remove returns the root of the tree without the key, and the version that was removed.
func (n *node) remove(edit uint64, key string) (*node, *kv.Version) {
	if n == nil {
		return nil, nil
	}
	root, prev := n.delete(edit, key)
	if len(root.children) == 1 {
		root = root.children[0]
	}
	if root.count == 0 {
		root = nil
	}
	return root, prev
}

func (n *node) delete(edit uint64, key string) (*node, *kv.Version) {
	if n.children == nil {
		i, found := n.find(key)
		if !found {
			return n, nil
		}
		n = n.own(edit)
		prev := n.items[i]
		n.items = slices.Delete(n.items, i, i+1)
		n.count--
		return n, prev
	}
	i := n.child(key)
	c, prev := n.children[i].delete(edit, key)
	if prev == nil {
		return n, nil
	}
	n = n.own(edit)
	n.children[i] = c
	n.count--
	if c.children == nil && len(c.items) < leafMin || c.children != nil && len(c.children) < innerMin {
		n.balance(edit, max(i-1, 0))
	}
	return n, prev
}

// balance merges children i and i+1, or distributes their content evenly. The node is owned by the edit.
func (n *node) balance(edit uint64, i int) {
	if i+1 >= len(n.children) {
		return
	}
	l, r, sep := n.children[i].own(edit), n.children[i+1].own(edit), n.seps[i]
	n.children[i], n.children[i+1] = l, r
	if l.children == nil {
		all := slices.Concat(l.items, r.items)
		at := len(all)
		if len(all) >= leafCap-leafMin {
			at = len(all) / 2
		}
		l.setItems(all[:at])
		r.setItems(all[at:])
		if at < len(all) {
			n.seps[i] = all[at].Key
		}
	} else {
		kids := slices.Concat(l.children, r.children)
		seps := slices.Concat(l.seps, []string{sep}, r.seps)
		at := len(kids)
		if len(kids) >= innerCap-innerMin {
			at = len(kids) / 2
			n.seps[i] = seps[at-1]
		}
		l.setChildren(kids[:at], seps[:at-1])
		if at < len(kids) {
			r.setChildren(kids[at:], seps[at:])
		} else {
			r.count = 0
		}
	}
	if r.count == 0 {
		n.children = slices.Delete(n.children, i+1, i+2)
		n.seps = slices.Delete(n.seps, i, i+1)
	}
}

func (n *node) setItems(items []*kv.Version) {
	clear(n.items)
	n.items = append(n.items[:0], items...)
	n.count = len(items)
}

func (n *node) setChildren(children []*node, seps []string) {
	clear(n.children)
	clear(n.seps)
	n.children = append(n.children[:0], children...)
	n.seps = append(n.seps[:0], seps...)
	n.count = 0
	for _, c := range children {
		n.count += c.count
	}
}

// loader builds a tree from versions that arrive in ascending order of key.
type loader struct {
	edit   uint64
	levels [][]*node // levels[0] are the finished leaves
	firsts [][]string
	leaf   *node
}

func (l *loader) add(v *kv.Version) {
	if l.leaf == nil {
		l.leaf = newLeaf(l.edit)
	}
	l.leaf.items = append(l.leaf.items, v)
	l.leaf.count++
	if len(l.leaf.items) == leafCap-leafMin/2 { // leaves space for a few inserts before a split
		l.push(0, l.leaf, l.leaf.items[0].Key)
		l.leaf = nil
	}
}

func (l *loader) push(level int, n *node, first string) {
	if len(l.levels) == level {
		l.levels = append(l.levels, nil)
		l.firsts = append(l.firsts, nil)
	}
	l.levels[level] = append(l.levels[level], n)
	l.firsts[level] = append(l.firsts[level], first)
	if len(l.levels[level]) == innerCap-innerMin/2 {
		l.collapse(level)
	}
}

func (l *loader) collapse(level int) {
	p, first := newInner(l.edit), l.firsts[level][0]
	p.setChildren(l.levels[level], l.firsts[level][1:])
	l.levels[level], l.firsts[level] = l.levels[level][:0], l.firsts[level][:0]
	l.push(level+1, p, first)
}

// finish returns the root. Nodes at the right edge may be smaller than the minimum, which only wastes space.
func (l *loader) finish() *node {
	if l.leaf != nil {
		l.push(0, l.leaf, l.leaf.items[0].Key)
		l.leaf = nil
	}
	for level := 0; level < len(l.levels); level++ {
		nodes := l.levels[level]
		if len(nodes) == 0 {
			continue
		}
		if len(nodes) == 1 && level == len(l.levels)-1 {
			return nodes[0]
		}
		l.collapse(level)
	}
	return nil
}
