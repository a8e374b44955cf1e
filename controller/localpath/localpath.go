// Package localpath is the provisioner kontiki.io/local-path: volumes that are folders on the node of the first pod that uses them.
//
// It acts on what the binder and the scheduler write into a claim, as any external provisioner does: the annotations with the provisioner
// and the selected node. It creates the volume, which is reserved for the claim. The worker makes the folder when a pod mounts the volume
// for the first time, and never again: a folder that has vanished is not replaced by an empty one. When the volume is released and its
// reclaim policy is Delete, the worker, which is sent the volumes of its node, removes the folder and reports that in an annotation; only
// then the finalizer and the volume go. If the node object no longer exists, nobody can remove the folder, and the volume goes at once.
package localpath

import (
	"context"
	"fmt"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/internal/localpath"
)

type reconciler struct {
	client   *client.Client
	recorder record.EventRecorder
}

// New returns the controller. Its keys are those of claims, which have a namespace, and of volumes, which have none.
func New(c *client.Client, recorder record.EventRecorder) *controller.Controller {
	r := &reconciler{c, recorder}
	return &controller.Controller{
		Name:    "local-path",
		Watches: []client.Object{&corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}, &corev1.Node{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(claim *corev1.PersistentVolumeClaim) bool { enqueueClaim(claim, enqueue); return true })
			client.Each(v, "", func(volume *corev1.PersistentVolume) bool { enqueueVolume(volume, enqueue); return true })
		},
		Enqueue: func(v client.View, event client.Event, enqueue func(controller.Key)) {
			switch obj := event.Object().(type) {
			case *corev1.PersistentVolumeClaim:
				enqueueClaim(obj, enqueue)
			case *corev1.PersistentVolume:
				enqueueVolume(obj, enqueue)
				if ref := obj.Spec.ClaimRef; ref != nil && isOurs(obj) {
					enqueue(controller.Key{Namespace: ref.Namespace, Name: ref.Name})
				}
			case *corev1.Node:
				before, _ := event.Old.(*corev1.Node)
				if event.New == nil {
					for _, volume := range byNode.Any(v, obj.Name) {
						enqueueVolume(volume, enqueue)
					}
				} else if before == nil || before.Annotations[localpath.Root] != obj.Annotations[localpath.Root] {
					for _, claim := range waiting.Any(v, obj.Name) {
						enqueueClaim(claim, enqueue)
					}
				}
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			if key.Namespace == "" {
				return controller.Result{}, r.syncVolume(ctx, v, key.Name)
			}
			return controller.Result{}, r.syncClaim(ctx, v, key)
		},
	}
}

// byNode finds volumes by their node, and waiting finds claims that have no volume by their selected node.
var (
	byNode = client.NewIndex(func(volume *corev1.PersistentVolume, add func(string)) {
		if isOurs(volume) {
			add(localpath.NodeOf(volume.Annotations))
		}
	})
	waiting = client.NewIndex(func(claim *corev1.PersistentVolumeClaim, add func(string)) {
		if node := claim.Annotations[storage.AnnSelectedNode]; node != "" && claim.Spec.VolumeName == "" && asks(claim, localpath.Provisioner) {
			add(node)
		}
	})
)

// asks says whether a claim asks a provisioner for a volume.
func asks(claim *corev1.PersistentVolumeClaim, provisioner string) bool {
	by := claim.Annotations[storage.AnnStorageProvisioner]
	if by == "" {
		by = claim.Annotations[storage.AnnBetaStorageProvisioner]
	}
	return by == provisioner
}

// isOurs says whether a volume is a folder of a node.
func isOurs(volume *corev1.PersistentVolume) bool {
	return volume.Annotations[localpath.ProvisionedBy] == localpath.Provisioner && volume.Annotations[localpath.Node] != "" && volume.Spec.Local != nil
}

func enqueueClaim(claim *corev1.PersistentVolumeClaim, enqueue func(controller.Key)) {
	if asks(claim, localpath.Provisioner) {
		enqueue(controller.KeyOf(claim))
	}
}

