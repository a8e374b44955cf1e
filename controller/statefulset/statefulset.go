// Package statefulset runs StatefulSets: pods with ordinals, each with a name, a host name and claims of its own that outlive it.
//
// The rules are upstream's (k8s.io/kubernetes/pkg/controller/statefulset). A pod's name contains its ordinal, and the next pod of
// that name is created only when the previous one is gone from the API, which happens when its node has confirmed its end: so an
// ordinal never runs twice at once, whatever happens to nodes, masters and this controller.
package statefulset

import (
	"context"
	"errors"
	"regexp"
	"strings"
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
	"github.com/kontiki/kontiki/controller/history"
	"github.com/kontiki/kontiki/controller/owned"
	"github.com/kontiki/kontiki/controller/pods"
)

var gvk = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

type reconciler struct {
	client   *client.Client
	recorder record.EventRecorder
	now      func() time.Time
}

// New returns the controller.
func New(c *client.Client, recorder record.EventRecorder) *controller.Controller {
	return newController(c, recorder, time.Now)
}

func newController(c *client.Client, recorder record.EventRecorder, now func() time.Time) *controller.Controller {
	r := &reconciler{c, recorder, now}
	return &controller.Controller{
		Name:    "statefulset",
		Watches: []client.Object{&appsv1.StatefulSet{}, &appsv1.ControllerRevision{}, &corev1.Pod{}, &corev1.PersistentVolumeClaim{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(set *appsv1.StatefulSet) bool {
				enqueue(controller.KeyOf(set))
				return true
			})
		},
		Enqueue: enqueue, Reconcile: r.reconcile, Workers: 5,
	}
}

func enqueue(v client.View, event client.Event, add func(controller.Key)) {
	switch obj := event.Object().(type) {
	case *appsv1.StatefulSet:
		add(controller.KeyOf(obj))
	case *corev1.PersistentVolumeClaim:
		if event.New == nil { // a pod may wait for the end of the claim of its predecessor
			enqueueByClaim(v, obj, add)
		}
	default:
		owned.Enqueue(event, gvk.Kind, add, func(orphan client.Object) {
			for _, set := range bySelector.Any(v, client.SelectorKeys(orphan.GetNamespace(), orphan.GetLabels())...) {
				if selectorOf(set).Matches(labels.Set(orphan.GetLabels())) {
					add(controller.KeyOf(set))
				}
			}
		})
	}
}

// ordinalSuffix matches the end of the names of pods and claims.
var ordinalSuffix = regexp.MustCompile("^(.*)-([0-9]+)$")

// enqueueByClaim enqueues the sets that may have made a claim, by its name: TEMPLATE-SET-ORDINAL.
func enqueueByClaim(v client.View, claim *corev1.PersistentVolumeClaim, add func(controller.Key)) {
	parts := ordinalSuffix.FindStringSubmatch(claim.Name)
	if parts == nil {
		return
	}
	for rest := parts[1]; ; {
		template, set, ok := strings.Cut(rest, "-")
		if !ok {
			return
		}
		if _, exists := client.Get[*appsv1.StatefulSet](v, claim.Namespace, set); exists && template != "" {
			add(controller.Key{Namespace: claim.Namespace, Name: set})
		}
		rest = set
	}
}

// bySelector finds sets by their selectors.
var bySelector = client.NewIndex(func(set *appsv1.StatefulSet, add func(string)) {
	add(client.SelectorKey(set.Namespace, selectorOf(set)))
})

func selectorOf(set *appsv1.StatefulSet) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || selector.Empty() {
		return labels.Nothing() // validation refuses such a selector
	}
	return selector
}

func (r *reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	set, ok := client.Get[*appsv1.StatefulSet](v, key.Namespace, key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	u := &update{reconciler: r, ctx: ctx, set: set, at: r.now()}
	owner := owned.Owner{Object: set, Kind: gvk, Selector: selectorOf(set)}
	revisions, err := history.Claim(ctx, r.client, v, owner)
	if err != nil {
		return controller.Result{}, err
	}
	claimed, err := pods.ClaimAll(ctx, r.client, v, owner, func(pod *corev1.Pod) bool { return isMember(set, pod) })
	if err != nil {
		return controller.Result{}, err
	}
	if wait := configrollout.Pending(set, &set.Spec.Template, u.at); len(revisions)+len(claimed) == 0 && wait > 0 {
		return controller.Result{After: wait}, nil
	}
	if err := u.findRevisions(owner, revisions); err != nil {
		return controller.Result{}, endsWithNamespace(err)
	}
	u.sort(claimed)
	err = errors.Join(u.run(), u.writeStatus(), u.truncate(revisions, claimed))
	return controller.Result{After: u.nextAvailable}, endsWithNamespace(err)
}

// endsWithNamespace drops an error that means that the namespace, and so the set, is being deleted.
func endsWithNamespace(err error) error {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}
