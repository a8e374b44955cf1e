package undelete

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/retry"

	"github.com/kontiki/kontiki/cmd/kontiki/apply"
)

const manager = "kontiki-undelete"

// clean returns a deleted object as it is to be created: without what belongs to the earlier one alone. Its fields keep their owners
// until managedFields of the new object are set (owned).
func clean(old *unstructured.Unstructured) *unstructured.Unstructured {
	c := apply.Fresh(old)
	c.SetFinalizers(slices.DeleteFunc(c.GetFinalizers(), func(f string) bool {
		return f == metav1.FinalizerDeleteDependents || f == metav1.FinalizerOrphanDependents
	}))
	switch c.GroupVersionKind().GroupKind() {
	case schema.GroupKind{Kind: "Namespace"}:
		unstructured.RemoveNestedField(c.Object, "spec", "finalizers")
	case schema.GroupKind{Kind: "Pod"}:
		unstructured.RemoveNestedField(c.Object, "spec", "nodeName")
		unstructured.RemoveNestedField(c.Object, "spec", "ephemeralContainers")
	case schema.GroupKind{Kind: "PersistentVolumeClaim"}:
		without(c, "metadata", "annotations", "pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller", "volume.kubernetes.io/selected-node")
	case schema.GroupKind{Group: "batch", Kind: "Job"}:
		if by, _, _ := unstructured.NestedBool(c.Object, "spec", "manualSelector"); !by {
			// The API generates them from the UID.
			unstructured.RemoveNestedField(c.Object, "spec", "selector")
			labels := []string{"controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"}
			without(c, "metadata", "labels", labels...)
			template, _, _ := unstructured.NestedMap(c.Object, "spec", "template")
			t := &unstructured.Unstructured{Object: template}
			without(t, "metadata", "labels", labels...)
			_ = unstructured.SetNestedMap(c.Object, t.Object, "spec", "template")
		}
	}
	return c
}

// without removes keys of a map of strings.
func without(u *unstructured.Unstructured, in, field string, keys ...string) {
	m, found, err := unstructured.NestedStringMap(u.Object, in, field)
	if !found || err != nil {
		return
	}
	maps.DeleteFunc(m, func(key, _ string) bool { return slices.Contains(keys, key) })
	if len(m) == 0 {
		unstructured.RemoveNestedField(u.Object, in, field)
		return
	}
	_ = unstructured.SetNestedStringMap(u.Object, m, in, field)
}

// create creates an object again.
func (r *run) create(ctx context.Context, i *item, old *unstructured.Unstructured) error {
	gv, err := schema.ParseGroupVersion(i.APIVersion)
	if err != nil {
		return err
	}
	var in dynamic.ResourceInterface = r.dynamic.Resource(gv.WithResource(i.Resource))
	if i.Namespaced {
		in = r.dynamic.Resource(gv.WithResource(i.Resource)).Namespace(i.Namespace)
	}
	if r.All {
		switch _, err := in.Get(ctx, i.Name, metav1.GetOptions{}); {
		case err == nil:
			fmt.Fprintf(r.Out, "%s exists\n", i)
			return nil
		case !apierrors.IsNotFound(err):
			return err
		}
	}
	if r.DryRun && i.Namespaced && r.newNamespaces[i.Namespace] {
		fmt.Fprintf(r.Out, "%s not tried: its namespace does not exist yet\n", i)
		return nil
	}
	fresh := clean(old)
	if err := r.owners(ctx, i, fresh); err != nil {
		return err
	}
	claim := gv.WithResource(i.Resource) == corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims")
	volume := (*unstructured.Unstructured)(nil)
	if claim {
		if volume, err = r.volumeOf(ctx, i, fresh, old.GetUID()); err != nil {
			return err
		}
	}
	options, done := metav1.CreateOptions{FieldManager: manager}, "undeleted"
	if r.DryRun {
		options.DryRun, done = []string{metav1.DryRunAll}, "undeleted (server dry run)"
	}
	created, err := in.Create(ctx, fresh, options)
	if err != nil {
		return err
	}
	fmt.Fprintf(r.Out, "%s %s\n", i, done)
	if r.DryRun {
		if i.Resource == "namespaces" && i.Group == "" {
			r.newNamespaces[i.Name] = true
		}
		return nil
	}
	if volume != nil {
		if err := r.rebind(ctx, volume, old.GetUID(), created.GetUID()); err != nil {
			fmt.Fprintf(r.Err, "warning: %s: the volume %s could not be given to the new claim: %v\n", i, volume.GetName(), err)
		}
	}
	if err := r.owned(ctx, in, created, old); err != nil {
		fmt.Fprintf(r.Err, "warning: %s: the owners of its fields could not be restored: %v\n", i, err)
	}
	return nil
}

