package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/api/objects"
)

// protectionFinalizers are those that keep an object while it is used. Controllers remove them (controller/storageprotection).
var protectionFinalizers = map[schema.GroupResource]string{
	claims:                               "kubernetes.io/pvc-protection",
	corev1.Resource("persistentvolumes"): "kubernetes.io/pv-protection",
	storagev1.Resource("volumeattributesclasses"): "kubernetes.io/vac-protection",
}

// storageObjectInUseProtection gives new claims, volumes and volume attributes classes the finalizers that keep them while they are used.
func storageObjectInUseProtection() objects.Step {
	return objects.Step{
		Name: "StorageObjectInUseProtection",
		Handles: func(a *objects.Attributes) bool {
			return a.Operation == objects.OpCreate && a.Subresource == "" && protectionFinalizers[a.Kind.GroupResource()] != ""
		},
		Mutate: func(_ context.Context, a *objects.Attributes) error {
			obj, finalizer := a.Object.(metav1.Object), protectionFinalizers[a.Kind.GroupResource()]
			if have := obj.GetFinalizers(); !slices.Contains(have, finalizer) {
				obj.SetFinalizers(append(have, finalizer))
			}
			return nil
		},
	}
}
