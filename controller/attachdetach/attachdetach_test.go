package attachdetach_test

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/attachdetach"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/internal/volumes"
	"github.com/kontiki/kontiki/test/harness"
)

const driver, attacherFinalizer = "d.example.com", "external-attacher/d-example-com"

type bed struct {
	*harness.Harness
	t        testing.TB
	recorder *controllertest.Recorder
}

func start(t testing.TB) *bed {
	t.Helper()
	b := &bed{harness.New(t), t, controllertest.NewRecorder()}
	controllertest.Run(t, b.Client, attachdetach.New(attachdetach.Config{Client: b.Client, Recorder: b.recorder}))
	for _, name := range []string{"n1", "n2"} {
		controllertest.Create(t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	return b
}

// volume creates a volume that is bound to a claim of the same name.
func (b *bed) volume(name string, mode corev1.PersistentVolumeAccessMode, source corev1.PersistentVolumeSource) {
	b.t.Helper()
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	claim := controllertest.Create(b.t, b.Client, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{mode}, VolumeName: name, Resources: corev1.VolumeResourceRequirements{Requests: size}}})
	controllertest.Create(b.t, b.Client, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size, AccessModes: []corev1.PersistentVolumeAccessMode{mode}, PersistentVolumeSource: source, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "default", Name: name, UID: claim.UID}}})
}

func csi(handle string) corev1.PersistentVolumeSource {
	return corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: handle}}
}

func (b *bed) pod(name, node, claim string) *corev1.Pod {
	b.t.Helper()
	return controllertest.Create(b.t, b.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{
		NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}}})
}

// attachment waits for an attachment, and adds the finalizer of an attacher, as it does before it attaches.
func (b *bed) attachment(driver, handle, node string) *storagev1.VolumeAttachment {
	b.t.Helper()
	name := volumes.AttachmentName(driver, handle, node)
	controllertest.Await(b.t, b.Client, "", name, "exists", func(*storagev1.VolumeAttachment) bool { return true })
	return controllertest.Change(b.t, b.Client, "", name, func(a *storagev1.VolumeAttachment) { a.Finalizers = []string{attacherFinalizer} })
}

// attach is attachment, and then the attacher succeeds.
func (b *bed) attach(handle, node string) {
	b.t.Helper()
	a := b.attachment(driver, handle, node)
	controllertest.ChangeStatus(b.t, b.Client, "", a.Name, func(a *storagev1.VolumeAttachment) { a.Status.Attached = true })
	b.awaitAttached(handle, node, true)
}

func (b *bed) awaitAttached(handle, node string, attached bool) {
	b.t.Helper()
	controllertest.Await(b.t, b.Client, "", node, "has the volume in volumesAttached, or not", func(n *corev1.Node) bool {
		return slices.ContainsFunc(n.Status.VolumesAttached, func(a corev1.AttachedVolume) bool { return a.Name == volumes.UniqueName(driver, handle) }) == attached
	})
}

// detach waits until an attachment is being deleted, and then the attacher detaches it.
func (b *bed) detach(handle, node string) {
	b.t.Helper()
	name := volumes.AttachmentName(driver, handle, node)
	controllertest.Await(b.t, b.Client, "", name, "is being deleted", func(a *storagev1.VolumeAttachment) bool { return a.DeletionTimestamp != nil })
	controllertest.Change(b.t, b.Client, "", name, func(a *storagev1.VolumeAttachment) { a.Finalizers = nil })
	controllertest.AwaitGone[*storagev1.VolumeAttachment](b.t, b.Client, "", name)
}

func (b *bed) uses(handle, node string, uses bool) {
	b.t.Helper()
	controllertest.ChangeStatus(b.t, b.Client, "", node, func(n *corev1.Node) {
		n.Status.VolumesInUse = nil
		if uses {
			n.Status.VolumesInUse = []corev1.UniqueVolumeName{volumes.UniqueName(driver, handle)}
		}
	})
}

func (b *bed) remove(pod string) {
	b.t.Helper()
	if err := b.Client.Delete(context.Background(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: pod}}, client.Grace(0)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) exists(handle, node string) bool {
	_, ok := client.Get[*storagev1.VolumeAttachment](b.Client.View(), "", volumes.AttachmentName(driver, handle, node))
	return ok
}

