package bootstrap

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/internal/localpath"
)

// classMade is the annotation of the namespace kube-system that says that the cluster's first StorageClass was created.
const classMade = "kontiki.io/storage-class-created"

const isDefaultClass = "storageclass.kubernetes.io/is-default-class"

// NewStorageClass returns the controller of the StorageClass local-path. It is created once in the life of a cluster: whoever changes or
// deletes it keeps that. It is the default class, unless the cluster has another one by then.
func NewStorageClass(c *client.Client) *controller.Controller {
	system := controller.Key{Name: metav1.NamespaceSystem}
	return &controller.Controller{
		Name:    "storageclass",
		Watches: []client.Object{&corev1.Namespace{}},
		Start:   func(_ client.View, enqueue func(controller.Key)) { enqueue(system) },
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			if controller.KeyOf(event.Object()) == system && event.Old == nil {
				enqueue(system)
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			namespace, ok := client.Get[*corev1.Namespace](v, "", key.Name)
			if !ok || metav1.HasAnnotation(namespace.ObjectMeta, classMade) {
				return controller.Result{}, nil
			}
			if _, err := client.Create(ctx, c, storageClass(v)); ignoreExists(err) != nil {
				return controller.Result{}, err
			}
			changed := namespace.DeepCopy()
			metav1.SetMetaDataAnnotation(&changed.ObjectMeta, classMade, localpath.Class)
			_, err := client.Update(ctx, c, changed)
			return controller.Result{}, err
		},
	}
}

func storageClass(v client.View) *storagev1.StorageClass {
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: localpath.Class}, Provisioner: localpath.Provisioner,
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer), ReclaimPolicy: ptr.To(corev1.PersistentVolumeReclaimDelete), AllowVolumeExpansion: ptr.To(true)}
	other := false
	client.Each(v, "", func(c *storagev1.StorageClass) bool {
		other = other || c.Annotations[isDefaultClass] == "true"
		return true
	})
	if !other {
		class.Annotations = map[string]string{isDefaultClass: "true"}
	}
	return class
}
