// Package persistentvolume binds claims to volumes.
//
// A binding is two pointers, which are set in this order: the volume's spec.claimRef, which also reserves the volume, and the claim's
// spec.volumeName. Each is stored on the condition that the object has not changed; whatever is missing after a crash is added by the
// next reconciliation of either object. The annotation bind-completed on the claim says that both were set, so a pointer that is
// missing then has been lost. Volumes that a claim's class wants to have provisioned are made by external provisioners, which are
// asked by an annotation.
//
// Claims of classes that wait for the first consumer are bound by the scheduler: it sets claimRef, or the annotation selected-node;
// this controller then completes the binding.
package persistentvolume

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	storage "k8s.io/component-helpers/storage/volume"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

type reconciler struct {
	client   *client.Client
	recorder record.EventRecorder
}

// New returns the controller. Its keys are those of claims, which have a namespace, and of volumes, which have none.
func New(c *client.Client, recorder record.EventRecorder) *controller.Controller {
	r := &reconciler{c, recorder}
	return &controller.Controller{
		Name: "persistentvolume-binder", Watches: []client.Object{&corev1.PersistentVolume{}, &corev1.PersistentVolumeClaim{}, &storagev1.StorageClass{}, &corev1.Node{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(volume *corev1.PersistentVolume) bool { enqueue(controller.KeyOf(volume)); return true })
			client.Each(v, "", func(claim *corev1.PersistentVolumeClaim) bool { enqueue(controller.KeyOf(claim)); return true })
		},
		Enqueue: r.enqueue,
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			if key.Namespace == "" {
				return controller.Result{}, r.syncVolume(ctx, v, key.Name)
			}
			return controller.Result{}, r.syncClaim(ctx, v, key)
		},
	}
}

// volumes finds the volumes that a claim may get: those that are reserved for it, and those of its class that are not reserved.
var volumes = client.NewIndex(func(volume *corev1.PersistentVolume, add func(string)) {
	if ref := volume.Spec.ClaimRef; ref != nil {
		add(claimKey(ref.Namespace, ref.Name))
	} else {
		add(classKey(storage.GetPersistentVolumeClass(volume)))
	}
})

// claims finds claims by the volume that they name, and those that name none by their class and the node that was selected for them.
var claims = client.NewIndex(func(claim *corev1.PersistentVolumeClaim, add func(string)) {
	switch {
	case claim.Spec.VolumeName != "":
		add(volumeKey(claim.Spec.VolumeName))
	case !bound(claim):
		add(classKey(storage.GetPersistentVolumeClaimClass(claim)))
		if node := claim.Annotations[storage.AnnSelectedNode]; node != "" {
			add(nodeKey(node))
		}
	}
})

func claimKey(namespace, name string) string { return "claim " + namespace + "/" + name }
func classKey(name string) string            { return "class " + name }
func volumeKey(name string) string           { return "volume " + name }
func nodeKey(name string) string             { return "node " + name }

// bound says whether a claim's binding was completed.
func bound(claim *corev1.PersistentVolumeClaim) bool {
	return metav1.HasAnnotation(claim.ObjectMeta, storage.AnnBindCompleted)
}

// waitingPods finds pods that are not scheduled by the claims that they name.
var waitingPods = client.NewIndex(func(pod *corev1.Pod, add func(string)) {
	if pod.Spec.NodeName != "" {
		return
	}
	for i := range pod.Spec.Volumes {
		if claim := claimName(pod, &pod.Spec.Volumes[i]); claim != "" {
			add(claimKey(pod.Namespace, claim))
		}
	}
})

func (r *reconciler) enqueue(v client.View, event client.Event, enqueue func(controller.Key)) {
	switch obj := event.Object().(type) {
	case *corev1.PersistentVolumeClaim:
		enqueue(controller.KeyOf(obj))
		for _, o := range []client.Object{event.Old, event.New} {
			if claim, ok := o.(*corev1.PersistentVolumeClaim); ok && claim.Spec.VolumeName != "" {
				enqueue(controller.Key{Name: claim.Spec.VolumeName})
			}
		}
		for _, volume := range volumes.Any(v, claimKey(obj.Namespace, obj.Name)) {
			enqueue(controller.KeyOf(volume))
		}
	case *corev1.PersistentVolume:
		enqueue(controller.KeyOf(obj))
		for _, claim := range claims.Any(v, volumeKey(obj.Name)) {
			enqueue(controller.KeyOf(claim))
		}
		if ref := obj.Spec.ClaimRef; ref != nil {
			enqueue(controller.Key{Namespace: ref.Namespace, Name: ref.Name})
		} else if obj.Status.Phase == corev1.VolumeAvailable && event.New != nil {
			r.enqueueWaiting(v, obj, enqueue)
		}
	case *corev1.Node:
		if event.New == nil {
			for _, claim := range claims.Any(v, nodeKey(obj.Name)) {
				enqueue(controller.KeyOf(claim))
			}
		}
	case *storagev1.StorageClass:
		for _, claim := range claims.Any(v, classKey(obj.Name), classKey("")) {
			enqueue(controller.KeyOf(claim))
		}
	}
}

// enqueueWaiting enqueues the claims that wait for such a volume.
func (r *reconciler) enqueueWaiting(v client.View, volume *corev1.PersistentVolume, enqueue func(controller.Key)) {
	for _, claim := range claims.Any(v, classKey(storage.GetPersistentVolumeClass(volume))) {
		if match, err := match(claim, []*corev1.PersistentVolume{volume}, false); err == nil && match != nil {
			enqueue(controller.KeyOf(claim))
		}
	}
}
