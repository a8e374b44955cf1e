package nodelifecycle

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// eviction deletes pods that do not tolerate a NoExecute taint of their node, after the number of seconds for which they tolerate
// it (k8s.io/kubernetes/pkg/controller/tainteviction). The time counts from when the taint was added, or the pod was assigned,
// whichever is later, so that a new leader continues where the old one stopped.
type eviction struct {
	Config
	// seen is when a taint without a time was first found on a pod's node.
	seen times[types.UID]
	// pending are the pods that will be deleted.
	pending times[controller.Key]
}

func newEviction(c Config) *controller.Controller {
	e := &eviction{Config: c}
	return &controller.Controller{
		Name: "taint-eviction-controller", Watches: []client.Object{&corev1.Node{}, &corev1.Pod{}}, Workers: 8,
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(n *corev1.Node) bool {
				if len(noExecute(n)) > 0 {
					enqueuePodsOn(v, n.Name, enqueue)
				}
				return true
			})
			e.pending.each(enqueue) // the taints of these may have been removed
		},
		Enqueue: e.enqueue, Reconcile: e.reconcile,
	}
}

// consider enqueues a pod if its node has taints that may concern it.
func (e *eviction) consider(v client.View, pod *corev1.Pod, enqueue func(controller.Key)) {
	if pod.Spec.NodeName == "" {
		return
	}
	if node, ok := nodeOf(v, pod.Spec.NodeName); (ok && len(noExecute(node)) > 0) || e.pending.has(controller.KeyOf(pod)) {
		enqueue(controller.KeyOf(pod))
	}
}

func (e *eviction) enqueue(v client.View, event client.Event, enqueue func(controller.Key)) {
	switch obj := event.Object().(type) {
	case *corev1.Node:
		old, _ := event.Old.(*corev1.Node)
		now, _ := event.New.(*corev1.Node)
		if !apiequality.Semantic.DeepEqual(noExecute(old), noExecute(now)) {
			enqueuePodsOn(v, obj.Name, enqueue)
		}
	case *corev1.Pod:
		old, _ := event.Old.(*corev1.Pod)
		now, _ := event.New.(*corev1.Pod)
		if old != nil && now != nil && old.Spec.NodeName == now.Spec.NodeName && apiequality.Semantic.DeepEqual(old.Spec.Tolerations, now.Spec.Tolerations) {
			return
		}
		e.consider(v, obj, enqueue)
	}
}

func noExecute(node *corev1.Node) (out []corev1.Taint) {
	if node == nil {
		return nil
	}
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			out = append(out, t)
		}
	}
	return out
}

func (e *eviction) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	pod, ok := client.Get[*corev1.Pod](v, key.Namespace, key.Name)
	if !ok {
		e.cancel(key)
		return controller.Result{}, nil
	}
	if pod.DeletionTimestamp != nil {
		e.pending.forget(key)
		e.seen.forget(pod.UID)
		return controller.Result{}, nil
	}
	node, ok := nodeOf(v, pod.Spec.NodeName)
	var found []corev1.Taint
	if ok {
		found = noExecute(node)
	}
	if len(found) == 0 {
		e.seen.forget(pod.UID)
		e.cancel(key)
		return controller.Result{}, nil
	}
	tolerated, after := tolerates(found, pod.Spec.Tolerations)
	if tolerated && after < 0 {
		e.cancel(key)
		return controller.Result{}, nil
	}
	now := e.Now()
	if left := e.begin(pod, found, now).Add(after).Sub(now); after > 0 && left > 0 {
		e.pending.first(key, now)
		return controller.Result{After: left}, nil
	}
	return controller.Result{}, e.evict(ctx, pod, key)
}

// begin returns when the toleration of a pod began. Stored times are truncated to the second: the time counts from the next one, so
// that no pod is deleted too early.
func (e *eviction) begin(pod *corev1.Pod, found []corev1.Taint, now time.Time) time.Time {
	begin := time.Time{}
	for _, t := range found {
		at := e.seen.first(pod.UID, now)
		if t.TimeAdded != nil {
			at = earlier(at, t.TimeAdded.Add(time.Second))
		}
		if begin.IsZero() {
			begin = at
		}
		begin = earlier(begin, at)
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionTrue && c.LastTransitionTime.After(begin) {
			begin = c.LastTransitionTime.Time
		}
	}
	return begin
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// tolerates says whether every taint is tolerated, and for how long at least: for each taint the first toleration that matches
// counts, as upstream; negative means forever.
func tolerates(taints []corev1.Taint, tolerations []corev1.Toleration) (all bool, after time.Duration) {
	after = -1
	for i := range taints {
		tolerated := false
		for j := range tolerations {
			t := &tolerations[j]
			if !t.ToleratesTaint(klog.Background(), &taints[i], true) {
				continue
			}
			tolerated = true
			if t.TolerationSeconds != nil {
				seconds := time.Duration(max(*t.TolerationSeconds, 0)) * time.Second
				if after < 0 || seconds < after {
					after = seconds
				}
			}
			break
		}
		if !tolerated {
			return false, 0
		}
	}
	return true, after
}

func (e *eviction) cancel(key controller.Key) {
	if e.pending.forget(key) {
		e.tell(key, "Cancelling deletion of Pod %s")
	}
}

func (e *eviction) tell(key controller.Key, format string) {
	e.Recorder.Eventf(&corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Name: key.Name, Namespace: key.Namespace},
		corev1.EventTypeNormal, "TaintManagerEviction", format, key.String())
}

func (e *eviction) evict(ctx context.Context, pod *corev1.Pod, key controller.Key) error {
	err := disrupt(ctx, e.Client, pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", false)
	if err == nil {
		e.tell(key, "Marking for deletion Pod %s")
		err = e.Client.Delete(ctx, pod, client.IfUID(pod.UID))
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("evict pod %s: %w", key, err)
	}
	e.pending.forget(key)
	e.seen.forget(pod.UID)
	return nil
}

// disrupt records in a pod's status that the cluster ends it and, if failed is true, that it has failed.
func disrupt(ctx context.Context, c *client.Client, pod *corev1.Pod, reason, message string, failed bool) error {
	changed := pod.DeepCopy()
	if reason != "" {
		client.SetPodCondition(changed, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message,
			LastTransitionTime: metav1.Now(), ObservedGeneration: pod.Generation})
	}
	if failed {
		changed.Status.Phase, changed.Status.ObservedGeneration = corev1.PodFailed, pod.Generation
	}
	_, err := client.UpdateStatus(ctx, c, changed)
	return err
}
