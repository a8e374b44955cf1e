package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
)

// What a container that asks for nothing counts as when nodes are scored, so that such pods spread
// (k8s.io/kubernetes/pkg/scheduler/util/pod_resources.go).
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

// amounts are resources: CPU in thousandths of a core, the others in bytes or counts.
type amounts struct {
	milliCPU, memory, storage int64
	scalar                    map[corev1.ResourceName]int64
}

func (a *amounts) add(b *amounts, sign int64) {
	a.milliCPU += sign * b.milliCPU
	a.memory += sign * b.memory
	a.storage += sign * b.storage
	for name, n := range b.scalar {
		if a.scalar == nil {
			a.scalar = map[corev1.ResourceName]int64{}
		}
		a.scalar[name] += sign * n
	}
}

func amountsOf(list corev1.ResourceList) amounts {
	var a amounts
	for name, quantity := range list {
		switch name {
		case corev1.ResourceCPU:
			a.milliCPU = quantity.MilliValue()
		case corev1.ResourceMemory:
			a.memory = quantity.Value()
		case corev1.ResourceEphemeralStorage:
			a.storage = quantity.Value()
		case corev1.ResourcePods:
		default:
			if a.scalar == nil {
				a.scalar = map[corev1.ResourceName]int64{}
			}
			a.scalar[name] = quantity.Value()
		}
	}
	return a
}

// podInfo is a pod with what is computed from it once. It is immutable: writes to the API read it without the scheduler's lock.
type podInfo struct {
	*corev1.Pod
	requests amounts
	// scored are the requests with defaults for containers that ask for nothing.
	scored amounts
	ports  []hostPort
	// near and far are the required terms of its affinity to and from other pods.
	near, far []affinityTerm
	// preferredPods are the preferred terms of both.
	preferredPods []weightedTerm
	// spread are its hard topology spread constraints, softSpread the soft ones.
	spread, softSpread []spreadTerm
}

// with is the same pod in a newer form, which differs in nothing that is computed from it.
func (p *podInfo) with(pod *corev1.Pod) *podInfo {
	updated := *p
	updated.Pod = pod
	return &updated
}

// drawn says that other pods' being placed may make the pod fit on a node that it did not fit on.
func (p *podInfo) drawn() bool { return len(p.near)+len(p.spread) > 0 }

// drawnBy says that it may be so with this one pod: it is what a term of affinity waits for, or counts in a spread.
func (p *podInfo) drawnBy(other *corev1.Pod, namespaces namespaceLabels) bool {
	if len(p.near) > 0 && matchesAll(p.near, other, namespaces) {
		return true
	}
	for i := range p.spread {
		if p.spread[i].counts(p.Namespace, other) {
			return true
		}
	}
	return false
}

// selectsOtherwise says that a required term of its affinity selects a namespace by some labels and not by others.
func (p *podInfo) selectsOtherwise(old, now labels.Set) bool {
	changes := func(t affinityTerm) bool { return t.across != nil && t.across.Matches(old) != t.across.Matches(now) }
	return slices.ContainsFunc(p.near, changes) || slices.ContainsFunc(p.far, changes)
}

type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

func (p hostPort) conflicts(q hostPort) bool {
	return p.port == q.port && p.protocol == q.protocol && (p.ip == q.ip || p.ip == "0.0.0.0" || q.ip == "0.0.0.0")
}

func newPodInfo(pod *corev1.Pod) *podInfo {
	p := &podInfo{Pod: pod, requests: amountsOf(resource.PodRequests(pod, resource.PodResourcesOptions{}))}
	p.scored = p.requests
	p.scored.scalar = nil
	for _, container := range pod.Spec.Containers {
		if _, ok := container.Resources.Requests[corev1.ResourceCPU]; !ok {
			p.scored.milliCPU += defaultMilliCPU
		}
		if _, ok := container.Resources.Requests[corev1.ResourceMemory]; !ok {
			p.scored.memory += defaultMemory
		}
	}
	if a := pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		p.near = compile(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, pod)
	}
	if a := pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		p.far = compile(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, pod)
	}
	p.preferredPods = compilePreferred(pod)
	p.spread, p.softSpread = compileSpread(pod, corev1.DoNotSchedule), compileSpread(pod, corev1.ScheduleAnyway)
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, container := range list {
			for _, port := range container.Ports {
				if port.HostPort == 0 {
					continue
				}
				p.ports = append(p.ports, hostPort{orElse(port.HostIP, "0.0.0.0"), corev1.Protocol(orElse(string(port.Protocol), "TCP")), port.HostPort})
			}
		}
	}
	return p
}

func orElse(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// nodeInfo is a node and what runs or is about to run on it.
type nodeInfo struct {
	node        *corev1.Node // nil while pods are known on a node that is not
	allocatable amounts
	maxPods     int
	requested   amounts
	scored      amounts
	pods        map[types.UID]*podInfo
	// averse are those of the pods that have required anti-affinity.
	averse map[types.UID]*podInfo
	// inclined are those that are so.
	inclined map[types.UID]*podInfo
}

func newNodeInfo() *nodeInfo {
	return &nodeInfo{pods: map[types.UID]*podInfo{}, averse: map[types.UID]*podInfo{}, inclined: map[types.UID]*podInfo{}}
}

func (n *nodeInfo) set(node *corev1.Node) {
	n.node = node
	n.allocatable = amountsOf(node.Status.Allocatable)
	n.maxPods = int(node.Status.Allocatable.Pods().Value())
}

func (n *nodeInfo) add(p *podInfo) {
	n.remove(p.UID)
	n.pods[p.UID] = p
	if len(p.far) > 0 {
		n.averse[p.UID] = p
	}
	if p.inclined() {
		n.inclined[p.UID] = p
	}
	n.requested.add(&p.requests, 1)
	n.scored.add(&p.scored, 1)
}

func (n *nodeInfo) remove(uid types.UID) {
	if p, ok := n.pods[uid]; ok {
		delete(n.pods, uid)
		delete(n.averse, uid)
		delete(n.inclined, uid)
		n.requested.add(&p.requests, -1)
		n.scored.add(&p.scored, -1)
	}
}