func TestAVolumeIsAttachedWhereItIsUsed(t *testing.T) {
	b := start(t)
	b.volume("a", corev1.ReadWriteOnce, csi("h"))
	b.pod("p", "n1", "a")
	a := b.attachment(driver, "h", "n1")
	if a.Spec.Attacher != driver || a.Spec.NodeName != "n1" || a.Spec.Source.PersistentVolumeName == nil || *a.Spec.Source.PersistentVolumeName != "a" {
		t.Errorf("the attachment is %+v", a.Spec)
	}
	controllertest.ChangeStatus(t, b.Client, "", a.Name, func(a *storagev1.VolumeAttachment) {
		a.Status.AttachError = &storagev1.VolumeError{Message: "no room"}
	})
	b.recorder.Await(t, `Warning FailedAttachVolume AttachVolume.Attach failed for volume "a" : no room`)
	controllertest.ChangeStatus(t, b.Client, "", a.Name, func(a *storagev1.VolumeAttachment) { a.Status = storagev1.VolumeAttachmentStatus{Attached: true} })
	b.awaitAttached("h", "n1", true)
	b.recorder.Await(t, `Normal SuccessfulAttachVolume AttachVolume.Attach succeeded for volume "a" `)

	// It stays while the worker uses it, also when the pod is gone.
	b.uses("h", "n1", true)
	b.remove("p")
	b.pod("other", "n2", "a")
	b.recorder.Await(t, `Warning FailedAttachVolume Waiting for detach for volume "a" Volume is already exclusively attached to one node, waiting on detach before it can be attached to another node`)
	if !b.exists("h", "n1") || b.exists("h", "n2") {
		t.Error("a volume that is in use was detached, or attached elsewhere")
	}
	b.awaitAttached("h", "n1", true)
	b.uses("h", "n1", false)
	b.awaitAttached("h", "n1", false)
	b.detach("h", "n1")
	b.attach("h", "n2")
}

func TestAVolumeForOneNodeIsAttachedOnce(t *testing.T) {
	b := start(t)
	b.volume("a", corev1.ReadWriteOnce, csi("h"))
	b.pod("first", "n1", "a")
	b.attach("h", "n1")
	b.pod("second", "n2", "a")
	b.recorder.Await(t, `Warning FailedAttachVolume Waiting for detach for volume "a" Volume is already used by pod(s) first`)
	if b.exists("h", "n2") {
		t.Error("it is attached twice")
	}
	// A pod that has ended does not need it, also while it exists.
	controllertest.ChangeStatus(t, b.Client, "default", "first", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	b.detach("h", "n1")
	b.attach("h", "n2")

	b.volume("shared", corev1.ReadWriteMany, csi("s"))
	b.pod("third", "n1", "shared")
	b.pod("fourth", "n2", "shared")
	b.attachment(driver, "s", "n1")
	b.attachment(driver, "s", "n2")
}

// Whoever ends an attachment, the volume is attached again, and not said to be attached meanwhile.
func TestAnAttachmentThatAnotherDeletes(t *testing.T) {
	b := start(t)
	b.volume("a", corev1.ReadWriteOnce, csi("h"))
	b.pod("p", "n1", "a")
	b.attach("h", "n1")
	name := volumes.AttachmentName(driver, "h", "n1")
	if err := b.Client.Delete(context.Background(), &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		t.Fatal(err)
	}
	b.awaitAttached("h", "n1", false)
	old, _ := client.Get[*storagev1.VolumeAttachment](b.Client.View(), "", name)
	controllertest.Change(t, b.Client, "", name, func(a *storagev1.VolumeAttachment) { a.Finalizers = nil })
	controllertest.Await(t, b.Client, "", name, "is a new one", func(a *storagev1.VolumeAttachment) bool { return a.UID != old.UID })
	b.attach("h", "n1")
}

func TestNodesThatDoNotUseVolumesAnyMore(t *testing.T) {
	b := start(t)
	b.volume("a", corev1.ReadWriteOnce, csi("h"))
	b.pod("p", "n1", "a")
	b.attach("h", "n1")
	b.uses("h", "n1", true)
	b.remove("p")
	controllertest.Change(t, b.Client, "", "n1", func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
	})
	b.detach("h", "n1")

	b.volume("f", corev1.ReadWriteOnce, csi("f"))
	b.volume("m", corev1.ReadWriteMany, csi("m"))
	b.pod("q", "n2", "f")
	b.pod("r", "n2", "m")
	b.attach("f", "n2")
	b.attach("m", "n2")
	controllertest.ChangeStatus(t, b.Client, "", "n2", func(n *corev1.Node) {
		n.Status.VolumesInUse = []corev1.UniqueVolumeName{volumes.UniqueName(driver, "f"), volumes.UniqueName(driver, "m")}
	})
	b.remove("q")
	b.remove("r")
	controllertest.Change(t, b.Client, "", "n2", func(n *corev1.Node) { metav1.SetMetaDataAnnotation(&n.ObjectMeta, volumes.FencedNode, "now") })
	b.detach("f", "n2")
	if !b.exists("m", "n2") { // its pods are not stopped by the fence
		t.Error("a shared volume of a fenced node was detached")
	}

	// A node that is gone uses nothing, and neither does an attachment whose volume is gone keep it.
	if err := b.Client.Delete(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}); err != nil {
		t.Fatal(err)
	}
	b.detach("m", "n2")
	gone := "gone"
	controllertest.Create(t, b.Client, &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: volumes.AttachmentName(driver, "x", "n3")},
		Spec: storagev1.VolumeAttachmentSpec{Attacher: driver, NodeName: "n3", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &gone}}})
	controllertest.AwaitGone[*storagev1.VolumeAttachment](t, b.Client, "", volumes.AttachmentName(driver, "x", "n3"))
}