func enqueueVolume(volume *corev1.PersistentVolume, enqueue func(controller.Key)) {
	if isOurs(volume) {
		enqueue(controller.KeyOf(volume))
	}
}

func (r *reconciler) syncClaim(ctx context.Context, v client.View, key controller.Key) error {
	claim, ok := client.Get[*corev1.PersistentVolumeClaim](v, key.Namespace, key.Name)
	if !ok || !asks(claim, localpath.Provisioner) || claim.DeletionTimestamp != nil {
		return nil
	}
	if claim.Spec.VolumeName != "" {
		return r.expand(ctx, v, claim, localpath.Provisioner)
	}
	return r.provision(ctx, v, claim)
}

// provision creates the volume of a claim.
func (r *reconciler) provision(ctx context.Context, v client.View, claim *corev1.PersistentVolumeClaim) error {
	name := "pvc-" + string(claim.UID)
	if _, ok := client.Get[*corev1.PersistentVolume](v, "", name); ok {
		return nil // the binder binds it
	}
	className := storage.GetPersistentVolumeClaimClass(claim)
	class, ok := client.Get[*storagev1.StorageClass](v, "", className)
	if !ok || class.Provisioner != localpath.Provisioner {
		return nil // the binder says so
	}
	fail := func(format string, args ...any) error {
		r.recorder.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %s", className, fmt.Sprintf(format, args...))
		return nil
	}
	if why := refuse(claim, class); why != "" {
		return fail("%s", why)
	}
	nodeName := claim.Annotations[storage.AnnSelectedNode]
	if nodeName == "" {
		if ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) == storagev1.VolumeBindingImmediate {
			return fail("%s needs volumeBindingMode WaitForFirstConsumer: the node of the first pod decides where the volume is", localpath.Provisioner)
		}
		return nil // the scheduler selects it
	}
	node, ok := client.Get[*corev1.Node](v, "", nodeName)
	if !ok { // the scheduler selects another one
		changed := claim.DeepCopy()
		delete(changed.Annotations, storage.AnnSelectedNode)
		_, err := client.Update(ctx, r.client, changed)
		return err
	}
	root, hostname := node.Annotations[localpath.Root], node.Labels[corev1.LabelHostname]
	switch {
	case root == "":
		return fail("node %q has no folder for volumes", nodeName)
	case hostname == "":
		return fail("node %q has no label %s", nodeName, corev1.LabelHostname)
	}
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{localpath.Finalizer},
			Annotations: map[string]string{localpath.ProvisionedBy: localpath.Provisioner, localpath.Node: nodeName}},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: claim.Spec.AccessModes, Capacity: corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			StorageClassName: className, MountOptions: class.MountOptions, VolumeMode: ptr.To(corev1.PersistentVolumeFilesystem),
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			ClaimRef:                      reference(claim),
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path.Join(root, name)}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{hostname}}}}}}},
		},
	}
	if _, err := client.Create(ctx, r.client, volume); err != nil && !apierrors.IsAlreadyExists(err) {
		if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) {
			return fail("%v", err)
		}
		return err
	}
	r.recorder.Eventf(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", name)
	return nil
}

func reference(claim *corev1.PersistentVolumeClaim) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name,
		UID: claim.UID, ResourceVersion: claim.ResourceVersion}
}

// refuse says what of a claim this provisioner cannot provide.
func refuse(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) string {
	for key := range class.Parameters {
		return fmt.Sprintf("unknown parameter %q", key)
	}
	if why := refuseAny(claim); why != "" {
		return why
	}
	for _, mode := range claim.Spec.AccessModes {
		if mode != corev1.ReadWriteOnce && mode != corev1.ReadWriteOncePod {
			return fmt.Sprintf("access mode %s is not supported: the volume is on one node", mode)
		}
	}
	return ""
}

