package localpath_test

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	controller "github.com/kontiki/kontiki/controller/localpath"
	"github.com/kontiki/kontiki/controller/persistentvolume"
	"github.com/kontiki/kontiki/controller/storageprotection"
	"github.com/kontiki/kontiki/internal/localpath"
	"github.com/kontiki/kontiki/test/harness"
)

type bed struct {
	*harness.Harness
	t        testing.TB
	recorder *controllertest.Recorder
}

func start(t testing.TB) *bed {
	t.Helper()
	b := &bed{harness.New(t), t, controllertest.NewRecorder()}
	controllertest.Create(t, b.Client, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local-path"}, Provisioner: localpath.Provisioner,
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer), AllowVolumeExpansion: ptr.To(true), MountOptions: []string{"noexec"}})
	controllertest.Create(t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelHostname: "host-1"},
		Annotations: map[string]string{localpath.Root: "/data/local-path"}}})
	controllertest.Run(t, b.Client, controller.New(b.Client, b.recorder), persistentvolume.New(b.Client, controllertest.NewRecorder()),
		storageprotection.NewClaims(b.Client), storageprotection.NewVolumes(b.Client))
	return b
}

func size(text string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(text)}
}

// claim creates a claim with what the binder and the scheduler write into it.
func (b *bed) claim(name, node string, change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	b.t.Helper()
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: map[string]string{
		"volume.kubernetes.io/storage-provisioner": localpath.Provisioner, "volume.kubernetes.io/selected-node": node}},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To("local-path"),
			Resources: corev1.VolumeResourceRequirements{Requests: size("1Gi")}}}
	if change != nil {
		change(claim)
	}
	return controllertest.Create(b.t, b.Client, claim)
}

// bound waits until a claim is bound, and returns its volume.
func (b *bed) bound(name string) *corev1.PersistentVolume {
	b.t.Helper()
	claim := controllertest.Await(b.t, b.Client, "default", name, "bound", func(c *corev1.PersistentVolumeClaim) bool { return c.Status.Phase == corev1.ClaimBound })
	return controllertest.Await(b.t, b.Client, "", claim.Spec.VolumeName, "bound", func(v *corev1.PersistentVolume) bool { return v.Status.Phase == corev1.VolumeBound })
}

func (b *bed) delete(obj client.Object) {
	b.t.Helper()
	if err := b.Client.Delete(context.Background(), obj); err != nil {
		b.t.Fatal(err)
	}
}

// told writes what a worker reports.
func (b *bed) told(name, state string) {
	b.t.Helper()
	controllertest.Change(b.t, b.Client, "", name, func(v *corev1.PersistentVolume) { v.Annotations[localpath.State] = state })
}

func (b *bed) released(name string) *corev1.PersistentVolume {
	b.t.Helper()
	return controllertest.Await(b.t, b.Client, "", name, "released", func(v *corev1.PersistentVolume) bool { return v.Status.Phase == corev1.VolumeReleased })
}

func TestAVolumeLivesAsLongAsItsFolder(t *testing.T) {
	b := start(t)
	claim := b.claim("data", "n1", nil)
	volume := b.bound("data")
	terms := volume.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0]
	if volume.Name != "pvc-"+string(claim.UID) || volume.Spec.Local == nil || volume.Spec.Local.Path != "/data/local-path/"+volume.Name ||
		terms.Key != corev1.LabelHostname || !slices.Equal(terms.Values, []string{"host-1"}) || localpath.NodeOf(volume.Annotations) != "n1" ||
		volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || !slices.Equal(volume.Spec.MountOptions, []string{"noexec"}) {
		t.Errorf("the volume is %+v", volume)
	}
	b.recorder.Await(t, "Normal ProvisioningSucceeded Successfully provisioned volume "+volume.Name)
	b.told(volume.Name, localpath.Made)
	b.delete(claim)
	b.released(volume.Name)
	// Another claim comes and goes meanwhile: whatever is done for released volumes was done.
	b.delete(b.claim("other", "n1", nil))
	if got := b.released(volume.Name); !slices.Contains(got.Finalizers, localpath.Finalizer) || got.DeletionTimestamp != nil {
		t.Errorf("the volume goes before its folder: %v", got.ObjectMeta)
	}
	b.told(volume.Name, localpath.Removed)
	controllertest.AwaitGone[*corev1.PersistentVolume](t, b.Client, "", volume.Name)
}

