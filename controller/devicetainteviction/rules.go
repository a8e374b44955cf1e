package devicetainteviction

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

func enqueueRules(v client.View, enqueue func(controller.Key)) {
	client.Each(v, "", func(rule *resourcev1.DeviceTaintRule) bool {
		enqueue(controller.KeyOf(rule))
		return true
	})
}

// enqueueRule enqueues a rule that has changed, and those that evict when a pod that uses devices has.
func (r *reconciler) enqueueRule(v client.View, event client.Event, enqueue func(controller.Key)) {
	switch obj := event.Object().(type) {
	case *resourcev1.DeviceTaintRule:
		if event.New == nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			delete(r.evicted, obj.UID)
			return
		}
		enqueue(controller.KeyOf(obj))
	case *corev1.Pod:
		if len(claimNames(obj)) == 0 {
			return
		}
		for _, rule := range evictingRules(v) {
			enqueue(controller.KeyOf(rule))
		}
	}
}

// syncRule stores what a rule does.
func (r *reconciler) syncRule(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	rule, ok := client.Get[*resourcev1.DeviceTaintRule](v, "", key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	last := meta.FindStatusCondition(rule.Status.Conditions, resourcev1.DeviceTaintConditionEvictionInProgress)
	if last != nil && last.ObservedGeneration == rule.Generation {
		if rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNone {
			return controller.Result{}, nil // said once for each generation
		}
		if wait := r.StatusPeriod - r.Now().Sub(last.LastTransitionTime.Time); wait > 0 {
			return controller.Result{After: wait}, nil
		}
	}
	condition := r.condition(v, rule)
	if last != nil {
		condition.LastTransitionTime = last.LastTransitionTime
		if condition == *last {
			return controller.Result{}, nil
		}
	}
	// The time is that of the last change of whatever the condition says, as upstream has it.
	condition.LastTransitionTime = metav1.NewTime(r.Now())
	changed := rule.DeepCopy()
	meta.RemoveStatusCondition(&changed.Status.Conditions, condition.Type)
	changed.Status.Conditions = append(changed.Status.Conditions, condition)
	_, err := client.UpdateStatus(ctx, r.Client, changed)
	return controller.Result{}, err
}

// condition returns what a rule does, or would do.
func (r *reconciler) condition(v client.View, rule *resourcev1.DeviceTaintRule) metav1.Condition {
	effect := rule.Spec.Taint.Effect
	c := metav1.Condition{Type: resourcev1.DeviceTaintConditionEvictionInProgress, Status: metav1.ConditionFalse, ObservedGeneration: rule.Generation}
	r.mu.Lock()
	evicted := r.evicted[rule.UID]
	r.mu.Unlock()
	switch effect {
	case resourcev1.DeviceTaintEffectNoExecute:
		pods, namespaces := pending(v, rule)
		switch {
		case pods > 0:
			c.Status, c.Reason = metav1.ConditionTrue, "PodsPendingEviction"
			c.Message = number(pods, "1 pod needs to be evicted in ", "%d pods need to be evicted in ") + number(namespaces, "1 namespace.", "%d different namespaces.")
		case evicted > 0:
			c.Reason = "Completed"
		default:
			c.Reason = "NotStarted"
		}
	case resourcev1.DeviceTaintEffectNone:
		c.Reason = "NoEffect"
		would := rule.DeepCopy()
		would.Spec.Taint.Effect = resourcev1.DeviceTaintEffectNoExecute
		if would.Spec.Taint.TimeAdded == nil {
			would.Spec.Taint.TimeAdded = &metav1.Time{Time: r.Now()}
		}
		pods, namespaces := pending(v, would)
		published, inUse := devices(v, rule)
		c.Message = number(published, "1 published device selected. ", "%d published devices selected. ") +
			number(inUse, "1 allocated device selected. ", "%d allocated devices selected. ") +
			number(pods, "1 pod would be evicted in ", "%d pods would be evicted in ") + number(namespaces, "1 namespace ", "%d different namespaces ") +
			"if the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update."
	default:
		c.Reason, c.Message = "OtherEffect", "Eviction only happens for the NoExecute effect."
	}
	if evicted > 0 {
		if c.Message != "" {
			c.Message += " "
		}
		c.Message += number(evicted, "1 pod ", "%d pods ") + "evicted since starting the controller."
	}
	return c
}

func number(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return fmt.Sprintf(many, n)
}

// pending counts the pods that a rule evicts now or later, and their namespaces.
func pending(v client.View, rule *resourcev1.DeviceTaintRule) (count, namespaces int) {
	seen, in := map[controller.Key]bool{}, map[string]bool{}
	only := []*resourcev1.DeviceTaintRule{rule}
	for _, claim := range selectedBy(v, rule) {
		for _, pod := range users.Any(v, claim.Namespace+"/"+claim.Name) {
			d := deletionOf(v, pod, only)
			if d == nil || len(d.rules) == 0 || seen[controller.KeyOf(pod)] {
				continue
			}
			seen[controller.KeyOf(pod)], in[pod.Namespace] = true, true
		}
	}
	return len(seen), len(in)
}

// devices counts the devices that a rule is about: those that drivers publish, and those that are allocated.
func devices(v client.View, rule *resourcev1.DeviceTaintRule) (published, inUse int) {
	newest := map[string]int64{}
	client.Each(v, "", func(slice *resourcev1.ResourceSlice) bool {
		key := poolKey(slice.Spec.Driver, slice.Spec.Pool.Name)
		if generation, ok := newest[key]; !ok || slice.Spec.Pool.Generation > generation {
			newest[key] = slice.Spec.Pool.Generation
		}
		return true
	})
	client.Each(v, "", func(slice *resourcev1.ResourceSlice) bool {
		if slice.Spec.Pool.Generation == newest[poolKey(slice.Spec.Driver, slice.Spec.Pool.Name)] {
			for i := range slice.Spec.Devices {
				if selects(rule, slice.Spec.Driver, slice.Spec.Pool.Name, slice.Spec.Devices[i].Name) {
					published++
				}
			}
		}
		return true
	})
	for _, claim := range selectedBy(v, rule) {
		for _, d := range claim.Status.Allocation.Devices.Results {
			if selects(rule, d.Driver, d.Pool, d.Device) {
				inUse++
			}
		}
	}
	return published, inUse
}
