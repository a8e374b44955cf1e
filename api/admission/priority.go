package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"

	"github.com/kontiki/kontiki/api/objects"
)

// SystemPriorities are the values of the priority classes that every cluster has.
var SystemPriorities = map[string]int32{
	"system-cluster-critical": 2000000000,
	"system-node-critical":    2000001000,
}

var priorityClasses = schedulingv1.Resource("priorityclasses")

// priority sets the priority and the preemption policy of a new pod according to its PriorityClass, and ensures that only one class is
// the default.
func priority() objects.Step {
	return objects.Step{
		Name: "Priority",
		Handles: func(a *objects.Attributes) bool {
			return (a.Is(pods, "") || a.Is(priorityClasses, "")) && (a.Operation == objects.OpCreate || a.Operation == objects.OpUpdate)
		},
		Mutate: func(_ context.Context, a *objects.Attributes) error {
			pod, ok := a.Object.(*corev1.Pod)
			if !ok {
				return nil
			}
			if old, ok := a.Old.(*corev1.Pod); ok {
				keepPriority(pod, old)
				return nil
			}
			return prioritize(a, pod)
		},
		Validate: func(_ context.Context, a *objects.Attributes) error {
			class, ok := a.Object.(*schedulingv1.PriorityClass)
			if !ok || !class.GlobalDefault {
				return nil
			}
			other, err := defaultClass(a)
			if err == nil && other != nil && (a.Operation == objects.OpCreate || other.Name != class.Name) {
				err = a.Forbid("PriorityClass %v is already marked as default. Only one default can exist", other.Name)
			}
			return err
		},
	}
}

// keepPriority keeps what an update leaves out; validation refuses other changes.
func keepPriority(pod, old *corev1.Pod) {
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = old.Spec.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
	}
}

// defaultClass returns the class for pods that name none: the one of those marked as default with the lowest value.
func defaultClass(a *objects.Attributes) (lowest *schedulingv1.PriorityClass, err error) {
	err = objects.EachStored(a, "", func(class *schedulingv1.PriorityClass) bool {
		if class.GlobalDefault && (lowest == nil || class.Value < lowest.Value) {
			lowest = class
		}
		return true
	})
	return lowest, err
}

// classFor returns the class of a pod, nil if it has none.
func classFor(a *objects.Attributes, pod *corev1.Pod) (*schedulingv1.PriorityClass, error) {
	name := pod.Spec.PriorityClassName
	if name == "" {
		return defaultClass(a)
	}
	class, ok, err := objects.Stored[*schedulingv1.PriorityClass](a, "", name)
	if ok || err != nil {
		return class, err
	}
	if value, ok := SystemPriorities[name]; ok { // from the cluster's first moment, before the classes have been created
		class = &schedulingv1.PriorityClass{Value: value}
		class.Name = name
		return class, nil
	}
	return nil, a.Forbid("no PriorityClass with name %v was found", name)
}

func prioritize(a *objects.Attributes, pod *corev1.Pod) error {
	class, err := classFor(a, pod)
	if err != nil {
		return err
	}
	value, policy := int32(0), corev1.PreemptLowerPriority
	if class != nil {
		pod.Spec.PriorityClassName, value = class.Name, class.Value
		if class.PreemptionPolicy != nil {
			policy = *class.PreemptionPolicy
		}
	}
	if given := pod.Spec.Priority; given != nil && *given != value {
		return a.Forbid("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *given, value)
	}
	if given := pod.Spec.PreemptionPolicy; given != nil && *given != policy {
		return a.Forbid("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *given, policy)
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = &value, &policy
	return nil
}
