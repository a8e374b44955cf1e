package fit

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helper "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/internal/amount"
	"github.com/kontiki/kontiki/node/podspec"
)

// Lack is how much is missing of resources: thousandths of processors, otherwise units.
type Lack map[corev1.ResourceName]int64

// Without returns what is still missing when pods are gone.
func (l Lack) Without(pods ...*corev1.Pod) Lack {
	rest := Lack{}
	for name, missing := range l {
		for _, p := range pods {
			missing -= requestOf(p, name)
		}
		if missing > 0 {
			rest[name] = missing
		}
	}
	return rest
}

// distance is how far a pod's resources are from what is missing; each resource counts the same.
func (l Lack) distance(pod *corev1.Pod) (d float64) {
	for name, missing := range l {
		if rest := float64(missing - requestOf(pod, name)); rest > 0 {
			d += rest / float64(missing) * rest / float64(missing)
		}
	}
	return d
}

func (l Lack) String() string {
	var b strings.Builder
	names := corev1.ResourceList{}
	for name := range l {
		names[name] = resource.Quantity{}
	}
	for _, name := range inOrder(names) {
		fmt.Fprintf(&b, "(res: %s, q: %d), ", name, l[name])
	}
	return "[" + b.String() + "]"
}

// requestOf returns a pod's request for a resource; a pod is one of "pods".
func requestOf(pod *corev1.Pod, name corev1.ResourceName) int64 {
	if name == corev1.ResourcePods {
		return 1
	}
	return requested(helper.PodRequests(pod, helper.PodResourcesOptions{}), name)
}

func requested(list corev1.ResourceList, name corev1.ResourceName) int64 {
	q := list[name]
	if name == corev1.ResourceCPU {
		return amount.Milli(&q)
	}
	return amount.Value(&q)
}

// Lacking returns what a pod lacks beside others.
func Lacking(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList) Lack {
	out := Lack{}
	if n := allocatable.Pods().Value(); n > 0 && int64(len(others))+1 > n {
		out[corev1.ResourcePods] = int64(len(others)) + 1 - n
	}
	for name := range helper.PodRequests(pod, helper.PodResourcesOptions{}) {
		request := requestOf(pod, name)
		if _, known := allocatable[name]; !known || request == 0 {
			continue
		}
		missing := request - requested(allocatable, name)
		for _, o := range others {
			missing += requestOf(o, name)
		}
		if missing > 0 {
			out[name] = missing
		}
	}
	return out
}

// Victims chooses the pods to end so that nothing is lacking; nil if there are not enough. Pods that are Guaranteed are chosen only if the others
// do not suffice, then Burstable ones.
func Victims(pods []*corev1.Pod, l Lack) []*corev1.Pod {
	classes := map[corev1.PodQOSClass][]*corev1.Pod{}
	for _, p := range pods {
		classes[podspec.QOS(p)] = append(classes[podspec.QOS(p)], p)
	}
	if len(l.Without(pods...)) > 0 {
		return nil
	}
	bestEffort, burstable := classes[corev1.PodQOSBestEffort], classes[corev1.PodQOSBurstable]
	out := nearest(classes[corev1.PodQOSGuaranteed], l.Without(bestEffort...).Without(burstable...))
	out = append(out, nearest(burstable, l.Without(bestEffort...).Without(out...))...)
	return append(out, nearest(bestEffort, l.Without(out...))...)
}

// nearest chooses pods, the nearest to what is missing each time; the pods suffice.
func nearest(pods []*corev1.Pod, l Lack) (out []*corev1.Pod) {
	pods = slices.Clone(pods)
	for len(l) > 0 && len(pods) > 0 {
		best := 0
		for i, p := range pods {
			if d, least := l.distance(p), l.distance(pods[best]); d < least || d == least && smaller(p, pods[best]) {
				best = i
			}
		}
		l = l.Without(pods[best])
		out = append(out, pods[best])
		pods = slices.Delete(pods, best, best+1)
	}
	return out
}

// smaller says whether a pod requests less than another.
func smaller(a, b *corev1.Pod) bool {
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceCPU} {
		if x, y := requestOf(a, name), requestOf(b, name); x != y {
			return x < y
		}
	}
	return a.UID < b.UID
}
