package disruption

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
)

// scale adds up the sizes of the workloads that control pods; unmanaged says whether a pod has none.
func (r *reconciler) scale(v client.View, selected []*corev1.Pod) (sum int32, unmanaged bool, err error) {
	controllers, workloads := map[types.UID]bool{}, map[types.UID]bool{}
	for _, pod := range selected {
		ref := metav1.GetControllerOfNoCopy(pod)
		switch {
		case ref == nil:
			unmanaged = true
			continue
		case controllers[ref.UID]:
			continue
		}
		controllers[ref.UID] = true
		owner, size, err := r.workload(v, pod.Namespace, ref)
		if err != nil {
			return 0, false, err
		}
		if owner == nil {
			return 0, false, fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		if !workloads[owner.GetUID()] {
			workloads[owner.GetUID()] = true
			sum += size
		}
	}
	return sum, unmanaged, nil
}

// workload returns the workload that a pod's controller is a part of, and its size: a ReplicaSet's Deployment, or the controller
// itself. It returns nil if the controller does not exist.
func (r *reconciler) workload(v client.View, namespace string, ref *metav1.OwnerReference) (client.Object, int32, error) {
	owner, size, err := r.sized(v, namespace, ref)
	if rs, ok := owner.(*appsv1.ReplicaSet); ok && err == nil {
		if ref := metav1.GetControllerOfNoCopy(rs); ref != nil && ref.Kind == "Deployment" {
			if deployment, size, err := r.sized(v, namespace, ref); err == nil && deployment != nil {
				return deployment, size, nil
			}
		}
	}
	return owner, size, err
}

// sized returns the object that a reference names and its size, as its scale subresource has it; nil if it does not exist.
func (r *reconciler) sized(v client.View, namespace string, ref *metav1.OwnerReference) (client.Object, int32, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, 0, err
	}
	kind, ok := r.client.KindNamed(gv.WithKind(ref.Kind).GroupKind())
	if !ok {
		return nil, 0, fmt.Errorf("no matches for kind %q in version %q", ref.Kind, ref.APIVersion)
	}
	if kind.Scale == nil {
		return nil, 0, fmt.Errorf("%s does not implement the scale subresource", kind.GroupResource())
	}
	obj, ok := v.GetOf(kind, namespace, ref.Name)
	if !ok || obj.GetUID() != ref.UID {
		return nil, 0, nil
	}
	size, _, _ := kind.Scale.Get(obj)
	return obj, size, nil
}
