package devices

import (
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// Events says which changes of claims, classes, slices and nodes may help. A change of the pod itself is not an event here.
func (d *DynamicResources) Events() []framework.Hint {
	const changes = framework.Add | framework.Update
	return []framework.Hint{
		{Resource: framework.Node, Actions: changes},
		{Resource: framework.ResourceClaim, Actions: changes | framework.Delete, Wakes: wakes},
		{Resource: framework.DeviceClass, Actions: changes},
		// Without a slice, its pool may be complete, or have no conflicting names any more.
		{Resource: framework.ResourceSlice, Actions: changes | framework.Delete},
	}
}

// wakes says whether a change of a claim may help a pod: devices are free, or it is the pod's own.
func wakes(p *framework.PodInfo, e *framework.Event) bool {
	old, _ := e.Old.(*resourcev1.ResourceClaim)
	now, _ := e.New.(*resourcev1.ResourceClaim)
	switch {
	case old != nil && old.Status.Allocation != nil && (now == nil || now.Status.Allocation == nil):
		return true
	case now == nil || !uses(p.Pod, now):
		return false
	}
	return old == nil || !apiequality.Semantic.DeepEqual(&old.Status, &now.Status)
}

// uses says whether a pod names a claim.
func uses(pod *corev1.Pod, c *resourcev1.ResourceClaim) bool {
	if pod.Namespace != c.Namespace {
		return false
	}
	for i := range pod.Spec.ResourceClaims {
		if name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i]); err == nil && name != nil && *name == c.Name {
			return true
		}
	}
	return false
}

// waiting finds pods without a node by the claims that they name.
var waiting = client.NewIndex(func(pod *corev1.Pod, add func(string)) {
	if pod.Spec.NodeName != "" || framework.Finished(pod) {
		return
	}
	for i := range pod.Spec.ResourceClaims {
		if name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i]); err == nil && name != nil {
			add(pod.Namespace + "/" + *name)
		}
	}
})

// Waiting returns the pods without a node that name a claim.
func Waiting(v client.View, c *resourcev1.ResourceClaim) []*corev1.Pod {
	return waiting.Any(v, c.Namespace+"/"+c.Name)
}