// TestAttachmentsOfOthers: what somebody else attaches by hand is not detached, neither while its volume exists nor after.
func TestAttachmentsOfOthers(t *testing.T) {
	b := start(t)
	b.volume("a", corev1.ReadWriteOnce, csi("h"))
	gone := "gone"
	for name, of := range map[string]string{"by-hand": "a", "of-nothing": gone} {
		controllertest.Create(t, b.Client, &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: storagev1.VolumeAttachmentSpec{Attacher: driver, NodeName: "n1", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &of}}})
	}
	b.volume("b", corev1.ReadWriteOnce, csi("i")) // what follows comes after these were looked at
	b.pod("p", "n1", "b")
	b.attach("i", "n1")
	b.remove("p")
	b.detach("i", "n1")
	for _, name := range []string{"by-hand", "of-nothing"} {
		if a, ok := client.Get[*storagev1.VolumeAttachment](b.Client.View(), "", name); !ok || a.DeletionTimestamp != nil {
			t.Errorf("%s was detached", name)
		}
	}
}

func TestVolumesOfOldKindsAndOnesThatNeedNotBeAttached(t *testing.T) {
	b := start(t)
	no := false
	controllertest.Create(t, b.Client, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "nfs.example.com"}, Spec: storagev1.CSIDriverSpec{AttachRequired: &no}})
	b.volume("nfs", corev1.ReadWriteMany, corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "nfs.example.com", VolumeHandle: "x"}})
	b.pod("p", "n1", "nfs")
	b.volume("ebs", corev1.ReadWriteOnce, corev1.PersistentVolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "vol-1"}})
	b.pod("q", "n1", "ebs")
	if a := b.attachment("ebs.csi.aws.com", "vol-1", "n1"); a.Spec.Attacher != "ebs.csi.aws.com" || *a.Spec.Source.PersistentVolumeName != "ebs" {
		t.Errorf("the attachment is %+v", a.Spec)
	}
	controllertest.Create(t, b.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "inline"}, Spec: corev1.PodSpec{
		NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "vol-2"}}}}}})
	if a := b.attachment("ebs.csi.aws.com", "vol-2", "n1"); a.Spec.Source.InlineVolumeSpec == nil || a.Spec.Source.InlineVolumeSpec.CSI.VolumeHandle != "vol-2" {
		t.Errorf("the attachment is %+v", a.Spec)
	}
	b.remove("inline")
	name := volumes.AttachmentName("ebs.csi.aws.com", "vol-2", "n1")
	controllertest.Await(t, b.Client, "", name, "is being deleted", func(a *storagev1.VolumeAttachment) bool { return a.DeletionTimestamp != nil })
	if _, ok := client.Get[*storagev1.VolumeAttachment](b.Client.View(), "", volumes.AttachmentName("nfs.example.com", "x", "n1")); ok {
		t.Error("a volume of a driver without attachments has one")
	}
}

func TestAnAttacherThatDoesNothing(t *testing.T) {
	h, recorder := harness.New(t), controllertest.NewRecorder()
	clock := controllertest.NewClock(time.Now())
	controllertest.Run(t, h.Client, attachdetach.New(attachdetach.Config{Client: h.Client, Recorder: recorder, Now: clock.Now, Timeout: time.Minute}))
	b := &bed{h, t, recorder}
	controllertest.Create(t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	b.volume("a", corev1.ReadWriteOnce, csi("h"))
	b.pod("p", "n1", "a")
	b.attachment(driver, "h", "n1")
	clock.Advance(2 * time.Minute)
	controllertest.Change(t, b.Client, "", "a", func(pv *corev1.PersistentVolume) { metav1.SetMetaDataAnnotation(&pv.ObjectMeta, "poke", "") })
	recorder.Await(t, `Warning FailedAttachVolume AttachVolume.Attach failed for volume "a" : timed out waiting for external-attacher of d.example.com CSI driver to attach volume h`)
}
