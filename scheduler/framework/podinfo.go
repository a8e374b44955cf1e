package framework

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// PodInfo is a pod with values that are computed from it once. It is immutable: goroutines that write to the API read it too.
type PodInfo struct {
	*corev1.Pod
	// Requests are what the pod occupies on its node: with its overhead, with what its pod-level resources say, and, while a resize
	// is in progress, the larger of what it had and what it will have.
	Requests Amounts
	// Scored are the requests, with defaults for containers without requests.
	Scored Amounts
	Ports  []HostPort
	// Near are the required terms of its pod affinity, Far those of its anti-affinity.
	Near, Far []AffinityTerm
	// Preferred are the preferred terms of both.
	Preferred []WeightedTerm
	// Hard are its topology spread constraints that must hold, Soft those that should.
	Hard, Soft []SpreadTerm

	// identity are the labels that tell it apart from the others of its template, selects and placedSelects what its terms read of
	// them (see selections).
	identity, selects, placedSelects identity
	signature                        string // see Signature
}

// HostPort is a port of a node that a container uses.
type HostPort struct {
	IP       string
	Protocol corev1.Protocol
	Port     int32
}

// Conflicts says whether two pods cannot have these ports on one node.
func (p HostPort) Conflicts(q HostPort) bool {
	return p.Port == q.Port && p.Protocol == q.Protocol && (p.IP == q.IP || p.IP == anyAddress || q.IP == anyAddress)
}

const anyAddress = "0.0.0.0"

// NewPodInfo computes the values of a pod.
func NewPodInfo(pod *corev1.Pod) *PodInfo {
	p := &PodInfo{Pod: pod}
	p.Requests, p.Scored = requestsOf(pod)
	if a := pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		p.Near = compile(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, pod)
	}
	if a := pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		p.Far = compile(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, pod)
	}
	p.Preferred = compilePreferred(pod)
	p.Hard, p.Soft = CompileSpread(pod, pod.Spec.TopologySpreadConstraints)
	p.Ports = portsOf(pod)
	p.identity = identityIn(pod.Labels)
	p.selects, p.placedSelects = p.selections()
	return p
}

func portsOf(pod *corev1.Pod) (ports []HostPort) {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, port := range list[i].Ports {
				if port.HostPort == 0 {
					continue
				}
				p := HostPort{port.HostIP, port.Protocol, port.HostPort}
				if p.IP == "" {
					p.IP = anyAddress
				}
				if p.Protocol == "" {
					p.Protocol = corev1.ProtocolTCP
				}
				ports = append(ports, p)
			}
		}
	}
	return ports
}

// With returns the values for a newer version of the pod, and whether any of them differ from the old ones. Few updates change
// them: most are of its status, or are its binding, with which its generation grows by one.
func (p *PodInfo) With(pod *corev1.Pod) (updated *PodInfo, changed bool) {
	bound := p.Spec.NodeName == "" && pod.Spec.NodeName != ""
	if p.Generation != pod.Generation && !(bound && p.Generation+1 == pod.Generation) || !maps.Equal(p.Labels, pod.Labels) || (p.DeletionTimestamp == nil) != (pod.DeletionTimestamp == nil) ||
		p.Spec.NodeName != pod.Spec.NodeName && p.Spec.NodeName != "" {
		return NewPodInfo(pod), true
	}
	same := *p
	same.Pod = pod
	if statusCounts(p.Pod) || statusCounts(pod) {
		same.Requests, same.Scored = requestsOf(pod)
	}
	return &same, !same.Requests.equal(&p.Requests)
}

// Inclined says whether the pod, once placed, affects the scores of nodes for other pods.
func (p *PodInfo) Inclined() bool { return len(p.Near)+len(p.Preferred) > 0 }

// SelectsOtherwise says whether a required term of its affinity selects a namespace by one of two sets of labels but not by the
// other.
func (p *PodInfo) SelectsOtherwise(old, now labels.Set) bool {
	changes := func(t AffinityTerm) bool { return t.Across != nil && t.Across.Matches(old) != t.Across.Matches(now) }
	return slices.ContainsFunc(p.Near, changes) || slices.ContainsFunc(p.Far, changes)
}

// Finished says whether a pod's containers will not run again: it no longer uses resources of its node.
func Finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
