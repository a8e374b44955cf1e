package framework

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// NodeInfo is a node with the pods that are on it or assumed to be.
type NodeInfo struct {
	*corev1.Node // nil if pods are known on a node that does not exist
	// Index is the node's position in Cluster.Nodes, which is ordered by name; -1 if it does not exist.
	Index       int
	Allocatable Amounts
	MaxPods     int
	Requested   Amounts
	Scored      Amounts
	Pods        map[types.UID]*PodInfo
	// Averse are those of the pods that have required anti-affinity, Inclined those that affect scores for other pods, Porters those
	// with host ports, Mounters those with volumes that only some nodes or a limited number of pods can have.
	Averse, Inclined, Porters, Mounters map[types.UID]*PodInfo
	// Images are the sizes of the images that the node has, by name.
	Images map[string]int64
}

func newNodeInfo() *NodeInfo {
	return &NodeInfo{
		Index: -1, Pods: map[types.UID]*PodInfo{}, Averse: map[types.UID]*PodInfo{}, Inclined: map[types.UID]*PodInfo{},
		Porters: map[types.UID]*PodInfo{}, Mounters: map[types.UID]*PodInfo{},
	}
}

// NewNodeInfo returns a node without pods, outside of a cluster.
func NewNodeInfo(node *corev1.Node) *NodeInfo {
	n := newNodeInfo()
	n.set(node)
	return n
}

func (n *NodeInfo) set(node *corev1.Node) {
	n.Node = node
	n.Allocatable = AmountsOf(node.Status.Allocatable)
	n.MaxPods = int(node.Status.Allocatable.Pods().Value())
	n.Images = imagesOf(node)
}

func imagesOf(node *corev1.Node) map[string]int64 {
	if len(node.Status.Images) == 0 {
		return nil
	}
	images := make(map[string]int64, 2*len(node.Status.Images))
	for i := range node.Status.Images {
		for _, name := range node.Status.Images[i].Names {
			images[name] = node.Status.Images[i].SizeBytes
		}
	}
	return images
}

// Add puts a pod on the node without telling anybody, for a trial; Remove undoes it, and the other way around.
func (n *NodeInfo) Add(p *PodInfo) {
	n.Remove(p)
	n.Pods[p.UID] = p
	if len(p.Far) > 0 {
		n.Averse[p.UID] = p
	}
	if p.Inclined() {
		n.Inclined[p.UID] = p
	}
	if len(p.Ports) > 0 {
		n.Porters[p.UID] = p
	}
	if Mounts(p.Pod) {
		n.Mounters[p.UID] = p
	}
	n.Requested.add(&p.Requests, 1)
	n.Scored.add(&p.Scored, 1)
}

// Remove takes a pod off the node. See Add.
func (n *NodeInfo) Remove(p *PodInfo) {
	have, ok := n.Pods[p.UID]
	if !ok {
		return
	}
	delete(n.Pods, p.UID)
	delete(n.Averse, p.UID)
	delete(n.Inclined, p.UID)
	delete(n.Porters, p.UID)
	delete(n.Mounters, p.UID)
	n.Requested.add(&have.Requests, -1)
	n.Scored.add(&have.Scored, -1)
}

// Mounts says whether a pod has volumes that matter for where it can run.
func Mounts(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.PersistentVolumeClaim != nil || v.Ephemeral != nil || v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.RBD != nil ||
			v.ISCSI != nil || v.AzureDisk != nil || v.Cinder != nil || v.VsphereVolume != nil || v.PortworxVolume != nil {
			return true
		}
	}
	return false
}
