// Package deployment rolls out Deployments: it creates a ReplicaSet for each template and moves pods from the old ones to the new
// one, all at once (Recreate) or keeping enough of them available (RollingUpdate).
//
// The rules are upstream's (k8s.io/kubernetes/pkg/controller/deployment), as users and their tools know them: revisions and desired
// sizes are annotations of the ReplicaSets, scaling during a roll-out is proportional, a roll-out without progress for
// progressDeadlineSeconds is reported in a condition, and old ReplicaSets are kept for roll-backs.
package deployment

import (
	"context"
	"errors"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/configrollout"
	"github.com/kontiki/kontiki/controller/owned"
)

var gvk = appsv1.SchemeGroupVersion.WithKind("Deployment")

type reconciler struct {
	client   *client.Client
	recorder record.EventRecorder
	now      func() time.Time
}

// New returns the controller.
func New(c *client.Client, recorder record.EventRecorder) *controller.Controller {
	r := &reconciler{c, recorder, time.Now}
	return &controller.Controller{
		Name:    "deployment",
		Watches: []client.Object{&appsv1.Deployment{}, &appsv1.ReplicaSet{}, &corev1.Pod{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(d *appsv1.Deployment) bool {
				enqueue(controller.KeyOf(d))
				return true
			})
		},
		Enqueue:   r.enqueue,
		Reconcile: r.reconcile,
		Workers:   5,
	}
}

func (r *reconciler) enqueue(v client.View, event client.Event, enqueue func(controller.Key)) {
	switch obj := event.Object().(type) {
	case *appsv1.Deployment:
		enqueue(controller.KeyOf(obj))
	case *appsv1.ReplicaSet:
		owned.Enqueue(event, gvk.Kind, enqueue, func(orphan client.Object) {
			for _, d := range bySelector.Any(v, client.SelectorKeys(orphan.GetNamespace(), orphan.GetLabels())...) {
				if selectorOf(d).Matches(labels.Set(orphan.GetLabels())) {
					enqueue(controller.KeyOf(d))
				}
			}
		})
	case *corev1.Pod:
		// Only the end of a pod matters beyond its ReplicaSet's status: Recreate waits for it.
		if event.New != nil && obj.Status.Phase != corev1.PodFailed && obj.Status.Phase != corev1.PodSucceeded {
			return
		}
		if ref := metav1.GetControllerOfNoCopy(obj); ref != nil && ref.Kind == "ReplicaSet" {
			if rs, ok := client.Get[*appsv1.ReplicaSet](v, obj.Namespace, ref.Name); ok {
				if owner := metav1.GetControllerOfNoCopy(rs); owner != nil && owner.Kind == gvk.Kind {
					enqueue(controller.Key{Namespace: obj.Namespace, Name: owner.Name})
				}
			}
		}
	}
}

// bySelector finds deployments by their selectors.
var bySelector = client.NewIndex(func(d *appsv1.Deployment, add func(string)) { add(client.SelectorKey(d.Namespace, selectorOf(d))) })

func selectorOf(d *appsv1.Deployment) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || selector.Empty() {
		return labels.Nothing() // validation refuses such a selector
	}
	return selector
}

// rollout is one reconciliation of a deployment. Its objects are copies, updated with what is written.
type rollout struct {
	*reconciler
	ctx context.Context
	d   *appsv1.Deployment
	// sets are all ReplicaSets of the deployment, oldest first; current is the one of the present template (nil before it is
	// created), the others are old.
	sets    []*appsv1.ReplicaSet
	current *appsv1.ReplicaSet
	// oldRunning says whether a pod of an old set has not finished.
	oldRunning func() bool
}

