// Package ephemeral makes the claims of pods' generic ephemeral volumes. A claim belongs to its pod, with which it is deleted.
package ephemeral

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

// podsByClaim finds pods that need a claim made, by its namespace and name.
var podsByClaim = client.NewIndex(func(pod *corev1.Pod, add func(string)) {
	if pod.DeletionTimestamp != nil {
		return
	}
	for i := range pod.Spec.Volumes {
		if volume := &pod.Spec.Volumes[i]; volume.Ephemeral != nil {
			add(pod.Namespace + "/" + ephemeral.VolumeClaimName(pod, volume))
		}
	}
})

// New returns the controller. Its keys are those of pods.
func New(c *client.Client, recorder record.EventRecorder) *controller.Controller {
	return &controller.Controller{
		Name: "ephemeral-volume", Watches: []client.Object{&corev1.Pod{}, &corev1.PersistentVolumeClaim{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(pod *corev1.Pod) bool {
				if needsClaims(pod) {
					enqueue(controller.KeyOf(pod))
				}
				return true
			})
		},
		Enqueue: func(v client.View, event client.Event, enqueue func(controller.Key)) {
			switch obj := event.Object().(type) {
			case *corev1.Pod:
				if event.Old == nil && needsClaims(obj) { // the volumes of a pod never change
					enqueue(controller.KeyOf(obj))
				}
			case *corev1.PersistentVolumeClaim:
				if event.New != nil {
					return
				}
				for _, pod := range podsByClaim.Any(v, obj.Namespace+"/"+obj.Name) {
					enqueue(controller.KeyOf(pod))
				}
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			pod, ok := client.Get[*corev1.Pod](v, key.Namespace, key.Name)
			if !ok || !needsClaims(pod) {
				return controller.Result{}, nil
			}
			for i := range pod.Spec.Volumes {
				volume := &pod.Spec.Volumes[i]
				if err := claim(ctx, c, v, pod, volume); err != nil {
					recorder.Eventf(pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", volume.Name, err)
					return controller.Result{}, fmt.Errorf("ephemeral volume %s: %w", volume.Name, err)
				}
			}
			return controller.Result{}, nil
		},
	}
}

func needsClaims(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil {
		return false
	}
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Ephemeral != nil {
			return true
		}
	}
	return false
}

// claim makes the claim of a volume if it needs one that does not exist.
func claim(ctx context.Context, c *client.Client, v client.View, pod *corev1.Pod, volume *corev1.Volume) error {
	if volume.Ephemeral == nil {
		return nil
	}
	name := ephemeral.VolumeClaimName(pod, volume)
	if existing, ok := client.Get[*corev1.PersistentVolumeClaim](v, pod.Namespace, name); ok {
		return ephemeral.VolumeIsForPod(pod, existing)
	}
	template := volume.Ephemeral.VolumeClaimTemplate.DeepCopy()
	_, err := client.Create(ctx, c, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: name, Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, podKind)},
		},
		Spec: template.Spec,
	})
	if err != nil {
		return fmt.Errorf("create PVC %s: %w", name, err)
	}
	return nil
}
