package nodelifecycle

import (
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// tainted says which status of which condition gives which taint.
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

// excludeLabel keeps a node out of the count of unhealthy ones (upstream's).
const excludeLabel = "node.kubernetes.io/exclude-disruption"

// taints brings nodes' taints to their conditions.
//
// When so many nodes fail at once that the fault is likelier to be ours (no node is ready, or more than 55 % and at
// least 3 are not), evictions pause: the NoExecute taints of nodes' health are taken back, which cancels what is pending,
// and set again when it is over. Upstream slows evictions down by zones, to a stop in clusters of up to 50 nodes; here
// all nodes are one zone and it always stops. NoSchedule taints are not affected.
type taints struct {
	Config
	mu     sync.Mutex
	paused bool
}

func newTaints(c Config) *controller.Controller {
	t := &taints{Config: c}
	return &controller.Controller{
		Name: "node-taints", Watches: []client.Object{&corev1.Node{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			t.pauseChanged(v)
			enqueueNodes(v, enqueue)
		},
		Enqueue: func(v client.View, event client.Event, enqueue func(controller.Key)) {
			if event.New != nil {
				enqueue(controller.KeyOf(event.New))
			}
			if event.Old == nil || event.New == nil || statusChanged(event.Old.(*corev1.Node), event.New.(*corev1.Node)) {
				if t.pauseChanged(v) {
					enqueueNodes(v, enqueue)
				}
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

func (t *taints) pauseChanged(v client.View) bool {
	now := paused(v)
	t.mu.Lock()
	defer t.mu.Unlock()
	changed := t.paused != now
	t.paused = now
	return changed
}

// paused says that too many nodes are not ready to believe that it is their fault.
func paused(v client.View) bool {
	healthy, unhealthy := 0, 0
	client.Each(v, "", func(n *corev1.Node) bool {
		if _, excluded := n.Labels[excludeLabel]; excluded {
			return true
		}
		if status, _ := ready(n); status == corev1.ConditionTrue {
			healthy++
		} else {
			unhealthy++
		}
		return true
	})
	return unhealthy > 0 && healthy == 0 || unhealthy >= unhealthyAtLeast && 100*unhealthy > unhealthyPercent*(healthy+unhealthy)
}

func (t *taints) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	node, ok := nodeOf(v, key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	wanted := wantedTaints(node, paused(v))
	changed := node.DeepCopy()
	// Of ours, those that are there and still wanted stay as they are; of others, all.
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
		return controller.Result{}, nil
	}
	if _, err := client.Update(ctx, t.Client, changed); err != nil && !apierrors.IsNotFound(err) {
		return controller.Result{}, fmt.Errorf("taint node %s: %w", node.Name, err)
	}
	return controller.Result{}, nil
}

func wantedTaints(node *corev1.Node, paused bool) (out []corev1.Taint) {
	for _, rule := range tainted {
		if c := condition(node, rule.condition); c == nil || c.Status != rule.status {
			continue
		}
		out = append(out, corev1.Taint{Key: rule.taint, Effect: corev1.TaintEffectNoSchedule})
		if rule.condition == corev1.NodeReady && !paused {
			out = append(out, corev1.Taint{Key: rule.taint, Effect: corev1.TaintEffectNoExecute})
		}
	}
	if node.Spec.Unschedulable {
		out = append(out, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	}
	return out
}

func same(a, b corev1.Taint) bool { return a.Key == b.Key && a.Effect == b.Effect }

// ours says that this controller sets and removes a taint.
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