func (r *reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	stored, ok := client.Get[*appsv1.Deployment](v, key.Namespace, key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	ro := &rollout{reconciler: r, ctx: ctx, d: stored.DeepCopy()}
	var err error
	if ro.sets, err = r.claim(ctx, v, stored); err != nil {
		return controller.Result{}, err
	}
	if wait := configrollout.Pending(ro.d, &ro.d.Spec.Template, r.now()); len(ro.sets) == 0 && wait > 0 {
		return controller.Result{After: wait}, nil
	}
	ro.findCurrent()
	ro.oldRunning = func() bool { return runningPods(v, ro.old()) }
	if ro.d.DeletionTimestamp != nil {
		return ro.syncStatus()
	}
	if ro.markPaused() {
		if ro.d, err = client.UpdateStatus(ctx, r.client, ro.d); err != nil {
			return controller.Result{}, err
		}
	}
	if revision, ok := ro.requestedRollback(); ok && !ro.d.Spec.Paused {
		return controller.Result{}, ro.rollBackTo(revision) // the change enqueues the deployment again
	}
	if !ro.d.Spec.Paused {
		if rolledBack, err := ro.rollBackByItself(); rolledBack || err != nil {
			return controller.Result{}, err
		}
	}
	switch {
	case ro.d.Spec.Paused:
		if err := ro.ensureRevision(false); err != nil {
			return controller.Result{}, err
		}
		if err := ro.scale(); err != nil {
			return controller.Result{}, err
		}
		if _, rollingBack := ro.requestedRollback(); !rollingBack {
			if err := ro.cleanUp(); err != nil {
				return controller.Result{}, err
			}
		}
		return ro.syncStatus()
	case ro.scaling():
		if err := ro.ensureRevision(false); err != nil {
			return controller.Result{}, err
		}
		if err := ro.scale(); err != nil {
			return controller.Result{}, err
		}
		return ro.syncStatus()
	case ro.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		err = ro.recreate()
	default:
		err = ro.roll()
	}
	if errors.Is(err, errNamespaceEnds) {
		return ro.syncStatus()
	}
	if err != nil {
		return controller.Result{}, err
	}
	if ro.complete(&ro.d.Status) {
		if err := ro.cleanUp(); err != nil {
			return controller.Result{}, err
		}
	}
	return ro.syncStatus()
}

// scaling says whether the deployment's size has changed since its sets were last resized.
func (ro *rollout) scaling() bool {
	for _, rs := range ro.active(ro.sets) {
		if desired, ok := annotationNumber(rs, desiredAnnotation); ok && desired != *ro.d.Spec.Replicas {
			return true
		}
	}
	return false
}

// recreate ends all old pods before it creates new ones.
func (ro *rollout) recreate() error {
	if err := ro.ensureRevision(false); err != nil {
		return err
	}
	scaled := false
	for _, rs := range ro.active(ro.old()) {
		if err := ro.resize(rs, 0); err != nil {
			return err
		}
		scaled = true
	}
	if scaled || ro.oldRunning() {
		return nil // the end of the pods enqueues the deployment again
	}
	if err := ro.ensureRevision(true); err != nil {
		return err
	}
	return ro.resize(ro.current, *ro.d.Spec.Replicas)
}

// roll creates new pods up to maxSurge above the size, and ends old ones down to maxUnavailable below it.
func (ro *rollout) roll() error {
	if err := ro.ensureRevision(true); err != nil {
		return err
	}
	if size := ro.newSize(ro.current); size != *ro.current.Spec.Replicas {
		return ro.resize(ro.current, size)
	}
	return ro.shrinkOld()
}

// newSize returns the largest size that the current set may have now.
func (ro *rollout) newSize(current *appsv1.ReplicaSet) int32 {
	want := *ro.d.Spec.Replicas
	have := int32(0)
	if current != nil {
		have = *current.Spec.Replicas
	}
	if ro.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || have > want {
		return want
	}
	surge, _ := ro.limits()
	room := want + surge
	for _, rs := range ro.sets {
		if rs.Generation > rs.Status.ObservedGeneration {
			return have // its number of pods is not known: its next status enqueues the deployment again
		}
		// A set that was scaled down counts with the pods that it still has. Upstream counts the desired sizes, and so creates new
		// pods before old ones are gone.
		room -= max(*rs.Spec.Replicas, rs.Status.Replicas)
	}
	if room <= 0 {
		return have
	}
	return have + min(room, want-have)
}

// available returns the number of pods of a set that are available and will be kept.
func available(rs *appsv1.ReplicaSet) int32 {
	return min(rs.Status.AvailableReplicas, *rs.Spec.Replicas)
}

// shrinkOld scales down old sets: unhealthy pods first, then as many as availability allows.
func (ro *rollout) shrinkOld() error {
	old := ro.active(ro.old())
	if len(old) == 0 {
		return nil
	}
	_, unavailable := ro.limits()
	floor := *ro.d.Spec.Replicas - unavailable
	budget := total(ro.sets) - floor - (*ro.current.Spec.Replicas - available(ro.current))
	if budget <= 0 {
		return nil
	}
	for i, rs := range old {
		broken := *rs.Spec.Replicas - available(rs)
		if budget <= 0 || broken <= 0 {
			continue
		}
		drop := min(budget, broken)
		if err := ro.resize(old[i], *rs.Spec.Replicas-drop); err != nil {
			return err
		}
		budget -= drop
	}
	spare := -floor
	for _, rs := range ro.sets {
		spare += available(rs)
	}
	for _, rs := range ro.active(ro.old()) {
		if spare <= 0 {
			return nil
		}
		drop := min(spare, *rs.Spec.Replicas)
		if err := ro.resize(rs, *rs.Spec.Replicas-drop); err != nil {
			return err
		}
		spare -= drop
	}
	return nil
}

// resize changes a set's size and records an event.
func (ro *rollout) resize(rs *appsv1.ReplicaSet, size int32) error {
	before := *rs.Spec.Replicas
	surge, _ := ro.limits()
	annotated := setSizes(rs, *ro.d.Spec.Replicas, *ro.d.Spec.Replicas+surge)
	if before == size && !annotated {
		return nil
	}
	rs.Spec.Replicas = &size
	updated, err := client.Update(ro.ctx, ro.client, rs.DeepCopy())
	if err != nil {
		return err
	}
	*rs = *updated.DeepCopy()
	if before != size {
		ro.tellScaled(rs, before, size)
	}
	return nil
}

func (ro *rollout) tellScaled(rs *appsv1.ReplicaSet, before, size int32) {
	way := "down"
	if size > before {
		way = "up"
	}
	ro.recorder.Eventf(ro.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", way, rs.Name, before, size)
}

// cleanUp deletes old sets beyond revisionHistoryLimit, the oldest revisions first.
func (ro *rollout) cleanUp() error {
	if ro.d.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	var idle []*appsv1.ReplicaSet
	for _, rs := range byRevision(ro.old()) {
		if rs.DeletionTimestamp == nil {
			idle = append(idle, rs)
		}
	}
	for i := range len(idle) - int(*ro.d.Spec.RevisionHistoryLimit) {
		rs := idle[i]
		if rs.Status.Replicas != 0 || *rs.Spec.Replicas != 0 || rs.Generation > rs.Status.ObservedGeneration {
			continue
		}
		if err := ro.client.Delete(ro.ctx, rs, client.IfUID(rs.UID)); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
