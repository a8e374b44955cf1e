package csidriver

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// finalizer is on attachments that the driver has made, or begun to make.
const finalizer = "external-attacher/" + Name

// Controller does what external-provisioner, external-attacher and external-resizer do for drivers.
type Controller struct {
	Set kubernetes.Interface
	// Dir is the folder with the volumes.
	Dir string
	// Period is how often it looks what is to be done.
	Period time.Duration
}

// Run works until ctx ends. What fails is tried again.
func (c *Controller) Run(ctx context.Context) error {
	driver := &controller{store: &store{c.Dir}}
	tick := time.NewTicker(c.Period)
	defer tick.Stop()
	for {
		for name, step := range map[string]func(context.Context, *controller) error{"provision": c.provision, "attach": c.attach, "resize": c.resize, "delete": c.remove} {
			if err := step(ctx, driver); err != nil && ctx.Err() == nil {
				slog.Warn(name, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func modes(modes []corev1.PersistentVolumeAccessMode, block bool) []*csi.VolumeCapability {
	out := capability(block)
	for _, m := range modes {
		switch m {
		case corev1.ReadWriteMany:
			out.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
		case corev1.ReadOnlyMany:
			out.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
		}
	}
	return []*csi.VolumeCapability{out}
}

func (c *Controller) provision(ctx context.Context, driver *controller) error {
	claims, err := c.Set.CoreV1().PersistentVolumeClaims("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range claims.Items {
		claim := &claims.Items[i]
		if claim.Annotations["volume.kubernetes.io/storage-provisioner"] != Name || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil || claim.Spec.StorageClassName == nil {
			continue
		}
		class, err := c.Set.StorageV1().StorageClasses().Get(ctx, *claim.Spec.StorageClassName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		name, size := "pvc-"+string(claim.UID), claim.Spec.Resources.Requests[corev1.ResourceStorage]
		block := claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == corev1.PersistentVolumeBlock
		r, err := driver.CreateVolume(ctx, &csi.CreateVolumeRequest{Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: size.Value()}, VolumeCapabilities: modes(claim.Spec.AccessModes, block)})
		if err != nil {
			return err
		}
		_, err = c.Set.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": Name}},
			Spec: corev1.PersistentVolumeSpec{AccessModes: claim.Spec.AccessModes, VolumeMode: claim.Spec.VolumeMode, StorageClassName: class.Name, MountOptions: class.MountOptions,
				PersistentVolumeReclaimPolicy: *class.ReclaimPolicy, Capacity: corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(r.Volume.CapacityBytes, resource.BinarySI)},
				ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
				PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: Name, VolumeHandle: r.Volume.VolumeId, VolumeAttributes: r.Volume.VolumeContext, FSType: "ext4"}}},
		}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

// remove removes the volumes of claims that were deleted.
func (c *Controller) remove(ctx context.Context, driver *controller) error {
	all, err := c.Set.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range all.Items {
		pv := &all.Items[i]
		if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != Name || pv.Status.Phase != corev1.VolumeReleased || pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
			continue
		}
		if _, err := driver.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: pv.Spec.CSI.VolumeHandle}); err != nil {
			slog.Warn("delete", "volume", pv.Name, "err", err) // it may be attached
			continue
		}
		if err := c.Set.CoreV1().PersistentVolumes().Delete(ctx, pv.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

func (c *Controller) attach(ctx context.Context, driver *controller) error {
	all, err := c.Set.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range all.Items {
		a := &all.Items[i]
		if a.Spec.Attacher != Name || a.Spec.Source.PersistentVolumeName == nil || a.Status.Attached && a.DeletionTimestamp == nil {
			continue
		}
		if err := c.attachOne(ctx, driver, a); err != nil {
			slog.Warn("attach", "attachment", a.Name, "err", err)
		}
	}
	return nil
}

func (c *Controller) attachOne(ctx context.Context, driver *controller, a *storagev1.VolumeAttachment) error {
	pv, err := c.Set.CoreV1().PersistentVolumes().Get(ctx, *a.Spec.Source.PersistentVolumeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	node, err := c.Set.StorageV1().CSINodes().Get(ctx, a.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	i := slices.IndexFunc(node.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == Name })
	if i < 0 {
		return fmt.Errorf("CSINode %s does not have the driver", node.Name)
	}
	id, handle := node.Spec.Drivers[i].NodeID, pv.Spec.CSI.VolumeHandle
	if a.DeletionTimestamp != nil {
		if _, err := driver.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: handle, NodeId: id}); err != nil {
			return err
		}
		a.Finalizers = slices.DeleteFunc(a.Finalizers, func(f string) bool { return f == finalizer })
		_, err := c.Set.StorageV1().VolumeAttachments().Update(ctx, a, metav1.UpdateOptions{})
		return err
	}
	if !slices.Contains(a.Finalizers, finalizer) {
		a.Finalizers = append(a.Finalizers, finalizer)
		if a, err = c.Set.StorageV1().VolumeAttachments().Update(ctx, a, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	block := pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock
	r, err := driver.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{VolumeId: handle, NodeId: id, VolumeCapability: modes(pv.Spec.AccessModes, block)[0]})
	if err != nil {
		return err
	}
	a.Status = storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: r.PublishContext}
	_, err = c.Set.StorageV1().VolumeAttachments().UpdateStatus(ctx, a, metav1.UpdateOptions{})
	return err
}

func (c *Controller) resize(ctx context.Context, driver *controller) error {
	claims, err := c.Set.CoreV1().PersistentVolumeClaims("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range claims.Items {
		claim := &claims.Items[i]
		asked := claim.Spec.Resources.Requests[corev1.ResourceStorage]
		if claim.Status.Phase != corev1.ClaimBound || asked.Cmp(*claim.Status.Capacity.Storage()) <= 0 || claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage] != "" {
			continue
		}
		pv, err := c.Set.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != Name {
			continue
		}
		if _, err := driver.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: pv.Spec.CSI.VolumeHandle, CapacityRange: &csi.CapacityRange{RequiredBytes: asked.Value()}}); err != nil {
			return err
		}
		pv.Spec.Capacity[corev1.ResourceStorage] = asked
		if _, err := c.Set.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{}); err != nil {
			return err
		}
		claim.Status.AllocatedResources = corev1.ResourceList{corev1.ResourceStorage: asked}
		claim.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{corev1.ResourceStorage: corev1.PersistentVolumeClaimNodeResizePending}
		claim.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
		if _, err := c.Set.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return nil
}
