// Package admission contains the admission steps that every cluster runs. Each is an objects.Admitter.
package admission

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/kv"
)

// Pods adds to new pods the tolerations, the priority and, if they already name a node, the labels that upstream's
// DefaultTolerationSeconds, Priority and PodTopologyLabels plugins add.
type Pods struct {
	// TolerationSeconds is how long pods stay on a node that is not ready or not reachable, unless they have tolerations for that.
	TolerationSeconds int64
	// Topology returns the labels that pods of a node get.
	Topology func(view kv.View, node string) map[string]string
}

// DefaultTolerationSeconds is Kubernetes' default.
const DefaultTolerationSeconds = 300

// systemPriorities are the values of the priority classes that exist in every cluster.
var systemPriorities = map[string]int32{
	"system-cluster-critical": 2000000000,
	"system-node-critical":    2000001000,
}

// Mutate implements objects.Admitter.
func (p *Pods) Mutate(_ context.Context, a *objects.Attributes) error {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok || a.Subresource != "" {
		return nil
	}
	if a.Operation == objects.OpCreate {
		if err := prioritize(a, pod); err != nil {
			return err
		}
		if labels := p.labels(a, pod); len(labels) > 0 {
			if pod.Labels == nil {
				pod.Labels = map[string]string{}
			}
			maps.Copy(pod.Labels, labels)
		}
	}
	p.tolerate(pod, corev1.TaintNodeNotReady)
	p.tolerate(pod, corev1.TaintNodeUnreachable)
	return nil
}

func (p *Pods) labels(a *objects.Attributes, pod *corev1.Pod) map[string]string {
	if pod.Spec.NodeName == "" {
		return nil
	}
	return p.Topology(a.View, pod.Spec.NodeName)
}

// Validate implements objects.Admitter. RuntimeClasses are not served: a pod that names one is refused as upstream refuses one that
// names a class that does not exist.
func (p *Pods) Validate(_ context.Context, a *objects.Attributes) error {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok || a.Subresource != "" || a.Operation != objects.OpCreate {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf(format, args...))
	}
	if class := pod.Spec.RuntimeClassName; class != nil && *class != "" {
		return refuse("pod rejected: RuntimeClass %q not found", *class)
	}
	if len(pod.Spec.Overhead) > 0 {
		return refuse("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
	}
	return nil
}

func (p *Pods) tolerate(pod *corev1.Pod, taint string) {
	for _, t := range pod.Spec.Tolerations {
		if (t.Key == taint || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return
		}
	}
	seconds := p.TolerationSeconds
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
		Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
	})
}

func prioritize(a *objects.Attributes, pod *corev1.Pod) error {
	priority := int32(0)
	if class := pod.Spec.PriorityClassName; class != "" {
		var ok bool
		if priority, ok = systemPriorities[class]; !ok {
			return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf("no PriorityClass with name %v was found", class))
		}
	}
	if pod.Spec.Priority != nil && *pod.Spec.Priority != priority {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf(
			"the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, priority))
	}
	pod.Spec.Priority = &priority
	if pod.Spec.PreemptionPolicy == nil {
		policy := corev1.PreemptLowerPriority
		pod.Spec.PreemptionPolicy = &policy
	}
	return nil
}
