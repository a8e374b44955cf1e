package objects

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"

	"github.com/kontiki/kontiki/api/registry"
)

// Bind assigns a pod to a node, once.
func (s *Service) Bind(ctx context.Context, r *Request, binding *corev1.Binding) error {
	target := binding.Target
	var problem *field.Error
	switch {
	case target.Kind != "" && target.Kind != "Node":
		problem = field.NotSupported(field.NewPath("target", "kind"), target.Kind, []string{"Node", "<empty>"})
	case target.Name == "":
		problem = field.Required(field.NewPath("target", "name"), "")
	}
	if problem != nil {
		return Invalid(schema.GroupKind{Kind: "Binding"}, r.Name, field.ErrorList{problem})
	}
	admitted := &Attributes{Request: r, Operation: OpCreate, Object: binding, ObjectKind: corev1.SchemeGroupVersion.WithKind("Binding")}
	if err := s.Admit(ctx, admitted); err != nil {
		return err
	}
	binding = admitted.Object.(*corev1.Binding)
	_, _, err := s.modify(ctx, r, modification{strategy: bindingStrategy(binding), unwatched: true, admitted: true, change: func(old registry.Object) (registry.Object, error) {
		pod := old.(*corev1.Pod).DeepCopy()
		if binding.UID != "" && binding.UID != pod.UID {
			return nil, apierrors.NewConflict(r.Kind.GroupResource(), r.Name,
				fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", binding.UID, pod.UID))
		}
		if binding.ResourceVersion != "" && binding.ResourceVersion != pod.ResourceVersion {
			return nil, conflict(r)
		}
		if pod.DeletionTimestamp != nil {
			return nil, bindConflict(r, "pod %s is being deleted, cannot be assigned to a host", pod.Name)
		}
		if pod.Spec.NodeName != "" {
			return nil, bindConflict(r, "pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
		}
		if len(pod.Spec.SchedulingGates) > 0 {
			return nil, bindConflict(r, "pod %v has non-empty .spec.schedulingGates", pod.Name)
		}
		pod.Spec.NodeName = target.Name
		pod.Status.NominatedNodeName = "" // it has come true, or is outdated
		if len(binding.Annotations) > 0 {
			if pod.Annotations == nil {
				pod.Annotations = map[string]string{}
			}
			maps.Copy(pod.Annotations, binding.Annotations)
			podutil.DropInitContainerAnnotations(pod.Annotations) // a binding does not run the pods' update rules, which would drop them
		}
		setLabels(pod, binding.Labels)
		SetPodCondition(pod, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: s.timestamp(), ObservedGeneration: pod.Generation})
		return pod, nil
	}})
	return err
}

// bindingStrategy validates what a binding brings to its pod, and not again the rest, which was validated when it was stored.
func bindingStrategy(binding *corev1.Binding) *registry.Strategy {
	return &registry.Strategy{ValidateWhole: true, ValidateUpdate: func(_ context.Context, obj, _ runtime.Object) field.ErrorList {
		metadata := field.NewPath("metadata")
		errs := metavalidation.ValidateLabels(binding.Labels, metadata.Child("labels"))
		if len(binding.Annotations) > 0 { // their size is limited together with the pod's own
			errs = append(errs, apivalidation.ValidateAnnotations(obj.(metav1.Object).GetAnnotations(), metadata.Child("annotations"))...)
		}
		return errs
	}}
}

func setLabels(pod *corev1.Pod, labels map[string]string) {
	if len(labels) > 0 && pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	maps.Copy(pod.Labels, labels)
}

func bindConflict(r *Request, format string, args ...any) error {
	return apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, r.Name, fmt.Errorf(format, args...))
}

// SetPodCondition replaces the condition of the same type, and keeps its transition time if the status is unchanged.
func SetPodCondition(pod *corev1.Pod, condition corev1.PodCondition) {
	for i := range pod.Status.Conditions {
		if have := &pod.Status.Conditions[i]; have.Type == condition.Type {
			if have.Status == condition.Status {
				condition.LastTransitionTime = have.LastTransitionTime
			}
			*have = condition
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, condition)
}
