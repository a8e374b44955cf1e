package framework

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
)

// Cluster is the scheduler's state of the cluster. The scheduler's loop owns it: there is no lock and no snapshot, because nothing
// changes it while a decision is made. Instead of comparing copies, evaluations that are kept catch up with what changed: with single
// nodes and pods by a log of changes, and with anything larger by the epoch.
type Cluster struct {
	// Nodes are those that exist, in order of name, so that equal inputs give equal results. Call Settle before reading it.
	Nodes []*NodeInfo
	// Epoch changes with what evaluations do not follow in detail: the set of nodes, their labels and taints, and what plugins read
	// elsewhere (see Invalidate).
	Epoch uint64
	// Averse is the number of pods with required anti-affinity, Inclined that of pods that affect scores (PodInfo.Inclined).
	Averse, Inclined int
	// ImageNodes are the numbers of nodes that have an image, by name.
	ImageNodes map[string]int
	// Namespaces returns the labels of a namespace.
	Namespaces NamespaceLabels
	// Nominated are the pods that expect room on a node because others are being preempted there, by name of the node.
	Nominated map[string][]*PodInfo
	// Preempted are placed pods that are being deleted to make room for others, which need not have been observed yet.
	Preempted map[types.UID]bool

	known    map[string]*NodeInfo // also nodes that do not exist, but for which there are pods
	places   map[types.UID]string
	nominees map[types.UID]string
	// priorities are the numbers of placed pods by their priority.
	priorities map[int32]int
	readers    identityCounts // placed and nominated pods
	unsorted   bool
	domains    map[string]*Domains
	log        changeLog
	start      int // where the search for enough nodes goes on
}

// NewCluster returns an empty cluster.
func NewCluster(namespaces NamespaceLabels) *Cluster {
	return &Cluster{
		Namespaces: namespaces, ImageNodes: map[string]int{}, Nominated: map[string][]*PodInfo{}, Preempted: map[types.UID]bool{},
		known: map[string]*NodeInfo{}, places: map[types.UID]string{}, nominees: map[types.UID]string{}, priorities: map[int32]int{}, domains: map[string]*Domains{},
	}
}

// Invalidate makes all kept evaluations be made anew: something changed that plugins read elsewhere.
func (c *Cluster) Invalidate() {
	c.Epoch++
	clear(c.domains)
	c.log.clear()
}

// Settle orders the nodes, if they changed.
func (c *Cluster) Settle() {
	if !c.unsorted {
		return
	}
	c.unsorted = false
	c.Nodes = c.Nodes[:0]
	for _, n := range c.known {
		if n.Index = -1; n.Node != nil {
			c.Nodes = append(c.Nodes, n)
		}
	}
	slices.SortFunc(c.Nodes, func(a, b *NodeInfo) int { return strings.Compare(a.Name, b.Name) })
	for i, n := range c.Nodes {
		n.Index = i
	}
}

// Node returns a node that exists, or nil.
func (c *Cluster) Node(name string) *NodeInfo {
	if n := c.known[name]; n != nil && n.Node != nil {
		return n
	}
	return nil
}

// Pod returns a placed pod and the name of its node; nil if it is not placed.
func (c *Cluster) Pod(uid types.UID) (*PodInfo, string) {
	name, ok := c.places[uid]
	if !ok {
		return nil, ""
	}
	return c.known[name].Pods[uid], name
}

func (c *Cluster) node(name string) *NodeInfo {
	n, ok := c.known[name]
	if !ok {
		n = newNodeInfo()
		c.known[name] = n
	}
	return n
}

// SetNode adds or replaces a node.
func (c *Cluster) SetNode(node *corev1.Node) {
	n := c.node(node.Name)
	old := n.Node
	c.countImages(n, -1)
	n.set(node)
	c.countImages(n, 1)
	switch {
	case old == nil:
		c.unsorted = true
		c.Invalidate()
	case !maps.Equal(old.Labels, node.Labels) || old.Spec.Unschedulable != node.Spec.Unschedulable || !apiequality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints):
		c.Invalidate()
	default:
		c.log.add(Change{nil, n, false})
	}
}

// RemoveNode removes a node. Its pods remain known until they are removed.
func (c *Cluster) RemoveNode(name string) {
	n, ok := c.known[name]
	if !ok || n.Node == nil {
		return
	}
	c.countImages(n, -1)
	n.Node, n.Index = nil, -1
	c.unsorted = true
	c.Invalidate()
	c.drop(name, n)
}

func (c *Cluster) countImages(n *NodeInfo, sign int) {
	for name := range n.Images {
		if c.ImageNodes[name] += sign; c.ImageNodes[name] == 0 {
			delete(c.ImageNodes, name)
		}
	}
}

// drop forgets a node that does not exist and has no pods.
func (c *Cluster) drop(name string, n *NodeInfo) {
	if n.Node == nil && len(n.Pods) == 0 {
		delete(c.known, name)
	}
}

