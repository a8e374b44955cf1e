package nodelifecycle

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// tainted maps the status of a condition to a taint.
var tainted = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	taint     string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
}

// taints sets nodes' taints according to their conditions. NoSchedule taints are set at once. Zones determine when the NoExecute
// taints for nodes' health are set; an existing one is replaced by the other at once, and removed at once when its node is ready or
// when the zones stop all evictions.
type taints struct {
	Config
	zones *zones
}

func newTaints(c Config) *controller.Controller {
	t := &taints{Config: c, zones: newZones(*c.Evictions)}
	return &controller.Controller{
		Name: "node-taints", Watches: []client.Object{&corev1.Node{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			t.zones.reset(v, t.Now())
			enqueueNodes(v, enqueue)
		},
		Enqueue: func(v client.View, event client.Event, enqueue func(controller.Key)) {
			enqueue(controller.KeyOf(event.Object()))
			node, _ := event.New.(*corev1.Node)
			if t.zones.follow(event.Object().GetName(), node, t.Now()) {
				enqueueNodes(v, enqueue)
			}
		},
		Reconcile: t.reconcile, Workers: 8,
	}
}

func enqueueNodes(v client.View, enqueue func(controller.Key)) {
	client.Each(v, "", func(n *corev1.Node) bool {
		enqueue(controller.KeyOf(n))
		return true
	})
}

func (t *taints) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	node, ok := nodeOf(v, key.Name)
	if !ok {
		t.zones.forget(key.Name)
		return controller.Result{}, nil
	}
	wanted := wantedTaints(node)
	var again controller.Result
	if unhealthy := healthTaint(node); unhealthy == nil {
		t.zones.forget(node.Name)
	} else if !t.zones.stopped() {
		if evicting(node) {
			ok = true
		} else {
			ok, again.After = t.zones.admit(node, t.Now())
		}
		if ok {
			wanted = append(wanted, *unhealthy)
		}
	}
	changed := node.DeepCopy()
	// Keep this controller's taints that are still wanted, unchanged, and all others.
	changed.Spec.Taints = slices.DeleteFunc(changed.Spec.Taints, func(have corev1.Taint) bool {
		return ours(have) && !slices.ContainsFunc(wanted, func(w corev1.Taint) bool { return same(w, have) })
	})
	now := metav1.NewTime(t.Now())
	for _, w := range wanted {
		if !slices.ContainsFunc(changed.Spec.Taints, func(have corev1.Taint) bool { return same(w, have) }) {
			w.TimeAdded = &now
			changed.Spec.Taints = append(changed.Spec.Taints, w)
		}
	}
	if slices.EqualFunc(changed.Spec.Taints, node.Spec.Taints, same) {
		return again, nil
	}
	if _, err := client.Update(ctx, t.Client, changed); err != nil && !apierrors.IsNotFound(err) {
		return controller.Result{}, fmt.Errorf("taint node %s: %w", node.Name, err)
	}
	if evicting(changed) {
		t.zones.forget(node.Name)
	}
	return again, nil
}

// wantedTaints returns the taints that a node gets at once.
func wantedTaints(node *corev1.Node) (out []corev1.Taint) {
	for _, rule := range tainted {
		if c := condition(node, rule.condition); c != nil && c.Status == rule.status {
			out = append(out, corev1.Taint{Key: rule.taint, Effect: corev1.TaintEffectNoSchedule})
		}
	}
	if node.Spec.Unschedulable {
		out = append(out, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	}
	return out
}

// healthTaint returns the taint that evicts the pods of a node that is not ready; nil if it is ready.
func healthTaint(node *corev1.Node) *corev1.Taint {
	for _, rule := range tainted {
		if rule.condition != corev1.NodeReady {
			continue
		}
		if c := condition(node, rule.condition); c != nil && c.Status == rule.status {
			return &corev1.Taint{Key: rule.taint, Effect: corev1.TaintEffectNoExecute}
		}
	}
	return nil
}

// evicting says whether a node has such a taint.
func evicting(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute && ours(t) })
}

func same(a, b corev1.Taint) bool { return a.Key == b.Key && a.Effect == b.Effect }

// ours says whether this controller sets and removes a taint.
func ours(taint corev1.Taint) bool {
	switch taint.Effect {
	case corev1.TaintEffectNoSchedule:
		return taint.Key == corev1.TaintNodeUnschedulable ||
			slices.ContainsFunc(tainted, func(r struct {
				condition corev1.NodeConditionType
				status    corev1.ConditionStatus
				taint     string
			}) bool {
				return r.taint == taint.Key
			})
	case corev1.TaintEffectNoExecute:
		return taint.Key == corev1.TaintNodeNotReady || taint.Key == corev1.TaintNodeUnreachable
	}
	return false
}
