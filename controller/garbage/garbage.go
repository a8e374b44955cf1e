// Package garbage deletes objects whose owners are all gone, and carries out foreground deletion and orphaning.
//
// The rules are upstream's (k8s.io/kubernetes/pkg/controller/garbagecollector), but more is known here: upstream has one watch per
// kind, and so must keep nodes for objects that it has not seen yet and ask the API for them. Here the changes of all kinds come in
// one order, and the graph is the state of the store at one revision. An object gets its UID when it is created, so an owner that
// is not in a view which contains the dependent does not exist.
//
// The graph contains only edges: the cost of a deletion depends on the number of dependents of the deleted object.
package garbage

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

type collector struct {
	client   *client.Client
	recorder record.EventRecorder
	graph    *graph
}

// New returns the controller. Its keys are UIDs.
func New(c *client.Client, recorder record.EventRecorder) *controller.Controller {
	return newCollector(c, recorder).controller()
}

func newCollector(c *client.Client, recorder record.EventRecorder) *collector {
	return &collector{client: c, recorder: recorder, graph: newGraph()}
}

func (gc *collector) controller() *controller.Controller {
	return &controller.Controller{
		Name: "garbagecollector", WatchAll: watched, Workers: 20,
		Start: gc.start, Enqueue: gc.enqueue, Reconcile: gc.reconcile,
	}
}

// watched says whether objects of a kind can own and be owned. Events cannot, with upstream neither.
func watched(kind *client.Kind) bool { return kind.GroupResource() != corev1.Resource("events") }

func key(uid types.UID) controller.Key { return controller.Key{Name: string(uid)} }

// start builds the graph. If the collector fell behind the history it starts again: the new graph describes the present state,
// whatever was missed.
func (gc *collector) start(v client.View, enqueue func(controller.Key)) {
	fresh := newGraph()
	for _, kind := range gc.client.Kinds() {
		if !watched(kind) {
			continue
		}
		err := v.EachMeta(kind, "", func(obj *client.Metadata) bool {
			fresh.put(kind, obj)
			return true
		})
		if err != nil {
			panic(err) // without all edges, what has owners could look as if it had none: start again
		}
	}
	gc.graph.mu.Lock()
	gc.graph.items, gc.graph.owners = fresh.items, fresh.owners
	items := values(fresh.items)
	gc.graph.mu.Unlock()
	for _, it := range items {
		if it.foreground || it.orphaning || gc.doubtful(v, it) {
			enqueue(key(it.uid))
		}
	}
}

func (gc *collector) enqueue(v client.View, event client.Event, enqueue func(controller.Key)) {
	if event.New == nil {
		dependents, refs := gc.graph.remove(event.Old)
		for _, d := range dependents {
			enqueue(key(d.uid))
		}
		gc.enqueueWaiting(refs, enqueue)
		return
	}
	if event.Old != nil && sameEdges(event.Old, event.New) {
		return // like most changes
	}
	kind, err := gc.kindOf(event.New)
	if err != nil {
		return
	}
	now, before := gc.graph.put(kind, event.New)
	refsChanged := before == nil || !apiequality.Semantic.DeepEqual(before.refs, now.refs)
	if refsChanged && before != nil {
		gc.enqueueWaiting(before.refs, enqueue) // it may no longer block their deletion
	}
	if refsChanged && gc.doubtful(v, now) {
		enqueue(key(now.uid))
	}
	begins := func(is, was bool) bool { return is && !was }
	if begins(now.orphaning, before != nil && before.orphaning) {
		enqueue(key(now.uid))
	}
	if begins(now.foreground, before != nil && before.foreground) {
		enqueue(key(now.uid))
		for _, d := range gc.graph.dependents(now.uid) {
			enqueue(key(d.uid))
		}
	}
}

// sameEdges says whether a change does not affect ownership.
func sameEdges(a, b client.Object) bool {
	return (a.GetDeletionTimestamp() == nil) == (b.GetDeletionTimestamp() == nil) && slices.Equal(a.GetFinalizers(), b.GetFinalizers()) &&
		apiequality.Semantic.DeepEqual(a.GetOwnerReferences(), b.GetOwnerReferences())
}

