package persistentvolume_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/controller/controllertest"
)

const migratedTo = "pv.kubernetes.io/migrated-to"

// Objects of kinds whose code has moved to CSI drivers say so to the drivers' sidecars.
func TestMigratedProvisioners(t *testing.T) {
	b := start(t)
	now := storagev1.VolumeBindingImmediate
	controllertest.Create(t, b.Client, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "ebs"}, Provisioner: "kubernetes.io/aws-ebs", VolumeBindingMode: &now})
	of := func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = new("ebs") }
	b.claim("new", "1Gi", of)
	controllertest.Await(t, b.Client, "default", "new", "asks the driver", func(c *corev1.PersistentVolumeClaim) bool {
		return c.Annotations["volume.kubernetes.io/storage-provisioner"] == "ebs.csi.aws.com" && c.Annotations["volume.beta.kubernetes.io/storage-provisioner"] == "ebs.csi.aws.com"
	})
	b.recorder.Await(t, "Normal ExternalProvisioning Waiting for a volume to be created either by the external provisioner 'ebs.csi.aws.com'")
	// A claim that asked the old provisioner.
	b.claim("old", "1Gi", func(c *corev1.PersistentVolumeClaim) {
		of(c)
		c.Annotations = map[string]string{"volume.beta.kubernetes.io/storage-provisioner": "kubernetes.io/aws-ebs"}
		c.Spec.VolumeName = "awaited"
	})
	controllertest.Await(t, b.Client, "default", "old", "is marked", func(c *corev1.PersistentVolumeClaim) bool { return c.Annotations[migratedTo] == "ebs.csi.aws.com" })

	const inTree, external = "kubernetes.io/pv-controller", "external-provisioner.volume.kubernetes.io/finalizer"
	made := func(name, provisioner string, annotations map[string]string) {
		b.volume(name, "1Gi", func(v *corev1.PersistentVolume) {
			v.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": provisioner}
			for k, value := range annotations {
				v.Annotations[k] = value
			}
			v.Finalizers = []string{inTree, external}
		})
	}
	await := func(name, driver string, finalizers ...string) {
		t.Helper()
		controllertest.Await(t, b.Client, "", name, "has the annotation and the finalizers", func(v *corev1.PersistentVolume) bool {
			has := slices.DeleteFunc(slices.Clone(v.Finalizers), func(f string) bool { return f == "kubernetes.io/pv-protection" })
			return v.Annotations[migratedTo] == driver && slices.Equal(has, finalizers) && v.Status.Phase == corev1.VolumeAvailable
		})
	}
	made("moved", "kubernetes.io/aws-ebs", nil)
	await("moved", "ebs.csi.aws.com", external)
	made("lost", "kubernetes.io/quobyte", map[string]string{migratedTo: "other"})
	await("lost", "")
	made("csi", "csi.example.com", nil)
	await("csi", "", inTree, external)
}

// A node that was selected for a claim and then removed is not waited for.
func TestASelectedNodeThatIsGone(t *testing.T) {
	b := start(t)
	wait := storagev1.VolumeBindingWaitForFirstConsumer
	controllertest.Create(t, b.Client, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "wait"}, Provisioner: "example.com/p", VolumeBindingMode: &wait})
	controllertest.Create(t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	b.claim("c", "1Gi", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.StorageClassName, c.Annotations = new("wait"), map[string]string{"volume.kubernetes.io/selected-node": "n1"}
	})
	controllertest.Await(t, b.Client, "default", "c", "asks its provisioner", func(c *corev1.PersistentVolumeClaim) bool {
		return c.Annotations["volume.kubernetes.io/storage-provisioner"] == "example.com/p"
	})
	b.delete(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	controllertest.Await(t, b.Client, "default", "c", "has no selected node", func(c *corev1.PersistentVolumeClaim) bool {
		_, ok := c.Annotations["volume.kubernetes.io/selected-node"]
		return !ok
	})
	b.recorder.Await(t, `Warning ProvisioningFailed Failed to get target node: node "n1" not found`)
	b.recorder.Await(t, "Normal WaitForFirstConsumer")
}
