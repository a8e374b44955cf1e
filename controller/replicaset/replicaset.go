// Package replicaset maintains the number of pods of ReplicaSets and ReplicationControllers. Both use one algorithm; a kind is what
// differs.
package replicaset

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/owned"
	"github.com/kontiki/kontiki/controller/pods"
)

// burst limits how many pods one reconciliation creates or deletes, as upstream does.
const burst = 500

// set is the part of a ReplicaSet or ReplicationController that the algorithm uses.
type set struct {
	client.Object
	selector labels.Selector
	template *corev1.PodTemplateSpec
	replicas int32
	minReady int32
}

// status is the result of the algorithm.
type status struct {
	replicas, fullyLabeled, ready, available, terminating int32
	// failure says why pods could not be created or deleted; empty if they could.
	failureReason, failure string
}

// kind has the differences between the two kinds.
type kind struct {
	name  string
	gvk   schema.GroupVersionKind
	empty client.Object
	get   func(v client.View, key controller.Key) (set, bool)
	each  func(v client.View, visit func(set) bool)
	// find returns the sets that have one of the keys by SelectorKey.
	find func(v client.View, keys []string) []set
	// update stores the status if it differs.
	update func(ctx context.Context, c *client.Client, s set, st status) error
}

type reconciler struct {
	kind
	client  *client.Client
	control pods.Control
	now     func() time.Time
}

func newController(k kind, c *client.Client, recorder record.EventRecorder) *controller.Controller {
	r := &reconciler{k, c, pods.Control{Client: c, Recorder: recorder}, time.Now}
	return &controller.Controller{
		Name: k.name, Watches: []client.Object{k.empty, &corev1.Pod{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			k.each(v, func(s set) bool {
				enqueue(controller.KeyOf(s))
				return true
			})
		},
		Enqueue: r.enqueue, Reconcile: r.reconcile, Workers: 5,
	}
}

func (r *reconciler) enqueue(v client.View, event client.Event, enqueue func(controller.Key)) {
	if _, ok := event.Object().(*corev1.Pod); !ok {
		enqueue(controller.KeyOf(event.Object()))
		return
	}
	owned.Enqueue(event, r.gvk.Kind, enqueue, func(orphan client.Object) {
		for _, s := range r.find(v, client.SelectorKeys(orphan.GetNamespace(), orphan.GetLabels())) {
			if s.selector.Matches(labels.Set(orphan.GetLabels())) {
				enqueue(controller.KeyOf(s))
			}
		}
	})
}

func (r *reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	s, ok := r.get(v, key)
	if !ok {
		return controller.Result{}, nil
	}
	claimed, claimErr := pods.Claim(ctx, r.client, v, s, r.gvk, s.selector)
	if claimErr != nil {
		return controller.Result{}, claimErr
	}
	var active []*corev1.Pod
	st := status{}
	for _, pod := range claimed {
		switch {
		case pods.Active(pod):
			active = append(active, pod)
		case !pods.Finished(pod):
			st.terminating++
		}
	}
	var manageErr error
	if s.GetDeletionTimestamp() == nil {
		if st.failureReason, manageErr = r.manage(ctx, v, s, active); manageErr != nil {
			st.failure = manageErr.Error()
		}
	}
	result := r.count(s, active, &st)
	if err := r.update(ctx, r.client, s, st); err != nil && !apierrors.IsNotFound(err) {
		return result, err
	}
	return result, manageErr
}

// count fills in the status, and returns when the next pod becomes available.
func (r *reconciler) count(s set, active []*corev1.Pod, st *status) (result controller.Result) {
	templateLabels := labels.Set(s.template.Labels).AsSelectorPreValidated()
	now := r.now()
	for _, pod := range active {
		st.replicas++
		if templateLabels.Matches(labels.Set(pod.Labels)) {
			st.fullyLabeled++
		}
		if pods.Ready(pod) {
			st.ready++
			available, after := pods.Available(pod, s.minReady, now)
			if available {
				st.available++
			} else if result.After == 0 || after < result.After {
				result.After = after
			}
		}
	}
	return result
}

// manage creates or deletes pods until their number is right. reason is set if err is.
func (r *reconciler) manage(ctx context.Context, v client.View, s set, active []*corev1.Pod) (reason string, err error) {
	surplus := len(active) - int(s.replicas)
	switch {
	case surplus < 0:
		_, err := pods.SlowStart(make([]struct{}, min(-surplus, burst)), func(struct{}) error {
			return r.control.Create(ctx, s.Object, pods.FromTemplate(s.template, s, r.gvk))
		})
		return "FailedCreate", err
	case surplus > 0:
		return "FailedDelete", controller.Each(choose(v, s, active, min(surplus, burst), r.now()), func(pod *corev1.Pod) error {
			return r.control.Delete(ctx, s.Object, pod)
		})
	}
	return "", nil
}
