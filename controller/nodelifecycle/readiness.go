package nodelifecycle

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// readiness marks pods as not ready when their node stops being ready. It does so only at that moment, and when a pod is assigned:
// a worker that is back may report its pods before its node, and that must not be undone.
type readiness struct{ Config }

func newReadiness(c Config) *controller.Controller {
	r := &readiness{c}
	return &controller.Controller{
		Name: "node-readiness", Watches: []client.Object{&corev1.Node{}, &corev1.Pod{}}, Workers: 16,
		// A previous leader may have marked a node but not all of its pods.
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(n *corev1.Node) bool {
				if status, _ := ready(n); status == corev1.ConditionUnknown {
					enqueuePodsOn(v, n.Name, enqueue)
				}
				return true
			})
		},
		Enqueue: func(v client.View, event client.Event, enqueue func(controller.Key)) {
			switch now := event.New.(type) {
			case *corev1.Node:
				old, _ := event.Old.(*corev1.Node)
				if old == nil {
					return
				}
				before, _ := ready(old)
				if status, ok := ready(now); ok && status != corev1.ConditionTrue && before == corev1.ConditionTrue {
					enqueuePodsOn(v, now.Name, enqueue)
				}
			case *corev1.Pod:
				old, _ := event.Old.(*corev1.Pod)
				if now.Spec.NodeName != "" && (old == nil || old.Spec.NodeName != now.Spec.NodeName) {
					enqueue(controller.KeyOf(now))
				}
			}
		},
		Reconcile: r.reconcile,
	}
}

func (r *readiness) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	pod, ok := client.Get[*corev1.Pod](v, key.Namespace, key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	node, ok := nodeOf(v, pod.Spec.NodeName)
	if !ok {
		return controller.Result{}, nil
	}
	if status, ok := ready(node); !ok || status == corev1.ConditionTrue {
		return controller.Result{}, nil
	}
	changed := pod.DeepCopy()
	for i := range changed.Status.Conditions {
		c := &changed.Status.Conditions[i]
		if c.Type != corev1.PodReady || c.Status == corev1.ConditionFalse {
			continue
		}
		c.Status, c.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(r.Now())
		if _, err := client.UpdateStatus(ctx, r.Client, changed); err != nil {
			if apierrors.IsNotFound(err) {
				return controller.Result{}, nil
			}
			return controller.Result{}, fmt.Errorf("mark pod %s as not ready: %w", key, err)
		}
		r.Recorder.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		break
	}
	return controller.Result{}, nil
}
