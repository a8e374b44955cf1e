package persistentvolume

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storage "k8s.io/component-helpers/storage/volume"

	"github.com/kontiki/kontiki/api/client"
)

// Kinds of volumes whose code has moved from Kubernetes into CSI drivers keep their old names in the API. An annotation tells the
// sidecars of such a driver that an object under an old name is theirs.

// migratedTo returns the CSI driver that has replaced a provisioner; "" if none has.
func migratedTo(provisioner string) string {
	if !translator.IsMigratableIntreePluginByName(provisioner) {
		return ""
	}
	driver, err := translator.GetCSINameFromInTreeName(provisioner)
	if err != nil {
		return ""
	}
	return driver
}

// markMigrated sets or removes the annotation of an object that a provisioner made or shall make.
func markMigrated(meta *metav1.ObjectMeta, provisioner string) {
	if driver := migratedTo(provisioner); driver != "" {
		metav1.SetMetaDataAnnotation(meta, storage.AnnMigratedTo, driver)
	} else {
		delete(meta.Annotations, storage.AnnMigratedTo)
	}
}

// migrateClaim stores a claim's annotation, and returns the claim with it.
func (r *reconciler) migrateClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	provisioner, ok := claim.Annotations[storage.AnnStorageProvisioner]
	if !ok {
		provisioner, ok = claim.Annotations[storage.AnnBetaStorageProvisioner]
	}
	if !ok || migratedTo(provisioner) == claim.Annotations[storage.AnnMigratedTo] {
		return claim, nil
	}
	changed := claim.DeepCopy()
	markMigrated(&changed.ObjectMeta, provisioner)
	return client.Update(ctx, r.client, changed)
}

// migrateVolume stores a provisioned volume's annotation, and removes the finalizers of those who do not delete it: one that a CSI driver
// deletes has its provisioner's, one of a kind that has no driver has this controller's as long as it is to be deleted.
func (r *reconciler) migrateVolume(ctx context.Context, volume *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	provisioner, ok := volume.Annotations[storage.AnnDynamicallyProvisioned]
	if !ok {
		return volume, nil
	}
	finalizers := deletionFinalizers(volume, provisioner)
	if migratedTo(provisioner) == volume.Annotations[storage.AnnMigratedTo] && slices.Equal(finalizers, volume.Finalizers) {
		return volume, nil
	}
	changed := volume.DeepCopy()
	markMigrated(&changed.ObjectMeta, provisioner)
	changed.Finalizers = finalizers
	return client.Update(ctx, r.client, changed)
}

// deletionFinalizers returns the finalizers that a provisioned volume should have. Upstream gives a volume of a kind without a driver its
// own finalizer, because it deletes such a volume itself. Here nobody does, so the finalizer would keep the object for ever: it is only
// removed.
func deletionFinalizers(volume *corev1.PersistentVolume, provisioner string) []string {
	without := func(drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(volume.Finalizers), func(f string) bool { return slices.Contains(drop, f) })
	}
	switch {
	case migratedTo(provisioner) != "":
		return without(storage.PVDeletionInTreeProtectionFinalizer)
	case strings.HasPrefix(provisioner, "kubernetes.io/"):
		return without(storage.PVDeletionInTreeProtectionFinalizer, storage.PVDeletionProtectionFinalizer)
	}
	return volume.Finalizers
}