// TestANodeThatIsGoneKeepsNoVolume: nobody can remove the folder, and the volume goes with a warning.
func TestANodeThatIsGoneKeepsNoVolume(t *testing.T) {
	b := start(t)
	claim := b.claim("data", "n1", nil)
	volume := b.bound("data")
	b.told(volume.Name, localpath.Made)
	b.delete(claim)
	b.released(volume.Name)
	b.delete(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	controllertest.AwaitGone[*corev1.PersistentVolume](t, b.Client, "", volume.Name)
	b.recorder.Await(t, `Warning VolumeFailedDelete node "n1" does not exist any more: if its disk does, the folder /data/local-path/`+volume.Name+" is still there")
}

// TestRetainedFoldersStay: the volume goes when somebody deletes it, and no worker is asked.
func TestRetainedFoldersStay(t *testing.T) {
	b := start(t)
	claim := b.claim("data", "n1", nil)
	volume := b.bound("data")
	controllertest.Change(t, b.Client, "", volume.Name, func(v *corev1.PersistentVolume) {
		v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	})
	b.delete(claim)
	b.delete(b.released(volume.Name))
	controllertest.AwaitGone[*corev1.PersistentVolume](t, b.Client, "", volume.Name)
}

func TestAVolumeGrowsWithItsClaim(t *testing.T) {
	b := start(t)
	b.claim("data", "n1", nil)
	volume := b.bound("data")
	controllertest.Change(t, b.Client, "default", "data", func(c *corev1.PersistentVolumeClaim) { c.Spec.Resources.Requests = size("2Gi") })
	two := resource.MustParse("2Gi")
	controllertest.Await(t, b.Client, "default", "data", "its new size", func(c *corev1.PersistentVolumeClaim) bool {
		return c.Status.Capacity.Storage().Cmp(two) == 0
	})
	controllertest.Await(t, b.Client, "", volume.Name, "its new size", func(v *corev1.PersistentVolume) bool { return v.Spec.Capacity.Storage().Cmp(two) == 0 })
}

func TestWhatCannotBeProvisionedSaysWhy(t *testing.T) {
	const prefix = `Warning ProvisioningFailed failed to provision volume with StorageClass "local-path": `
	for _, c := range []struct {
		name   string
		node   string
		change func(*corev1.PersistentVolumeClaim)
		want   string
	}{
		{"many nodes", "n1", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		},
			"access mode ReadWriteMany is not supported: the volume is on one node"},
		{"a device", "n1", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) },
			"volumeMode Block is not supported: the volume is a folder"},
		{"a selector", "n1", func(c *corev1.PersistentVolumeClaim) { c.Spec.Selector = &metav1.LabelSelector{} }, "claim Selector is not supported"},
		{"a node without a folder", "bare", nil, `node "bare" has no folder for volumes`},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t)
			controllertest.Create(t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "bare", Labels: map[string]string{corev1.LabelHostname: "bare"}}})
			b.claim("data", c.node, c.change)
			b.recorder.Await(t, prefix+c.want)
		})
	}
}

// TestANodeThatIsGoneIsNotWaitedFor: the scheduler may select another one.
func TestANodeThatIsGoneIsNotWaitedFor(t *testing.T) {
	b := start(t)
	b.claim("data", "gone", nil)
	controllertest.Await(t, b.Client, "default", "data", "no node", func(c *corev1.PersistentVolumeClaim) bool {
		return c.Annotations["volume.kubernetes.io/selected-node"] == ""
	})
}