// owned gives the fields of an object the owners that they had, so that whoever applied it can apply it again without conflicts.
func (r *run) owned(ctx context.Context, in dynamic.ResourceInterface, created, old *unstructured.Unstructured) error {
	if len(old.GetManagedFields()) == 0 {
		return nil
	}
	now := created
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if now == nil { // controllers change what was created: a claim is bound, a status is written
			var err error
			if now, err = in.Get(ctx, created.GetName(), metav1.GetOptions{}); err != nil {
				return err
			}
			if now.GetUID() != created.GetUID() {
				return nil
			}
		}
		c := now.DeepCopy()
		now = nil
		c.SetManagedFields(old.GetManagedFields())
		unstructured.RemoveNestedField(c.Object, "status")
		body, err := json.Marshal(map[string]any{"fieldManager": manager, "operations": []any{map[string]any{"update": c.Object, "keepManagedFields": true}}})
		if err != nil {
			return err
		}
		return r.discovery.RESTClient().Post().AbsPath("/kontiki/v1/transactions").SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Error()
	})
}

// owners replaces owner references of objects that were deleted: an owner that was brought back has another UID, and a reference to one
// that does not exist would get the object deleted again.
func (r *run) owners(ctx context.Context, i *item, u *unstructured.Unstructured) error {
	var kept []metav1.OwnerReference
	for _, ref := range u.GetOwnerReferences() {
		owner, err := r.owner(ctx, i, ref)
		switch {
		case apierrors.IsNotFound(err):
			fmt.Fprintf(r.Err, "warning: %s: its owner %s %q does not exist; it is brought back without this owner\n", i, ref.Kind, ref.Name)
			continue
		case err != nil:
			return fmt.Errorf("read its owner %s %q: %w", ref.Kind, ref.Name, err)
		}
		ref.UID = owner.GetUID()
		kept = append(kept, ref)
	}
	u.SetOwnerReferences(kept)
	return nil
}

func (r *run) owner(ctx context.Context, i *item, ref metav1.OwnerReference) (*unstructured.Unstructured, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, err
	}
	mapping, err := r.mapper.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, gv.Version)
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == "namespace" {
		return r.dynamic.Resource(mapping.Resource).Namespace(i.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	}
	return r.dynamic.Resource(mapping.Resource).Get(ctx, ref.Name, metav1.GetOptions{})
}

var volumes = corev1.SchemeGroupVersion.WithResource("persistentvolumes")

// volumeOf returns the volume that a deleted claim had, if it is still there for it. If it is not, the new claim gets another one, as it
// could never be bound otherwise.
func (r *run) volumeOf(ctx context.Context, i *item, claim *unstructured.Unstructured, uid types.UID) (*unstructured.Unstructured, error) {
	name, _, _ := unstructured.NestedString(claim.Object, "spec", "volumeName")
	if name == "" {
		return nil, nil
	}
	volume, err := r.dynamic.Resource(volumes).Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("read its volume %q: %w", name, err)
	}
	if err == nil && volume.GetDeletionTimestamp() == nil {
		if of, _, _ := unstructured.NestedString(volume.Object, "spec", "claimRef", "uid"); of == string(uid) || of == "" {
			return volume, nil
		}
	}
	fmt.Fprintf(r.Err, "warning: %s: its volume %s and the data on it are gone, or belong to another claim; the claim gets another volume\n", i, name)
	unstructured.RemoveNestedField(claim.Object, "spec", "volumeName")
	return nil, nil
}

// rebind gives a volume, which still refers to the deleted claim, to the new one.
func (r *run) rebind(ctx context.Context, volume *unstructured.Unstructured, old, now types.UID) error {
	if of, _, _ := unstructured.NestedString(volume.Object, "spec", "claimRef", "uid"); of != string(old) {
		return nil // it refers to no claim, or to any of this name
	}
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/spec/claimRef/uid", "value": old},
		{"op": "replace", "path": "/spec/claimRef/uid", "value": now},
	})
	if err != nil {
		return err
	}
	_, err = r.dynamic.Resource(volumes).Patch(ctx, volume.GetName(), types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: manager})
	return err
}
