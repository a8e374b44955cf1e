// Package storageprotection removes the finalizers that admission (StorageObjectInUseProtection) gives to claims, volumes and volume
// attributes classes, once such an object is being deleted and nothing uses it any more. So storage does not vanish under a pod. It also sets
// the condition Unused of claims.
package storageprotection

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// The finalizers, as upstream names them.
const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
	classFinalizer  = "kubernetes.io/vac-protection"
)

// NewClaims returns the controller of claims: a claim is in use while a pod that has been scheduled names it. (A pod that has not been
// scheduled will not start with a claim that is being deleted.)
func NewClaims(c *client.Client) *controller.Controller {
	return &controller.Controller{
		Name:    "pvc-protection",
		Watches: []client.Object{&corev1.PersistentVolumeClaim{}, &corev1.Pod{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(claim *corev1.PersistentVolumeClaim) bool {
				enqueue(controller.KeyOf(claim))
				return true
			})
		},
		Enqueue: func(v client.View, event client.Event, enqueue func(controller.Key)) {
			pod, ok := event.Object().(*corev1.Pod)
			if !ok {
				if event.New != nil {
					enqueue(controller.KeyOf(event.New))
				}
				return
			}
			if old, ok := event.Old.(*corev1.Pod); ok && event.New != nil && hasEnded(old) == hasEnded(pod) && !isShutDown(pod) {
				return // it uses what it used before
			}
			for _, name := range claimsOf(pod) {
				enqueue(controller.Key{Namespace: pod.Namespace, Name: name})
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			claim, ok := client.Get[*corev1.PersistentVolumeClaim](v, key.Namespace, key.Name)
			if !ok {
				return controller.Result{}, nil
			}
			if err := noteUse(ctx, c, v, claim); err != nil {
				return controller.Result{}, err
			}
			if !isCandidate(claim, claimFinalizer) || claimInUse(v, claim) {
				return controller.Result{}, nil
			}
			return controller.Result{}, release(ctx, c, claim.DeepCopy(), claimFinalizer)
		},
	}
}

// NewVolumes returns the controller of volumes: a volume is in use while it is bound.
func NewVolumes(c *client.Client) *controller.Controller {
	return &controller.Controller{
		Name:    "pv-protection",
		Watches: []client.Object{&corev1.PersistentVolume{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			enqueueDeleted[*corev1.PersistentVolume](v, "", volumeFinalizer, enqueue)
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			enqueueIf(event.New, volumeFinalizer, enqueue)
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			volume, ok := client.Get[*corev1.PersistentVolume](v, "", key.Name)
			if !ok || !isCandidate(volume, volumeFinalizer) || volume.Status.Phase == corev1.VolumeBound {
				return controller.Result{}, nil
			}
			return controller.Result{}, release(ctx, c, volume.DeepCopy(), volumeFinalizer)
		},
	}
}

// NewClasses returns the controller of volume attributes classes: a class is in use while a claim or a volume names it.
func NewClasses(c *client.Client) *controller.Controller {
	return &controller.Controller{
		Name:    "vac-protection",
		Watches: []client.Object{&storagev1.VolumeAttributesClass{}, &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			enqueueDeleted[*storagev1.VolumeAttributesClass](v, "", classFinalizer, enqueue)
		},
		Enqueue: func(v client.View, event client.Event, enqueue func(controller.Key)) {
			if _, ok := event.Object().(*storagev1.VolumeAttributesClass); ok {
				enqueueIf(event.New, classFinalizer, enqueue)
				return
			}
			for _, name := range classesOf(event.Old) {
				if class, ok := client.Get[*storagev1.VolumeAttributesClass](v, "", name); ok {
					enqueueIf(class, classFinalizer, enqueue)
				}
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			class, ok := client.Get[*storagev1.VolumeAttributesClass](v, "", key.Name)
			if !ok || !isCandidate(class, classFinalizer) || classInUse(v, class.Name) {
				return controller.Result{}, nil
			}
			return controller.Result{}, release(ctx, c, class.DeepCopy(), classFinalizer)
		},
	}
}

// isCandidate says whether an object waits only for a finalizer's removal.
func isCandidate(obj client.Object, finalizer string) bool {
	return obj.GetDeletionTimestamp() != nil && slices.Contains(obj.GetFinalizers(), finalizer)
}

func enqueueIf(obj client.Object, finalizer string, enqueue func(controller.Key)) {
	if obj != nil && isCandidate(obj, finalizer) {
		enqueue(controller.KeyOf(obj))
	}
}

func enqueueDeleted[T client.Object](v client.View, namespace, finalizer string, enqueue func(controller.Key)) {
	client.Each(v, namespace, func(obj T) bool {
		enqueueIf(obj, finalizer, enqueue)
		return true
	})
}

func release[T client.Object](ctx context.Context, c *client.Client, obj T, finalizer string) error {
	obj.SetFinalizers(slices.DeleteFunc(obj.GetFinalizers(), func(f string) bool { return f == finalizer }))
	_, err := client.Update(ctx, c, obj)
	return err
}

// claimsOf returns the names of the claims that a pod may use.
func claimsOf(pod *corev1.Pod) (names []string) {
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		switch {
		case volume.PersistentVolumeClaim != nil:
			names = append(names, volume.PersistentVolumeClaim.ClaimName)
		case volume.Ephemeral != nil:
			names = append(names, ephemeral.VolumeClaimName(pod, volume))
		}
	}
	return names
}

// podsByClaim finds pods by the claims that they may use.
var podsByClaim = client.NewIndex(func(pod *corev1.Pod, add func(string)) {
	for _, name := range claimsOf(pod) {
		add(pod.Namespace + "/" + name)
	}
})

func claimInUse(v client.View, claim *corev1.PersistentVolumeClaim) bool {
	for _, pod := range podsByClaim.Any(v, claim.Namespace+"/"+claim.Name) {
		if pod.Spec.NodeName == "" {
			continue
		}
		for i := range pod.Spec.Volumes {
			volume := &pod.Spec.Volumes[i]
			if volume.PersistentVolumeClaim != nil && volume.PersistentVolumeClaim.ClaimName == claim.Name {
				return true
			}
			if volume.Ephemeral != nil && !isShutDown(pod) && ephemeral.VolumeClaimName(pod, volume) == claim.Name && ephemeral.VolumeIsForPod(pod, claim) == nil {
				return true
			}
		}
	}
	return false
}

// names says whether a pod uses a claim.
func names(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(volume corev1.Volume) bool {
		return volume.PersistentVolumeClaim != nil && volume.PersistentVolumeClaim.ClaimName == claim.Name ||
			volume.Ephemeral != nil && ephemeral.VolumeClaimName(pod, &volume) == claim.Name && ephemeral.VolumeIsForPod(pod, claim) == nil
	})
}

// isShutDown says whether the node is done with a pod, or the pod was deleted by force.
func isShutDown(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0
}

// classesOf returns the classes that a claim or a volume names.
func classesOf(obj client.Object) (names []string) {
	add := func(name *string) {
		if name != nil && *name != "" {
			names = append(names, *name)
		}
	}
	switch typed := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		add(typed.Spec.VolumeAttributesClassName)
		add(typed.Status.CurrentVolumeAttributesClassName)
		if m := typed.Status.ModifyVolumeStatus; m != nil {
			add(&m.TargetVolumeAttributesClassName)
		}
	case *corev1.PersistentVolume:
		add(typed.Spec.VolumeAttributesClassName)
	}
	return names
}

func classInUse(v client.View, name string) (used bool) {
	client.Each(v, "", func(claim *corev1.PersistentVolumeClaim) bool {
		used = slices.Contains(classesOf(claim), name)
		return !used
	})
	if !used {
		client.Each(v, "", func(volume *corev1.PersistentVolume) bool {
			used = slices.Contains(classesOf(volume), name)
			return !used
		})
	}
	return used
}
