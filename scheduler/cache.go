package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// cache is the scheduler's picture of the cluster. It is guarded by the scheduler's lock.
type cache struct {
	nodes map[string]*nodeInfo
	// places says on which node a pod is known to be, assumed or confirmed.
	places map[types.UID]string
	// assumed are pods whose binding has not come back as an event yet.
	assumed map[types.UID]bool
	// averse is how many pods there are with required anti-affinity, inclined how many are so.
	averse, inclined int
}

func newCache() *cache {
	return &cache{nodes: map[string]*nodeInfo{}, places: map[types.UID]string{}, assumed: map[types.UID]bool{}}
}

func (c *cache) node(name string) *nodeInfo {
	n, ok := c.nodes[name]
	if !ok {
		n = newNodeInfo()
		c.nodes[name] = n
	}
	return n
}

func (c *cache) setNode(node *corev1.Node) { c.node(node.Name).set(node) }

func (c *cache) removeNode(name string) {
	if n, ok := c.nodes[name]; ok {
		n.node = nil
		c.drop(name, n)
	}
}

// drop forgets a node that is gone and empty.
func (c *cache) drop(name string, n *nodeInfo) {
	if n.node == nil && len(n.pods) == 0 {
		delete(c.nodes, name)
	}
}

// assume places a pod before its binding is confirmed.
func (c *cache) assume(p *podInfo, node string) {
	c.place(p, node)
	c.assumed[p.UID] = true
}

// forget takes an assumption back. One that was confirmed meanwhile stays.
func (c *cache) forget(uid types.UID) {
	if c.assumed[uid] {
		c.removePod(uid)
	}
}

// confirm places a pod as its event says.
func (c *cache) confirm(pod *corev1.Pod) {
	delete(c.assumed, pod.UID)
	if finished(pod) {
		c.removePod(pod.UID)
		return
	}
	c.place(newPodInfo(pod), pod.Spec.NodeName)
}

func (c *cache) place(p *podInfo, node string) {
	if at, ok := c.places[p.UID]; ok && at != node {
		c.removePod(p.UID)
	}
	c.places[p.UID] = node
	n := c.node(node)
	c.count(n, -1)
	n.add(p)
	c.count(n, 1)
}

func (c *cache) count(n *nodeInfo, sign int) {
	c.averse += sign * len(n.averse)
	c.inclined += sign * len(n.inclined)
}

func (c *cache) removePod(uid types.UID) {
	delete(c.assumed, uid)
	name, ok := c.places[uid]
	if !ok {
		return
	}
	delete(c.places, uid)
	n := c.nodes[name]
	c.count(n, -1)
	n.remove(uid)
	c.count(n, 1)
	c.drop(name, n)
}

// finished says that a pod's containers will not run again: it holds nothing of its node any more.
func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
