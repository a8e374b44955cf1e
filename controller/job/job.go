// Package job runs the pods of Jobs until enough of them have succeeded, or too many have failed.
//
// A Job counts exactly: every pod has the finalizer batch.kubernetes.io/job-tracking, so that it cannot disappear before it is
// counted. A finished pod is counted in three steps, each of which can be repeated after a crash: its UID is added to the status
// (uncountedTerminatedPods, or its completion index to completedIndexes), its finalizer is removed, and its UID is replaced by an
// increment of the counter.
//
// What a Job costs grows with its changes: pods that were counted are not visited again, and a Job with many pods is synchronized
// less often, so that one synchronization covers the changes of many pods.
package job

import (
	"context"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/pods"
)

var controllerKind = batchv1.SchemeGroupVersion.WithKind("Job")

// Limits of one synchronization, as upstream has them: so the status stays small, and large Jobs do not starve others.
const (
	maxCreateDelete = 500
	maxUncounted    = 500
)

// Config has the dependencies and the settings of the controller.
type Config struct {
	Client   *client.Client
	Recorder record.EventRecorder
	// Now is the clock; nil means the real one.
	Now func() time.Time
	// A pod that failed is replaced after FirstBackoff, then after twice as long with each failure, up to LongestBackoff; 0 means 10 s
	// and 10 min.
	FirstBackoff, LongestBackoff time.Duration
}

type reconciler struct {
	Config
	control  pods.Control
	backoffs backoffs
	pace     pace
}

// New returns the controllers of Jobs and of pods that a Job no longer tracks.
func New(config Config) []*controller.Controller {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.FirstBackoff == 0 {
		config.FirstBackoff, config.LongestBackoff = 10*time.Second, 10*time.Minute
	}
	r := &reconciler{Config: config, control: pods.Control{Client: config.Client, Recorder: config.Recorder}}
	return []*controller.Controller{
		{
			Name: "job", Watches: []client.Object{&batchv1.Job{}, &corev1.Pod{}}, Workers: 5,
			Start: func(v client.View, enqueue func(controller.Key)) {
				client.Each(v, "", func(j *batchv1.Job) bool {
					enqueue(controller.KeyOf(j))
					return true
				})
			},
			Enqueue: r.enqueue, Reconcile: r.reconcile,
		},
		newUntracked(config.Client),
	}
}

// jobsBySelector finds Jobs that may adopt an orphan.
var jobsBySelector = client.NewIndex(func(j *batchv1.Job, add func(string)) {
	add(client.SelectorKey(j.Namespace, selectorOf(j)))
})

func selectorOf(j *batchv1.Job) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	if err != nil || selector.Empty() {
		return labels.Nothing() // validation refuses such a selector
	}
	return selector
}

func (r *reconciler) enqueue(v client.View, event client.Event, enqueue func(controller.Key)) {
	if _, ok := event.Object().(*corev1.Pod); !ok {
		enqueue(controller.KeyOf(event.Object()))
		return
	}
	owned := false
	for _, obj := range []client.Object{event.Old, event.New} {
		if obj == nil {
			continue
		}
		if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
			owned = true
			if isJob(ref) {
				enqueue(controller.Key{Namespace: obj.GetNamespace(), Name: ref.Name})
			}
		}
	}
	if owned || event.New == nil {
		return
	}
	// An orphan concerns every Job that might adopt it.
	for _, j := range jobsBySelector.Any(v, client.SelectorKeys(event.New.GetNamespace(), event.New.GetLabels())...) {
		if selectorOf(j).Matches(labels.Set(event.New.GetLabels())) {
			enqueue(controller.KeyOf(j))
		}
	}
}

func isJob(ref *metav1.OwnerReference) bool {
	return ref.Kind == controllerKind.Kind && ref.APIVersion == batchv1.SchemeGroupVersion.String()
}

func (r *reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	stored, ok := client.Get[*batchv1.Job](v, key.Namespace, key.Name)
	if !ok || finished(stored) {
		r.backoffs.forget(key)
		r.pace.forget(key)
		return controller.Result{}, nil
	}
	if managedElsewhere(stored) {
		return controller.Result{}, nil
	}
	if wait := r.pace.wait(key); wait > 0 {
		return controller.Result{After: wait}, nil
	}
	s, err := r.look(ctx, v, key, stored.DeepCopy())
	if err != nil {
		return controller.Result{}, err
	}
	if err := s.sync(ctx); err != nil {
		return controller.Result{}, err
	}
	r.pace.next(key, len(s.members))
	return controller.Result{After: s.after}, nil
}

// managedElsewhere says whether another controller than this one is responsible for a Job.
func managedElsewhere(j *batchv1.Job) bool {
	return j.Spec.ManagedBy != nil && *j.Spec.ManagedBy != batchv1.JobControllerName
}

func finished(j *batchv1.Job) bool {
	return isTrue(j.Status.Conditions, batchv1.JobComplete) || isTrue(j.Status.Conditions, batchv1.JobFailed)
}

func suspended(j *batchv1.Job) bool { return ptr.Deref(j.Spec.Suspend, false) }

func indexed(j *batchv1.Job) bool {
	return j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
}

// replacesOnlyFailed says whether a pod is replaced only once it has ended, and not already when it is being deleted.
func replacesOnlyFailed(j *batchv1.Job) bool {
	return j.Spec.PodReplacementPolicy != nil && *j.Spec.PodReplacementPolicy == batchv1.Failed
}
