// Package volumeexpand hands claims that have grown to those who expand their volumes (k8s.io/kubernetes/pkg/controller/volume/expand). No
// volume is expanded here: those of CSI drivers are by their external-resizer, with the node's part by the worker, and those of Kontiki's own
// provisioners by these. A claim of a kind that a driver has replaced gets the annotation by which the driver's resizer knows it.
//
// The resizer keeps the claim's conditions, allocatedResources and allocatedResourceStatuses, also when a claim is made smaller again after a
// failure.
package volumeexpand

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	csitranslation "k8s.io/csi-translation-lib"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// resizerAnnotation names who expands the volume of a claim; preResize is on a volume whose file system has not grown yet.
const (
	resizerAnnotation = "volume.kubernetes.io/storage-resizer"
	preResize         = "volume.alpha.kubernetes.io/pre-resize-capacity"
)

var translator = csitranslation.New()

type reconciler struct {
	client   *client.Client
	recorder record.EventRecorder
}

// New returns the controller. Its keys are those of claims.
func New(c *client.Client, recorder record.EventRecorder) *controller.Controller {
	r := &reconciler{c, recorder}
	return &controller.Controller{
		Name: "volume_expand", Watches: []client.Object{&corev1.PersistentVolumeClaim{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(claim *corev1.PersistentVolumeClaim) bool {
				if claim.Status.Phase == corev1.ClaimBound {
					enqueue(controller.KeyOf(claim))
				}
				return true
			})
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			claim, ok := event.New.(*corev1.PersistentVolumeClaim)
			if !ok || claim.Status.Phase != corev1.ClaimBound {
				return
			}
			old, _ := event.Old.(*corev1.PersistentVolumeClaim)
			if old == nil || old.Status.Phase != corev1.ClaimBound || old.Spec.Resources.Requests.Storage().Cmp(*claim.Spec.Resources.Requests.Storage()) != 0 {
				enqueue(controller.KeyOf(claim))
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			return controller.Result{}, r.sync(ctx, v, key)
		},
	}
}

func (r *reconciler) sync(ctx context.Context, v client.View, key controller.Key) error {
	claim, ok := client.Get[*corev1.PersistentVolumeClaim](v, key.Namespace, key.Name)
	if !ok || claim.Status.Phase != corev1.ClaimBound {
		return nil
	}
	pv, ok := client.Get[*corev1.PersistentVolume](v, "", claim.Spec.VolumeName)
	if !ok || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.Namespace != claim.Namespace || pv.Spec.ClaimRef.UID != claim.UID {
		return nil // the binder says so
	}
	if claim.Spec.Resources.Requests.Storage().Cmp(*claim.Status.Capacity.Storage()) <= 0 && !metav1.HasAnnotation(pv.ObjectMeta, preResize) {
		return nil
	}
	if !translator.IsPVMigratable(pv) {
		r.recorder.Event(claim, corev1.EventTypeNormal, "ExternalExpanding", "waiting for an external controller to expand this PVC")
		return nil
	}
	plugin, err := translator.GetInTreePluginNameFromSpec(pv, nil)
	if err != nil {
		return err
	}
	r.recorder.Eventf(claim, corev1.EventTypeNormal, "ExternalExpanding", "CSI migration enabled for %s; waiting for external resizer to expand the pvc", plugin)
	driver, err := translator.GetCSINameFromInTreeName(plugin)
	if err != nil {
		return fmt.Errorf("error getting CSI driver name for pvc %s, with error %w", key, err)
	}
	if claim.Annotations[resizerAnnotation] == driver {
		return nil
	}
	changed := claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&changed.ObjectMeta, resizerAnnotation, driver)
	if _, err := client.Update(ctx, r.client, changed); err != nil {
		return fmt.Errorf("error setting resizer annotation to pvc %s, with error %w", key, err)
	}
	return nil
}
