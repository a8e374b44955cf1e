package volumeexpand_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/volumeexpand"
	"github.com/kontiki/kontiki/test/harness"
)

func size(text string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(text)}
}

func TestClaimsThatGrow(t *testing.T) {
	h, recorder := harness.New(t), controllertest.NewRecorder()
	controllertest.Run(t, h.Client, volumeexpand.New(h.Client, recorder))
	yes := true
	controllertest.Create(t, h.Client, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "grows"}, Provisioner: "d.example.com", AllowVolumeExpansion: &yes})
	once := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	bound := func(name string, source corev1.PersistentVolumeSource) {
		t.Helper()
		claim := controllertest.Create(t, h.Client, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: once, VolumeName: name, StorageClassName: new("grows"), Resources: corev1.VolumeResourceRequirements{Requests: size("1Gi")}}})
		controllertest.Create(t, h.Client, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
			Capacity: size("1Gi"), AccessModes: once, StorageClassName: "grows", PersistentVolumeSource: source,
			ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "default", Name: name, UID: claim.UID}}})
		controllertest.ChangeStatus(t, h.Client, "default", name, func(c *corev1.PersistentVolumeClaim) {
			c.Status.Phase, c.Status.Capacity = corev1.ClaimBound, size("1Gi")
		})
	}
	grow := func(name string) {
		t.Helper()
		controllertest.Change(t, h.Client, "default", name, func(c *corev1.PersistentVolumeClaim) { c.Spec.Resources.Requests = size("2Gi") })
	}
	bound("csi", corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d.example.com", VolumeHandle: "h"}})
	bound("ebs", corev1.PersistentVolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "vol-1"}})
	grow("ebs")
	controllertest.Await(t, h.Client, "default", "ebs", "names its resizer", func(c *corev1.PersistentVolumeClaim) bool {
		return c.Annotations["volume.kubernetes.io/storage-resizer"] == "ebs.csi.aws.com"
	})
	recorder.Await(t, "Normal ExternalExpanding CSI migration enabled for kubernetes.io/aws-ebs; waiting for external resizer to expand the pvc")
	if told := recorder.Events("Normal ExternalExpanding waiting"); len(told) > 0 {
		t.Errorf("a claim that has what it requests: %v", told)
	}
	grow("csi")
	recorder.Await(t, "Normal ExternalExpanding waiting for an external controller to expand this PVC")
	if c, _ := client.Get[*corev1.PersistentVolumeClaim](h.Client.View(), "default", "csi"); len(c.Annotations) > 0 {
		t.Errorf("annotations %v", c.Annotations) // the resizer sets its own
	}

	// A request that failed may be made smaller again, but not smaller than the volume.
	shrink := func(to string) error {
		c, _ := client.Get[*corev1.PersistentVolumeClaim](h.Client.View(), "default", "csi")
		c = c.DeepCopy()
		c.Spec.Resources.Requests = size(to)
		_, err := client.Update(context.Background(), h.Client, c)
		return err
	}
	if err := shrink("1500Mi"); err != nil {
		t.Errorf("after a failed expansion: %v", err)
	}
	for _, to := range []string{"1Gi", "500Mi"} {
		if err := shrink(to); err == nil || !strings.Contains(err.Error(), "field can not be less than status.capacity") {
			t.Errorf("to %s: %v", to, err)
		}
	}
}
