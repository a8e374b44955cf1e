// Package namespace carries out the deletion of namespaces: it deletes the content of a terminating namespace, reports in
// conditions what blocks the deletion, and removes the namespace once it is empty.
//
// The conditions and their messages are upstream's (k8s.io/kubernetes/pkg/controller/namespace/deletion), since people read them
// when a namespace is stuck. Nothing is estimated or polled: each object that disappears from a terminating namespace enqueues the
// namespace again.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// New returns the controller. extensions may be nil.
func New(c *client.Client, extensions *Extensions) *controller.Controller {
	r := &reconciler{c, extensions}
	ctl := &controller.Controller{
		Name:     "namespace",
		WatchAll: func(kind *client.Kind) bool { return kind.Namespaced || isNamespace(kind.GVK()) },
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(ns *corev1.Namespace) bool {
				if ns.DeletionTimestamp != nil {
					enqueue(controller.Key{Name: ns.Name})
				}
				return true
			})
			for _, name := range absent(c, v) {
				enqueue(controller.Key{Name: name})
			}
		},
		Enqueue: enqueue, Reconcile: r.reconcile, Workers: 10,
	}
	if extensions != nil {
		ctl.Source = func(ctx context.Context, enqueue func(controller.Key)) error {
			return extensions.follow(ctx, c, enqueue)
		}
	}
	return ctl
}

// absent returns the namespaces that contain objects but do not exist: a creation that was decided before its namespace began to
// terminate may be applied until the namespace is gone.
func absent(c *client.Client, v client.View) (names []string) {
	for _, kind := range c.Kinds() {
		if !kind.Namespaced {
			continue
		}
		last := ""
		_ = v.EachMeta(kind, "", func(obj *client.Metadata) bool { // what cannot be decoded is found when its namespace is emptied
			if ns := obj.GetNamespace(); ns != last {
				last = ns
				if _, ok := client.Get[*corev1.Namespace](v, "", ns); !ok && !slices.Contains(names, ns) {
					names = append(names, ns)
				}
			}
			return true
		})
	}
	return names
}

// enqueue enqueues terminating namespaces: when they change, when an object in them changes in a way that affects how long it
// stays, and once more after they are removed.
func enqueue(v client.View, event client.Event, enqueue func(controller.Key)) {
	if obj := event.Object(); isNamespace(obj.GetObjectKind().GroupVersionKind()) {
		if event.New == nil || obj.GetDeletionTimestamp() != nil {
			enqueue(controller.Key{Name: obj.GetName()})
		}
		return
	}
	if event.Old != nil && event.New != nil && slices.Equal(event.Old.GetFinalizers(), event.New.GetFinalizers()) {
		return
	}
	name := event.Object().GetNamespace()
	if ns, ok := client.Get[*corev1.Namespace](v, "", name); ok && ns.DeletionTimestamp != nil {
		enqueue(controller.Key{Name: name})
	}
}

func isNamespace(gvk schema.GroupVersionKind) bool { return gvk.Group == "" && gvk.Kind == "Namespace" }

type reconciler struct {
	client     *client.Client
	extensions *Extensions
}

func (r *reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	ns, ok := client.Get[*corev1.Namespace](v, "", key.Name)
	if !ok {
		_, failures := r.empty(ctx, v, key.Name, func(schema.GroupResource) bool { return true })
		return controller.Result{}, errors.Join(failures...)
	}
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return controller.Result{}, nil
	}
	// Pods first: they may need the other objects until they end.
	found := newContent()
	var unknown error
	elsewhere := 0 // objects whose removal is no event
	failed := found.add(r.empty(ctx, v, key.Name, func(r schema.GroupResource) bool { return r == corev1.Resource("pods") }))
	if found.total == 0 && len(failed) == 0 {
		failed = found.add(r.empty(ctx, v, key.Name, func(r schema.GroupResource) bool { return r != corev1.Resource("pods") }))
		if r.extensions != nil {
			left, failures, missing := r.extensions.empty(ctx, key.Name)
			failed = append(failed, found.add(left, failures)...)
			elsewhere, unknown = left.total, missing
		}
	}
	conditions := found.conditions(failed, unknown)
	if changed := ns.DeepCopy(); setConditions(&changed.Status, conditions) {
		updated, err := client.UpdateStatus(ctx, r.client, changed)
		if err != nil {
			return controller.Result{}, ignoreNotFound(err)
		}
		ns = updated
	}
	if err := errors.Join(append(failed, unknown)...); err != nil {
		return controller.Result{}, err
	}
	if found.total > 0 {
		after := time.Duration(0) // the removal of objects enqueues the namespace again
		if elsewhere > 0 {
			after = lookAgain
		}
		return controller.Result{After: after}, nil
	}
	done := ns.DeepCopy()
	done.Spec.Finalizers = slices.DeleteFunc(done.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err := client.UpdateSubresource(ctx, r.client, done, "finalize")
	return controller.Result{}, ignoreNotFound(err)
}

// empty deletes the objects of the wanted kinds that are in a namespace in the view, and returns what then remains. In the view the
// namespace is terminating or absent: in a later one it may have been created again, with other objects.
func (r *reconciler) empty(ctx context.Context, v client.View, namespace string, wanted func(schema.GroupResource) bool) (left *content, failures []error) {
	for _, kind := range r.client.Kinds() {
		if !kind.Namespaced || !wanted(kind.GroupResource()) {
			continue
		}
		var doomed []*client.Metadata
		if err := v.EachMeta(kind, namespace, func(obj *client.Metadata) bool {
			if obj.GetDeletionTimestamp() == nil {
				doomed = append(doomed, obj)
			}
			return true
		}); err != nil {
			failures = append(failures, err)
		}
		err := controller.Each(doomed, func(obj *client.Metadata) error {
			// Background: everything in the namespace is deleted anyway, in any order.
			err := r.client.DeleteRef(ctx, kind, obj.GetNamespace(), obj.GetName(), client.IfUID(obj.GetUID()), client.Propagation(metav1.DeletePropagationBackground))
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return nil // gone or replaced: the count below shows what remains
			}
			return err
		})
		if err != nil {
			failures = append(failures, fmt.Errorf("delete the %s of namespace %s: %w", kind.GroupResource(), namespace, err))
		}
	}
	left = newContent()
	v = r.client.View()
	for _, kind := range r.client.Kinds() {
		if kind.Namespaced && wanted(kind.GroupResource()) {
			if err := v.EachMeta(kind, namespace, func(obj *client.Metadata) bool {
				left.count(kind.GroupResource(), obj)
				return true
			}); err != nil {
				failures = append(failures, err)
			}
		}
	}
	return left, failures
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
