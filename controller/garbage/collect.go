package garbage

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// collect deletes an object that no owner holds any more; if one does, the references to absent owners are removed.
func (gc *collector) collect(ctx context.Context, v client.View, it *item, obj *client.Metadata) error {
	refs := obj.GetOwnerReferences()
	if len(refs) == 0 {
		return nil
	}
	var holding, lost int
	var waits bool
	var drop []types.UID
	for _, ref := range refs {
		switch state, _ := gc.owner(v, it, ref); state {
		case unknown:
			return nil // unknown is not absent
		case solid:
			holding++
		case dangling:
			lost++
			drop = append(drop, ref.UID)
		case waiting:
			waits = true
			drop = append(drop, ref.UID)
		}
	}
	switch {
	case holding > 0 && len(drop) == 0:
		return nil
	case holding > 0:
		// Owners that wait for their dependents must not wait for an object that is kept.
		return gc.update(ctx, obj, func(changed *client.Metadata) {
			changed.SetOwnerReferences(slices.DeleteFunc(changed.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return slices.Contains(drop, r.UID) }))
		})
	case waits && len(gc.graph.dependents(it.uid)) > 0:
		return gc.collectForeground(ctx, it, obj)
	}
	policy := metav1.DeletePropagationBackground
	switch {
	case slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan
	case slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents):
		policy = metav1.DeletePropagationForeground
	}
	return gc.delete(ctx, obj, policy)
}

// collectForeground deletes a dependent that has dependents of its own, for an owner in foreground deletion.
func (gc *collector) collectForeground(ctx context.Context, it *item, obj *client.Metadata) error {
	for _, d := range gc.graph.dependents(it.uid) {
		if !d.foreground {
			continue
		}
		// There may be a cycle, in which all would wait for each other. So the object no longer blocks the deletion of its owners.
		err := gc.update(ctx, obj, func(changed *client.Metadata) {
			refs, no := changed.GetOwnerReferences(), false
			for i := range refs {
				refs[i].BlockOwnerDeletion = &no
			}
			changed.SetOwnerReferences(refs)
		})
		if err != nil {
			return err
		}
		fresh, ok, err := gc.client.View().Meta(it.kind, it.namespace, it.name)
		if err != nil || !ok {
			return err
		}
		obj = fresh
		break
	}
	return gc.delete(ctx, obj, metav1.DeletePropagationForeground)
}

// delete deletes exactly the object that was examined: if it has got another owner meanwhile, it is examined again.
func (gc *collector) delete(ctx context.Context, obj *client.Metadata, policy metav1.DeletionPropagation) error {
	kind, err := gc.kindOf(obj)
	if err != nil {
		return err
	}
	revision := obj.GetResourceVersion()
	err = gc.client.DeleteRef(ctx, kind, obj.GetNamespace(), obj.GetName(), client.IfUID(obj.GetUID()), client.Propagation(policy),
		func(o *metav1.DeleteOptions) { o.Preconditions.ResourceVersion = &revision })
	if err != nil {
		return fmt.Errorf("collect %s/%s: %w", obj.GetNamespace(), obj.GetName(), err)
	}
	return nil
}

// awaitDependents finishes an owner's foreground deletion once no dependent blocks it; those that do are enqueued.
func (gc *collector) awaitDependents(ctx context.Context, v client.View, owner *client.Metadata) error {
	blocking := 0
	for _, d := range gc.graph.dependents(owner.GetUID()) {
		for _, ref := range d.refs {
			if ref.UID != owner.GetUID() || ref.BlockOwnerDeletion == nil || !*ref.BlockOwnerDeletion {
				continue
			}
			blocking++
		}
	}
	if blocking > 0 {
		return nil // each was enqueued when the deletion began, and its removal enqueues the owner
	}
	return gc.removeFinalizer(ctx, owner, metav1.FinalizerDeleteDependents)
}

// orphan removes an owner from its dependents' references, and then finishes its deletion.
func (gc *collector) orphan(ctx context.Context, owner *client.Metadata) error {
	uid := owner.GetUID()
	err := controller.Each(gc.graph.dependents(uid), func(d *item) error {
		obj, ok, err := gc.client.View().Meta(d.kind, d.namespace, d.name)
		if err != nil {
			return err
		}
		if !ok || obj.GetUID() != d.uid {
			return nil
		}
		err = gc.update(ctx, obj, func(changed *client.Metadata) {
			changed.SetOwnerReferences(slices.DeleteFunc(changed.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == uid }))
		})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("orphan the dependents of %s/%s: %w", owner.GetNamespace(), owner.GetName(), err)
	}
	return gc.removeFinalizer(ctx, owner, metav1.FinalizerOrphanDependents)
}

func (gc *collector) removeFinalizer(ctx context.Context, obj *client.Metadata, finalizer string) error {
	return gc.update(ctx, obj, func(changed *client.Metadata) {
		changed.SetFinalizers(slices.DeleteFunc(slices.Clone(changed.GetFinalizers()), func(f string) bool { return f == finalizer }))
	})
}

// update changes an object as it was examined; on a conflict it is examined again.
func (gc *collector) update(ctx context.Context, obj *client.Metadata, change func(*client.Metadata)) error {
	changed := obj.DeepCopy()
	change(changed)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": obj.UID, "resourceVersion": obj.ResourceVersion, "finalizers": changed.Finalizers, "ownerReferences": changed.OwnerReferences,
	}})
	if err != nil {
		return err
	}
	kind, err := gc.kindOf(obj)
	if err != nil {
		return err
	}
	return gc.client.PatchRef(ctx, kind, obj.Namespace, obj.Name, patch)
}
