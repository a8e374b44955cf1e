package nodelifecycle

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// podGC removes pods that no other component will: those whose node does not exist, those being deleted on an out-of-service node
// or before they were assigned, and finished ones beyond a number.
type podGC struct {
	Config
	missing times[string] // nodes that pods are assigned to but that do not exist
	ended   endedPods
}

// endedKey represents all finished pods; it cannot be a pod's, since it has no namespace.
var endedKey = controller.Key{Name: "terminated"}

func newPodGC(c Config) *controller.Controller {
	g := &podGC{Config: c}
	return &controller.Controller{
		Name: "podgc", Watches: []client.Object{&corev1.Node{}, &corev1.Pod{}}, Workers: 16,
		Start: g.start, Enqueue: g.enqueue, Reconcile: g.reconcile,
	}
}

func ended(pod *corev1.Pod) bool {
	return pod != nil && (pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed)
}

func (g *podGC) start(v client.View, enqueue func(controller.Key)) {
	g.ended.reset()
	client.Each(v, "", func(p *corev1.Pod) bool {
		g.ended.follow(nil, p)
		if g.doomed(v, p) {
			enqueue(controller.KeyOf(p))
		}
		return true
	})
	enqueue(endedKey)
}

func (g *podGC) enqueue(v client.View, event client.Event, enqueue func(controller.Key)) {
	switch obj := event.Object().(type) {
	case *corev1.Node:
		if event.Old == nil {
			g.missing.forget(obj.Name)
		}
		if event.New == nil || outOfService(obj) {
			enqueuePodsOn(v, obj.Name, enqueue)
		}
	case *corev1.Pod:
		old, _ := event.Old.(*corev1.Pod)
		now, _ := event.New.(*corev1.Pod)
		if g.ended.follow(old, now) > g.MaxTerminatedPods && !ended(old) && ended(now) {
			enqueue(endedKey)
		}
		if now != nil && g.doomed(v, now) {
			enqueue(controller.KeyOf(now))
		}
	}
}

// doomed says whether a pod may have to be removed.
func (g *podGC) doomed(v client.View, pod *corev1.Pod) bool {
	if pod.Spec.NodeName == "" {
		return pod.DeletionTimestamp != nil
	}
	node, ok := nodeOf(v, pod.Spec.NodeName)
	return !ok || (pod.DeletionTimestamp != nil && outOfService(node))
}

// outOfService says whether an administrator has marked a node that is not ready as permanently off (KEP-2268).
func outOfService(node *corev1.Node) bool {
	status, _ := ready(node)
	return status != corev1.ConditionTrue && slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func (g *podGC) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	if key == endedKey {
		return controller.Result{}, g.removeEnded(ctx, v)
	}
	pod, ok := client.Get[*corev1.Pod](v, key.Namespace, key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	if pod.Spec.NodeName == "" {
		if g.doomed(v, pod) {
			return controller.Result{}, g.remove(ctx, pod, "", "")
		}
		return controller.Result{}, nil
	}
	if _, ok := nodeOf(v, pod.Spec.NodeName); ok {
		g.missing.forget(pod.Spec.NodeName)
		if g.doomed(v, pod) {
			return controller.Result{}, g.remove(ctx, pod, "", "")
		}
		return controller.Result{}, nil
	}
	now := g.Now()
	left := g.missing.first(pod.Spec.NodeName, now).Add(g.Quarantine).Sub(now)
	if left > 0 && pod.DeletionTimestamp == nil {
		return controller.Result{After: left}, nil
	}
	return controller.Result{}, g.remove(ctx, pod, "DeletionByPodGC", "PodGC: node no longer exists")
}

// remove removes a pod at once; one that has not finished is marked as failed first.
func (g *podGC) remove(ctx context.Context, pod *corev1.Pod, reason, message string) error {
	if !ended(pod) {
		if err := disrupt(ctx, g.Client, pod, reason, message, true); err != nil {
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("mark pod %s/%s as failed: %w", pod.Namespace, pod.Name, err)
		}
	}
	err := g.Client.Delete(ctx, pod, client.IfUID(pod.UID), client.Grace(0))
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// removeEnded removes the surplus of finished pods.
func (g *podGC) removeEnded(ctx context.Context, v client.View) error {
	return controller.Each(g.ended.beyond(g.MaxTerminatedPods), func(key controller.Key) error {
		pod, ok := client.Get[*corev1.Pod](v, key.Namespace, key.Name)
		if !ok || !ended(pod) {
			return nil
		}
		return g.remove(ctx, pod, "", "")
	})
}
