// Package owned finds the objects that controllers own. A controller owns the objects whose owner reference says so; it adopts
// orphans that match its selector, and releases objects that no longer match.
package owned

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// Index finds objects of a kind by the UID of their controller, and orphans by their namespace and labels.
type Index[T client.Object] struct{ *client.Index[T] }

const orphan = "orphan " // distinguishes the keys of orphans from UIDs

// NewIndex defines an index, usually a package variable.
func NewIndex[T client.Object]() Index[T] {
	return Index[T]{client.NewIndex(func(obj T, add func(string)) {
		if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
			add(string(ref.UID))
			return
		}
		for _, key := range client.SelectorKeys(obj.GetNamespace(), obj.GetLabels()) {
			add(orphan + key)
		}
	})}
}

// Controlled returns the objects that any of the owners controls, as of the view or later. They are shared and read-only.
func (x Index[T]) Controlled(v client.View, owners ...types.UID) []T {
	keys := make([]string, len(owners))
	for i, uid := range owners {
		keys[i] = string(uid)
	}
	return x.Any(v, keys...)
}

// Owner is a controller that owns objects.
type Owner struct {
	client.Object
	Kind     schema.GroupVersionKind
	Selector labels.Selector
}

// Rules refine which objects an owner claims; nil functions allow all.
type Rules[T client.Object] struct {
	// Member says whether an object may be the owner's, beyond its labels.
	Member func(T) bool
	// Change says whether an object may be adopted or released. An object that is being deleted is never adopted.
	Change func(T) bool
}

// Claim returns the objects that the owner controls, which are shared and read-only: matching ones that it already controls, and
// matching orphans, which it adopts. It releases objects that no longer match. An owner that is being deleted adopts and releases
// nothing. Objects that it could not adopt are missing in the result, and the error is the first failure.
func (x Index[T]) Claim(ctx context.Context, c *client.Client, v client.View, owner Owner, rules Rules[T]) (claimed []T, failed error) {
	deleted := owner.GetDeletionTimestamp() != nil
	for _, obj := range x.Any(v, string(owner.GetUID()), orphan+client.SelectorKey(owner.GetNamespace(), owner.Selector)) {
		ref := metav1.GetControllerOfNoCopy(obj)
		if ref != nil && ref.UID != owner.GetUID() {
			continue
		}
		matches := owner.Selector.Matches(labels.Set(obj.GetLabels())) && (rules.Member == nil || rules.Member(obj))
		switch may := rules.Change == nil || rules.Change(obj); {
		case ref != nil && matches:
			claimed = append(claimed, obj)
		case deleted || !may:
		case ref != nil:
			failed = keep(failed, release(ctx, c, obj, owner))
		case matches && obj.GetDeletionTimestamp() == nil:
			adopted, err := adopt(ctx, c, obj, owner)
			if err == nil {
				claimed = append(claimed, adopted)
			}
			failed = keep(failed, err)
		}
	}
	return claimed, failed
}

// keep returns the first error, ignoring that an object disappeared meanwhile.
func keep(first, err error) error {
	if first != nil || err == nil || apierrors.IsNotFound(err) {
		return first
	}
	return err
}

func adopt[T client.Object](ctx context.Context, c *client.Client, obj T, owner Owner) (T, error) {
	changed := obj.DeepCopyObject().(T)
	changed.SetOwnerReferences(append(changed.GetOwnerReferences(), *metav1.NewControllerRef(owner, owner.Kind)))
	adopted, err := client.Update(ctx, c, changed)
	if err != nil {
		return adopted, fmt.Errorf("adopt %s %s: %w", kindOf(c, obj), obj.GetName(), err)
	}
	return adopted, nil
}

func release[T client.Object](ctx context.Context, c *client.Client, obj T, owner Owner) error {
	changed := obj.DeepCopyObject().(T)
	changed.SetOwnerReferences(slices.DeleteFunc(changed.GetOwnerReferences(), func(ref metav1.OwnerReference) bool { return ref.UID == owner.GetUID() }))
	if _, err := client.Update(ctx, c, changed); err != nil {
		return fmt.Errorf("release %s %s: %w", kindOf(c, obj), obj.GetName(), err)
	}
	return nil
}

func kindOf(c *client.Client, obj client.Object) string { return strings.ToLower(c.KindOf(obj).Kind) }

// Enqueue enqueues the controllers of a kind that an event of an object of theirs concerns: those that controlled it before or
// control it now. If it has no controller, orphaned is called to enqueue those that might adopt it.
func Enqueue(event client.Event, kind string, enqueue func(controller.Key), orphaned func(client.Object)) {
	owned := false
	var last controller.Key
	for _, obj := range []client.Object{event.Old, event.New} {
		if obj == nil {
			continue
		}
		ref := metav1.GetControllerOfNoCopy(obj)
		if ref == nil {
			continue
		}
		owned = true
		if key := (controller.Key{Namespace: obj.GetNamespace(), Name: ref.Name}); ref.Kind == kind && key != last {
			enqueue(key)
			last = key
		}
	}
	if !owned && event.New != nil {
		orphaned(event.New)
	}
}
