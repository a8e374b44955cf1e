package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
)

// Default requests for scoring of containers without requests, so that such pods spread
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

// podInfo is a pod with values that are computed from it once. It is immutable: goroutines that write to the API read it without
// the scheduler's lock.
type podInfo struct {
	*corev1.Pod
	requests amounts
	// scored are the requests, with defaults for containers without requests.
	scored amounts
	ports  []hostPort
	// near are the required terms of its pod affinity, far those of its anti-affinity.
	near, far []affinityTerm
	// preferredPods are the preferred terms of both.
	preferredPods []weightedTerm
	// spread are its hard topology spread constraints, softSpread its soft ones.
	spread, softSpread []spreadTerm
}

// with returns the same podInfo for a newer version of the pod that does not differ in the computed values.
func (p *podInfo) with(pod *corev1.Pod) *podInfo {
	updated := *p
	updated.Pod = pod
	return &updated
}

// drawn says whether the placement of other pods may make the pod fit on a node that it did not fit on.
func (p *podInfo) drawn() bool { return len(p.near)+len(p.spread) > 0 }

// drawnBy says whether the placement of this other pod may do so: it matches a term of affinity, or counts for a spread constraint.
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

// selectsOtherwise says whether a required term of its affinity selects a namespace by one of two sets of labels but not by the
// other.
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

// nodeInfo is a node with the pods that are on it or assumed to be.
type nodeInfo struct {
	node        *corev1.Node // nil if pods are known on a node that does not exist
	allocatable amounts
	maxPods     int
	requested   amounts
	scored      amounts
	pods        map[types.UID]*podInfo
	// averse are those of the pods that have required anti-affinity.
	averse map[types.UID]*podInfo
	// inclined are those of the pods that affect scores for other pods (podInfo.inclined).
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
