// Package quota shows in the status of ResourceQuotas what their counters say, and has the counters corrected when a quota is created or
// changed, and whenever the controller starts. The counters themselves are changed by the writes that they count.
package quota

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/pause"
)

// Counters are the counters of quotas.
type Counters interface {
	// Mend makes the counters of a namespace's quotas equal to what exists.
	Mend(ctx context.Context, namespace string) error
	// Status returns a quota's status according to its counters; ok is false while they have not been counted.
	Status(view kv.View, q *corev1.ResourceQuota) (status corev1.ResourceQuotaStatus, ok bool)
	// Release subtracts what a stuck pod uses from the counters, if it is stuck by now (StuckAt).
	Release(ctx context.Context, namespace, pod string, now time.Time) error
	// Namespaces returns the namespaces that have counters.
	Namespaces(view kv.View) []string
	// Follow calls changed with the quotas (namespace/name) whose counters have changed after a revision.
	Follow(ctx context.Context, after uint64, changed func(quotas []string)) error
}

// showPause is how long changes of counters are gathered before the status follows: a status costs a write.
const showPause = 200 * time.Millisecond

// podPrefix begins the names of the keys of pods that are being deleted.
const podPrefix = "pod/"

// Config has the parameters of the controller.
type Config struct {
	Client   *client.Client
	Counters Counters
	// StuckAt returns when a pod that is being deleted counts as stuck.
	StuckAt func(*corev1.Pod) (time.Time, bool)
	// Now defaults to the wall clock.
	Now func() time.Time
}

// New returns the controller. A key without a name stands for all counters of its namespace.
func New(config Config) *controller.Controller {
	if config.Now == nil {
		config.Now = time.Now
	}
	r := reconciler{config}
	counters := config.Counters
	return &controller.Controller{
		Name:    "resourcequota",
		Watches: []client.Object{&corev1.ResourceQuota{}, &corev1.Pod{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			for _, namespace := range counters.Namespaces(v.View) {
				enqueue(controller.Key{Namespace: namespace})
			}
			client.Each(v, "", func(q *corev1.ResourceQuota) bool {
				enqueue(controller.Key{Namespace: q.Namespace})
				enqueue(controller.KeyOf(q))
				r.terminating(v, q.Namespace, enqueue)
				return true
			})
		},
		Enqueue: func(v client.View, event client.Event, enqueue func(controller.Key)) {
			if pod, ok := event.Object().(*corev1.Pod); ok {
				if _, terminating := config.StuckAt(pod); terminating && event.New != nil {
					enqueue(controller.Key{Namespace: pod.Namespace, Name: podPrefix + pod.Name})
				}
				return
			}
			before, _ := event.Old.(*corev1.ResourceQuota)
			after, _ := event.New.(*corev1.ResourceQuota)
			if before == nil || after == nil || !apiequality.Semantic.DeepEqual(before.Spec, after.Spec) {
				enqueue(controller.Key{Namespace: event.Object().GetNamespace()})
				r.terminating(v, event.Object().GetNamespace(), enqueue)
			}
			enqueue(controller.KeyOf(event.Object()))
		},
		Source:    r.follow,
		Reconcile: r.reconcile,
	}
}

type reconciler struct{ Config }

// terminating enqueues the pods of a namespace that are being deleted.
func (r reconciler) terminating(v client.View, namespace string, enqueue func(controller.Key)) {
	client.Each(v, namespace, func(pod *corev1.Pod) bool {
		if _, terminating := r.StuckAt(pod); terminating {
			enqueue(controller.Key{Namespace: namespace, Name: podPrefix + pod.Name})
		}
		return true
	})
}

// pod releases what a pod uses once it is stuck.
func (r reconciler) pod(ctx context.Context, v client.View, namespace, name string) (controller.Result, error) {
	pod, ok := client.Get[*corev1.Pod](v, namespace, name)
	if !ok {
		return controller.Result{}, nil
	}
	at, terminating := r.StuckAt(pod)
	if !terminating {
		return controller.Result{}, nil
	}
	if now := r.Now(); now.Before(at) {
		return controller.Result{After: at.Sub(now)}, nil
	}
	return controller.Result{}, r.Counters.Release(ctx, namespace, name, r.Now())
}

// follow enqueues the quotas whose counters have changed, gathered for a moment.
func (r reconciler) follow(ctx context.Context, enqueue func(controller.Key)) error {
	var (
		mu       sync.Mutex
		gathered = map[string]bool{}
		wake     = make(chan struct{}, 1)
		wg       sync.WaitGroup
	)
	ctx, cancel := context.WithCancel(ctx)
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		for {
			select {
			case <-wake:
			case <-ctx.Done():
				return
			}
			mu.Lock()
			now := gathered
			gathered = map[string]bool{}
			mu.Unlock()
			for quota := range now {
				namespace, name, _ := strings.Cut(quota, "/")
				enqueue(controller.Key{Namespace: namespace, Name: name})
			}
			if !pause.For(ctx, showPause) {
				return
			}
		}
	})
	for {
		view := r.Client.View()
		client.Each(view, "", func(q *corev1.ResourceQuota) bool { // their counters may have changed before this view
			enqueue(controller.KeyOf(q))
			return true
		})
		err := r.Counters.Follow(ctx, view.Revision(), func(quotas []string) {
			mu.Lock()
			for _, quota := range quotas {
				gathered[quota] = true
			}
			mu.Unlock()
			select {
			case wake <- struct{}{}:
			default:
			}
		})
		if !errors.Is(err, kv.ErrCompacted) {
			return err
		}
	}
}

func (r reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	if name, isPod := strings.CutPrefix(key.Name, podPrefix); isPod {
		return r.pod(ctx, v, key.Namespace, name)
	}
	if key.Name == "" {
		return controller.Result{}, r.Counters.Mend(ctx, key.Namespace)
	}
	q, ok := client.Get[*corev1.ResourceQuota](v, key.Namespace, key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	status, counted := r.Counters.Status(v.View, q)
	if !counted { // the correction enqueues it again
		return controller.Result{}, nil
	}
	if apiequality.Semantic.DeepEqual(status, q.Status) {
		return controller.Result{}, nil
	}
	shown := q.DeepCopy()
	shown.Status = status
	_, err := client.UpdateStatus(ctx, r.Client, shown)
	return controller.Result{}, err
}