// refuseAny says what of a claim no provisioner of folders can provide.
func refuseAny(claim *corev1.PersistentVolumeClaim) string {
	switch {
	case claim.Spec.Selector != nil:
		return "claim Selector is not supported"
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return "a dataSource is not supported: the folder begins empty"
	case ptr.Deref(claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) != corev1.PersistentVolumeFilesystem:
		return "volumeMode Block is not supported: the volume is a folder"
	}
	return ""
}

// expand gives a bound volume the size that its claim requests. The worker raises the quota when it sees the volume's new size.
func (r *reconciler) expand(ctx context.Context, v client.View, claim *corev1.PersistentVolumeClaim, provisioner string) error {
	volume, ok := client.Get[*corev1.PersistentVolume](v, "", claim.Spec.VolumeName)
	if !ok || claim.Status.Phase != corev1.ClaimBound || volume.Annotations[localpath.ProvisionedBy] != provisioner || volume.Spec.ClaimRef == nil || volume.Spec.ClaimRef.UID != claim.UID {
		return nil
	}
	wanted := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if has := volume.Spec.Capacity[corev1.ResourceStorage]; has.Cmp(wanted) < 0 {
		changed := volume.DeepCopy()
		changed.Spec.Capacity[corev1.ResourceStorage] = wanted
		if _, err := client.Update(ctx, r.client, changed); err != nil {
			return err
		}
	}
	if has := claim.Status.Capacity[corev1.ResourceStorage]; has.Cmp(wanted) >= 0 {
		return nil
	}
	changed := claim.DeepCopy()
	if changed.Status.Capacity == nil {
		changed.Status.Capacity = corev1.ResourceList{}
	}
	changed.Status.Capacity[corev1.ResourceStorage] = wanted
	changed.Status.Conditions = slices.DeleteFunc(changed.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return c.Type == corev1.PersistentVolumeClaimResizing || c.Type == corev1.PersistentVolumeClaimFileSystemResizePending
	})
	if _, err := client.UpdateStatus(ctx, r.client, changed); err != nil {
		return err
	}
	r.recorder.Event(claim, corev1.EventTypeNormal, "VolumeResizeSuccessful", "Resize volume succeeded")
	return nil
}

// syncVolume removes a volume whose folder is gone, or cannot be removed by anybody.
func (r *reconciler) syncVolume(ctx context.Context, v client.View, name string) error {
	volume, ok := client.Get[*corev1.PersistentVolume](v, "", name)
	if !ok || volume.Status.Phase == corev1.VolumeBound || !isOurs(volume) {
		return nil
	}
	nodeName := localpath.NodeOf(volume.Annotations)
	if volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		if volume.DeletionTimestamp != nil { // the data stays
			_, err := r.release(ctx, volume)
			return err
		}
		return nil
	}
	if !localpath.ToRemove(string(volume.Spec.PersistentVolumeReclaimPolicy), string(volume.Status.Phase), volume.DeletionTimestamp != nil) {
		return nil
	}
	if volume.Annotations[localpath.State] != localpath.Removed {
		if _, ok := client.Get[*corev1.Node](v, "", nodeName); ok {
			return nil // its worker will report it
		}
		if volume.Annotations[localpath.State] == localpath.Made {
			r.recorder.Eventf(volume, corev1.EventTypeWarning, "VolumeFailedDelete", "node %q does not exist any more: if its disk does, the folder %s is still there", nodeName, volume.Spec.Local.Path)
		}
	}
	return r.finish(ctx, volume)
}

// finish removes a volume that needs nobody any more.
func (r *reconciler) finish(ctx context.Context, volume *corev1.PersistentVolume) error {
	volume, err := r.release(ctx, volume)
	if err != nil || volume.DeletionTimestamp != nil {
		return err
	}
	err = r.client.Delete(ctx, volume)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// release removes the finalizer of a volume.
func (r *reconciler) release(ctx context.Context, volume *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	i := slices.Index(volume.Finalizers, localpath.Finalizer)
	if i < 0 {
		return volume, nil
	}
	changed := volume.DeepCopy()
	changed.Finalizers = slices.Delete(changed.Finalizers, i, i+1)
	return client.Update(ctx, r.client, changed)
}
