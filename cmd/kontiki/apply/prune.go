package apply

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// prunable are the kinds that are searched for objects to prune: kubectl's own list, in the order in which they are deleted.
var prunable = []schema.GroupKind{
	{Group: "networking.k8s.io", Kind: "Ingress"}, {Group: "apps", Kind: "Deployment"}, {Group: "apps", Kind: "StatefulSet"}, {Group: "apps", Kind: "DaemonSet"},
	{Group: "batch", Kind: "CronJob"}, {Group: "batch", Kind: "Job"}, {Group: "apps", Kind: "ReplicaSet"}, {Kind: "ReplicationController"}, {Kind: "Pod"},
	{Kind: "Service"}, {Kind: "Endpoints"}, {Kind: "ConfigMap"}, {Kind: "Secret"}, {Kind: "PersistentVolumeClaim"},
}

// lastApplied is the annotation of objects that kubectl's client-side apply has applied.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// applied says whether an object was created by applying it, or by rolling back its deletion. Objects that controllers create from
// a release's objects, such as the Endpoints of a Service, have the same labels, but must not be pruned because of them.
func (r *run) applied(u *unstructured.Unstructured) bool {
	if _, by := u.GetAnnotations()[lastApplied]; by {
		return true
	}
	return slices.ContainsFunc(u.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool {
		return m.Subresource == "" && (m.Operation == metav1.ManagedFieldsOperationApply || m.Manager == r.FieldManager)
	})
}

// findPruned adds the objects that were applied, that match the selector and that are not in the manifests, in the namespaces of
// the manifests. Objects of controllers are deleted with their owners.
func (r *run) findPruned(ctx context.Context) error {
	var namespaces []string
	kept := map[string]bool{}
	known := map[string]bool{}
	for _, t := range r.targets {
		kept[t.namespace+"/"+t.String()] = true
		if t.namespace != "" && !known[t.namespace] {
			known[t.namespace] = true
			namespaces = append(namespaces, t.namespace)
		}
	}
	for _, kind := range prunable {
		mapping, err := r.mapper.RESTMapping(kind)
		if meta.IsNoMatchError(err) {
			continue // this kind is not served
		}
		if err != nil {
			return err
		}
		for _, namespace := range namespaces {
			list, err := r.dynamic.Resource(mapping.Resource).Namespace(namespace).List(ctx, metav1.ListOptions{LabelSelector: r.Selector})
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return fmt.Errorf("look for %s to prune: %w", mapping.Resource.Resource, err)
			}
			for i := range list.Items {
				object := &list.Items[i]
				t := &target{object: object, before: object, mapping: mapping, namespace: namespace, pruned: true}
				if kept[namespace+"/"+t.String()] || metav1.GetControllerOfNoCopy(object) != nil || object.GetDeletionTimestamp() != nil || !r.applied(object) {
					continue
				}
				object.SetGroupVersionKind(mapping.GroupVersionKind)
				r.targets = append(r.targets, t)
			}
		}
	}
	return nil
}
