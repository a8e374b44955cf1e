package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// cache is the scheduler's state of the cluster. It is guarded by the scheduler's lock.
type cache struct {
	nodes map[string]*nodeInfo
	// places maps a pod to the node that it is on, assumed or confirmed.
	places map[types.UID]string
	// assumed are pods whose binding has not arrived as an event yet.
	assumed map[types.UID]bool
	// averse is the number of pods with required anti-affinity, inclined the number of those that affect scores (podInfo.inclined).
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

// drop forgets a node that does not exist and has no pods.
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

// forget undoes an assumption. One that was confirmed meanwhile stays.
func (c *cache) forget(uid types.UID) {
	if c.assumed[uid] {
		c.removePod(uid)
	}
}

// confirm places a pod according to its event.
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

// finished says whether a pod's containers will not run again: it no longer uses resources of its node.
func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
