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
	// Namespaces returns the namespaces that have counters.
	Namespaces(view kv.View) []string
	// Follow calls changed with the quotas (namespace/name) whose counters have changed after a revision.
	Follow(ctx context.Context, after uint64, changed func(quotas []string)) error
}

// showPause is how long changes of counters are gathered before the status follows: a status costs a write.
const showPause = 200 * time.Millisecond

// New returns the controller. A key without a name stands for all counters of its namespace.
func New(c *client.Client, counters Counters) *controller.Controller {
	r := reconciler{c, counters}
	return &controller.Controller{
		Name:    "resourcequota",
		Watches: []client.Object{&corev1.ResourceQuota{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			for _, namespace := range counters.Namespaces(v.View) {
				enqueue(controller.Key{Namespace: namespace})
			}
			client.Each(v, "", func(q *corev1.ResourceQuota) bool {
				enqueue(controller.Key{Namespace: q.Namespace})
				enqueue(controller.KeyOf(q))
				return true
			})
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			before, _ := event.Old.(*corev1.ResourceQuota)
			after, _ := event.New.(*corev1.ResourceQuota)
			if before == nil || after == nil || !apiequality.Semantic.DeepEqual(before.Spec, after.Spec) {
				enqueue(controller.Key{Namespace: event.Object().GetNamespace()})
			}
			enqueue(controller.KeyOf(event.Object()))
		},
		Source:    r.follow,
		Reconcile: r.reconcile,
	}
}

type reconciler struct {
	client   *client.Client
	counters Counters
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
		view := r.client.View()
		client.Each(view, "", func(q *corev1.ResourceQuota) bool { // their counters may have changed before this view
			enqueue(controller.KeyOf(q))
			return true
		})
		err := r.counters.Follow(ctx, view.Revision(), func(quotas []string) {
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
	if key.Name == "" {
		return controller.Result{}, r.counters.Mend(ctx, key.Namespace)
	}
	q, ok := client.Get[*corev1.ResourceQuota](v, key.Namespace, key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	status, counted := r.counters.Status(v.View, q)
	if !counted { // the correction enqueues it again
		return controller.Result{}, nil
	}
	if apiequality.Semantic.DeepEqual(status, q.Status) {
		return controller.Result{}, nil
	}
	shown := q.DeepCopy()
	shown.Status = status
	_, err := client.UpdateStatus(ctx, r.client, shown)
	return controller.Result{}, err
}