// enqueueWaiting enqueues those owners that wait for their dependents.
func (gc *collector) enqueueWaiting(refs []metav1.OwnerReference, enqueue func(controller.Key)) {
	for _, ref := range refs {
		if owner := gc.graph.get(ref.UID); owner != nil && owner.foreground {
			enqueue(key(owner.uid))
		}
	}
}

// kindOf returns the kind of an object. The error is NotFound if its definition is gone, and so the object.
func (gc *collector) kindOf(obj client.Object) (*client.Kind, error) {
	gvk := obj.GetObjectKind().GroupVersionKind()
	kind, ok := gc.client.KindNamed(gvk.GroupKind())
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, obj.GetName())
	}
	return kind, nil
}

// doubtful says whether an item has an owner that may not hold it, so that it must be examined.
func (gc *collector) doubtful(v client.View, it *item) bool {
	for _, ref := range it.refs {
		if state, _ := gc.owner(v, it, ref); state != solid && state != unknown {
			return true
		}
	}
	return false
}

type ownerState int

const (
	solid    ownerState = iota // it exists
	dangling                   // it does not
	waiting                    // it exists, and waits for its dependents to be deleted
	unknown                    // cannot be determined: its kind is not served, or it cannot own the item
)

// owner returns the state of the owner that a reference names, and its object if it exists.
func (gc *collector) owner(v client.View, it *item, ref metav1.OwnerReference) (ownerState, *client.Metadata) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return unknown, nil
	}
	kind, ok := gc.client.KindNamed(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	if !ok {
		return unknown, nil
	}
	if kind.Namespaced && it.namespace == "" {
		gc.report(v, it, ref, kind)
		return unknown, nil
	}
	obj, ok, err := v.Meta(kind, it.namespace, ref.Name)
	if err != nil {
		return unknown, nil
	}
	if !ok || obj.GetUID() != ref.UID {
		if kind.Namespaced {
			gc.report(v, it, ref, kind)
		}
		return dangling, nil
	}
	if obj.GetDeletionTimestamp() != nil && slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents) {
		return waiting, obj
	}
	return solid, obj
}

// report records an event about a reference to an owner in another namespace, which is not possible.
func (gc *collector) report(v client.View, it *item, ref metav1.OwnerReference, kind *client.Kind) {
	if !gc.graph.search(ref.UID) {
		return
	}
	elsewhere := false
	now := gc.client.View()
	client.Each(now, "", func(ns *corev1.Namespace) bool {
		obj, ok, _ := now.Meta(kind, ns.Name, ref.Name)
		elsewhere = ok && obj.GetUID() == ref.UID
		return !elsewhere
	})
	if !elsewhere {
		return
	}
	gvk := it.kind.GVK()
	gc.recorder.Eventf(&corev1.ObjectReference{Kind: gvk.Kind, APIVersion: gvk.GroupVersion().String(), Namespace: it.namespace, Name: it.name, UID: it.uid},
		corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef %s does not exist in namespace %q",
		fmt.Sprintf("[%s/%s, namespace: %s, name: %s, uid: %s]", ref.APIVersion, ref.Kind, it.namespace, ref.Name, ref.UID), it.namespace)
}

func (gc *collector) reconcile(ctx context.Context, v client.View, k controller.Key) (controller.Result, error) {
	it := gc.graph.get(types.UID(k.Name))
	if it == nil {
		return controller.Result{}, nil
	}
	obj, ok, err := v.Meta(it.kind, it.namespace, it.name)
	if err != nil {
		return controller.Result{}, err
	}
	if !ok || obj.GetUID() != it.uid {
		return controller.Result{}, nil // its removal is about to be delivered
	}
	deleting := obj.GetDeletionTimestamp() != nil
	switch {
	case deleting && slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents):
		err = gc.orphan(ctx, obj)
	case deleting && slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents):
		err = gc.awaitDependents(ctx, v, obj)
	case deleting: // its removal will follow; its dependents are examined then
	default:
		err = gc.collect(ctx, v, it, obj)
	}
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return controller.Result{}, err
}
