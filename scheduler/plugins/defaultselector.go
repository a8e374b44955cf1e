package plugins

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// defaultSelector returns a selector of the pods that belong together with a pod: what the selectors of its Services and of its owner
// require. It is empty if there is none.
func defaultSelector(v client.View, pod *corev1.Pod) labels.Selector {
	required := labels.Set{}
	client.Each(v, pod.Namespace, func(service *corev1.Service) bool {
		if len(service.Spec.Selector) > 0 && labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			required = labels.Merge(required, service.Spec.Selector)
		}
		return true
	})
	selector := required.AsSelector()
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil {
		return selector
	}
	switch {
	case owner.APIVersion == "v1" && owner.Kind == "ReplicationController":
		if rc, ok := client.Get[*corev1.ReplicationController](v, pod.Namespace, owner.Name); ok {
			return labels.Merge(required, rc.Spec.Selector).AsSelector()
		}
	case owner.APIVersion == "apps/v1" && owner.Kind == "ReplicaSet":
		if rs, ok := client.Get[*appsv1.ReplicaSet](v, pod.Namespace, owner.Name); ok {
			return merge(selector, rs.Spec.Selector)
		}
	case owner.APIVersion == "apps/v1" && owner.Kind == "StatefulSet":
		if set, ok := client.Get[*appsv1.StatefulSet](v, pod.Namespace, owner.Name); ok {
			return merge(selector, set.Spec.Selector)
		}
	}
	return selector
}

// Distinguishes says whether a Service or the owner selects by such labels, so that the default constraints may differ between the pods
// of one owner.
func (s *PodTopologySpread) Distinguishes(p *framework.PodInfo, reads func(labels.Selector) bool) (found bool) {
	if len(s.Defaults) == 0 || len(p.Spec.TopologySpreadConstraints) > 0 {
		return false
	}
	client.Each(s.View(), p.Namespace, func(service *corev1.Service) bool {
		found = reads(labels.SelectorFromSet(service.Spec.Selector))
		return !found
	})
	return found || reads(defaultSelector(s.View(), p.Pod))
}

func merge(s labels.Selector, with *metav1.LabelSelector) labels.Selector {
	if requirements, ok := framework.SelectorOf(with).Requirements(); ok {
		return s.Add(requirements...)
	}
	return s
}