// Place puts a pod on a node, or replaces it there.
func (c *Cluster) Place(p *PodInfo, node string) {
	c.RemovePod(p.UID)
	c.places[p.UID] = node
	n := c.node(node)
	n.Add(p)
	c.count(p, 1)
	c.log.add(Change{p, n, true})
}

// Replace exchanges a placed pod for a newer version that does not differ in computed values.
func (c *Cluster) Replace(p *PodInfo) {
	if name, ok := c.places[p.UID]; ok {
		n := c.known[name]
		for _, pods := range []map[types.UID]*PodInfo{n.Pods, n.Averse, n.Inclined, n.Porters, n.Mounters} {
			if _, ok := pods[p.UID]; ok {
				pods[p.UID] = p
			}
		}
	}
}

// RemovePod removes a placed pod, and says whether it was there.
func (c *Cluster) RemovePod(uid types.UID) bool {
	name, ok := c.places[uid]
	if !ok {
		return false
	}
	delete(c.places, uid)
	n := c.known[name]
	p := n.Pods[uid]
	n.Remove(p)
	c.count(p, -1)
	c.log.add(Change{p, n, false})
	c.drop(name, n)
	return true
}

// Leaves says whether a placed pod is being deleted.
func (c *Cluster) Leaves(p *PodInfo) bool { return p.DeletionTimestamp != nil || c.Preempted[p.UID] }

// AnyBelow says whether a placed pod has a lower priority than this one.
func (c *Cluster) AnyBelow(priority int32) bool {
	for have := range c.priorities {
		if have < priority {
			return true
		}
	}
	return false
}

func (c *Cluster) count(p *PodInfo, sign int) {
	priority := corehelpers.PodPriority(p.Pod)
	if c.priorities[priority] += sign; c.priorities[priority] == 0 {
		delete(c.priorities, priority)
	}
	if len(p.Far) > 0 {
		c.Averse += sign
	}
	if p.Inclined() {
		c.Inclined += sign
	}
	c.readers.add(p.placedSelects, sign)
}

// Nominate records that a pod expects room on a node; "" withdraws that.
func (c *Cluster) Nominate(p *PodInfo, node string) {
	if at, ok := c.nominees[p.UID]; ok {
		delete(c.nominees, p.UID)
		c.Nominated[at] = slices.DeleteFunc(c.Nominated[at], func(q *PodInfo) bool {
			if q.UID != p.UID {
				return false
			}
			c.readers.add(q.placedSelects, -1)
			return true
		})
		if len(c.Nominated[at]) == 0 {
			delete(c.Nominated, at)
		}
	}
	if node != "" {
		c.nominees[p.UID] = node
		c.Nominated[node] = append(c.Nominated[node], p)
		c.readers.add(p.placedSelects, 1)
	}
}

// NominatedNode returns the node where a pod expects room; "" if there is none.
func (c *Cluster) NominatedNode(uid types.UID) string { return c.nominees[uid] }

// Change is a pod that was put on a node or taken off it; without a pod, a change of the node itself.
type Change struct {
	Pod   *PodInfo
	Node  *NodeInfo
	Added bool
}

// longestLog is how many changes are remembered: as many as may happen between two decisions for pods of one template while others
// are scheduled. To follow them all costs about as much as an evaluation of some hundreds of nodes.
const longestLog = 4096

// changeLog remembers the last changes. The changes have numbers, which only grow.
type changeLog struct {
	list  []Change
	first uint64 // the number of list[0]
}

func (l *changeLog) add(c Change) {
	if len(l.list) >= 2*longestLog {
		n := copy(l.list, l.list[longestLog:])
		clear(l.list[n:])
		l.list = l.list[:n]
		l.first += longestLog
	}
	l.list = append(l.list, c)
}

func (l *changeLog) clear() {
	l.first = l.next()
	clear(l.list)
	l.list = l.list[:0]
}

func (l *changeLog) next() uint64 { return l.first + uint64(len(l.list)) }

// since returns the changes from a number on; false if they are not all remembered.
func (l *changeLog) since(number uint64) ([]Change, bool) {
	if number < l.first {
		return nil, false
	}
	return l.list[number-l.first:], true
}

// Domains are the nodes' values of a label, numbered.
type Domains struct {
	Key string
	// Of has the number of each node's value, by Index; -1 if the node does not have the label.
	Of []int32
	// Count is the number of different values.
	Count int

	numbers map[string]int32
}

// Domains returns the domains of a topology key. They are valid for the present epoch.
func (c *Cluster) Domains(key string) *Domains {
	if d, ok := c.domains[key]; ok {
		return d
	}
	c.Settle()
	d := &Domains{Key: key, Of: make([]int32, len(c.Nodes)), numbers: map[string]int32{}}
	for i, n := range c.Nodes {
		value, ok := n.Labels[key]
		if !ok {
			d.Of[i] = -1
			continue
		}
		number, ok := d.numbers[value]
		if !ok {
			number = int32(len(d.numbers))
			d.numbers[value] = number
		}
		d.Of[i] = number
	}
	d.Count = len(d.numbers)
	c.domains[key] = d
	return d
}
