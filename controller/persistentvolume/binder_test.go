package persistentvolume_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/persistentvolume"
	"github.com/kontiki/kontiki/controller/storageprotection"
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
	controllertest.Run(t, b.Client, persistentvolume.New(b.Client, b.recorder), storageprotection.NewClaims(b.Client), storageprotection.NewVolumes(b.Client))
	return b
}

func size(text string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(text)}
}

func (b *bed) volume(name, capacity string, change func(*corev1.PersistentVolume)) {
	b.t.Helper()
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size(capacity), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: "slow",
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv/" + name}}}}
	change(volume)
	controllertest.Create(b.t, b.Client, volume)
}

func (b *bed) claim(name, request string, change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	b.t.Helper()
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To("slow"), Resources: corev1.VolumeResourceRequirements{Requests: size(request)}}}
	change(claim)
	return controllertest.Create(b.t, b.Client, claim)
}

func as[T any](T) {}

func (b *bed) awaitClaim(name string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
	b.t.Helper()
	return controllertest.Await(b.t, b.Client, "default", name, string(phase), func(c *corev1.PersistentVolumeClaim) bool { return c.Status.Phase == phase })
}

func (b *bed) awaitVolume(name string, phase corev1.PersistentVolumePhase) *corev1.PersistentVolume {
	b.t.Helper()
	return controllertest.Await(b.t, b.Client, "", name, string(phase), func(v *corev1.PersistentVolume) bool { return v.Status.Phase == phase })
}

// bound waits until both are bound to each other.
func (b *bed) bound(claim, volume string) *corev1.PersistentVolumeClaim {
	b.t.Helper()
	c := controllertest.Await(b.t, b.Client, "default", claim, "bound to "+volume, func(c *corev1.PersistentVolumeClaim) bool {
		return c.Status.Phase == corev1.ClaimBound && c.Spec.VolumeName == volume
	})
	v := b.awaitVolume(volume, corev1.VolumeBound)
	if ref := v.Spec.ClaimRef; ref == nil || ref.UID != c.UID || ref.Name != claim || ref.Namespace != "default" || ref.Kind != "PersistentVolumeClaim" {
		b.t.Errorf("claimRef %+v", ref)
	}
	if c.Annotations["pv.kubernetes.io/bind-completed"] != "yes" || !c.Status.Capacity.Storage().Equal(*v.Spec.Capacity.Storage()) || len(c.Status.AccessModes) != len(v.Spec.AccessModes) {
		b.t.Errorf("claim %+v", c)
	}
	return c
}

func (b *bed) delete(obj client.Object) {
	b.t.Helper()
	if err := b.Client.Delete(context.Background(), obj); err != nil {
		b.t.Fatal(err)
	}
}

func TestTheSmallestVolumeThatSatisfiesIsBound(t *testing.T) {
	b := start(t)
	b.volume("huge", "100Gi", as)
	b.volume("fits", "10Gi", as)
	b.volume("small", "1Gi", as)
	b.volume("fast", "5Gi", func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "fast" })
	b.volume("block", "5Gi", func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) })
	b.volume("shared", "5Gi", func(v *corev1.PersistentVolume) {
		v.Spec.AccessModes = append(v.Spec.AccessModes, corev1.ReadWriteMany)
	})
	b.volume("labelled", "50Gi", func(v *corev1.PersistentVolume) { v.Labels = map[string]string{"tier": "gold"} })
	for _, name := range []string{"huge", "fits", "small", "fast", "block", "shared", "labelled"} {
		b.awaitVolume(name, corev1.VolumeAvailable)
	}
	b.claim("plain", "5Gi", as)
	if c := b.bound("plain", "fits"); c.Annotations["pv.kubernetes.io/bound-by-controller"] != "yes" { // rather than the one with more access modes
		t.Errorf("annotations %v", c.Annotations)
	}
	b.claim("many", "5Gi", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	})
	b.bound("many", "shared")
	b.claim("raw", "5Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) })
	b.bound("raw", "block")
	b.claim("gold", "5Gi", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}}
	})
	b.bound("gold", "labelled")
	b.claim("quick", "5Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("fast") })
	b.bound("quick", "fast")
	// One that nothing satisfies is bound when something does.
	b.claim("big", "200Gi", as)
	b.recorder.Await(t, `Warning ProvisioningFailed storageclass.storage.k8s.io "slow" not found`)
	b.volume("larger", "200Gi", as)
	b.bound("big", "larger")
}

func TestWithoutAClass(t *testing.T) {
	b := start(t)
	b.claim("c", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("") })
	b.recorder.Await(t, "Normal FailedBinding no persistent volumes available for this claim and no storage class is set")
	b.awaitClaim("c", corev1.ClaimPending)
	b.volume("v", "1Gi", func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "" })
	b.bound("c", "v")
	// A claim of no class gets the default one when there is one.
	b.claim("later", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil })
	controllertest.Create(t, b.Client, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "usual", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}}, Provisioner: "example.com/p"})
	controllertest.Await(t, b.Client, "default", "later", "has the default class", func(c *corev1.PersistentVolumeClaim) bool { return ptr.Deref(c.Spec.StorageClassName, "") == "usual" })
}

func TestReservations(t *testing.T) {
	b := start(t)
	// A volume that is reserved for a claim by its name waits for that claim.
	b.volume("reserved", "10Gi", func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "right"}
	})
	b.awaitVolume("reserved", corev1.VolumeAvailable)
	b.claim("wrong", "1Gi", as)
	b.recorder.Await(t, "Warning ProvisioningFailed")
	b.claim("right", "1Gi", as)
	b.bound("right", "reserved")
	b.delete(b.awaitClaim("wrong", corev1.ClaimPending))
	controllertest.AwaitGone[*corev1.PersistentVolumeClaim](t, b.Client, "default", "wrong")
	// A claim that names its volume waits for it.
	b.claim("named", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "mine" })
	b.volume("mine", "1Gi", as)
	b.bound("named", "mine")
	b.claim("late", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "mine" })
	b.recorder.Await(t, `Warning FailedBinding volume "mine" already bound to a different claim.`)
	// It is not bound to one that is not what it requests.
	for name, c := range map[string]struct {
		change  func(*corev1.PersistentVolumeClaim)
		message string
	}{
		"larger": {func(c *corev1.PersistentVolumeClaim) { c.Spec.Resources.Requests = size("2Gi") }, "requested PV is too small"},
		"class":  {func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = ptr.To("fast") }, "storageClassName does not match"},
		"mode":   {func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }, "incompatible volumeMode"},
		"access": {func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}, "incompatible accessMode"},
	} {
		b.volume("for-"+name, "1Gi", func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "slow" })
		b.claim(name, "1Gi", func(claim *corev1.PersistentVolumeClaim) {
			claim.Spec.VolumeName = "for-" + name
			c.change(claim)
		})
		b.recorder.Await(t, fmt.Sprintf("Warning VolumeMismatch Cannot bind to requested volume %q: %s", "for-"+name, c.message))
		b.awaitClaim(name, corev1.ClaimPending)
	}
}

func TestVolumesOfDeletedClaims(t *testing.T) {
	b := start(t)
	for name, c := range map[string]struct {
		policy corev1.PersistentVolumeReclaimPolicy
		change func(*corev1.PersistentVolume)
		phase  corev1.PersistentVolumePhase
		event  string
	}{
		"retain": {corev1.PersistentVolumeReclaimRetain, as[*corev1.PersistentVolume], corev1.VolumeReleased, ""},
		"external": {corev1.PersistentVolumeReclaimDelete, func(v *corev1.PersistentVolume) {
			v.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": "example.com/p"}
		}, corev1.VolumeReleased, ""},
		"nobody": {corev1.PersistentVolumeReclaimDelete, func(v *corev1.PersistentVolume) {
			v.Spec.HostPath, v.Spec.NFS = nil, &corev1.NFSVolumeSource{Server: "s", Path: "/p"}
		}, corev1.VolumeFailed, `Warning VolumeFailedDelete error getting deleter volume plugin for volume "nobody": no deletable volume plugin matched`},
		"recycle": {corev1.PersistentVolumeReclaimRecycle, as[*corev1.PersistentVolume], corev1.VolumeFailed, "Warning VolumeFailedRecycle No recycler plugin found for the volume!"},
	} {
		b.volume(name, "1Gi", func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy = c.policy
			c.change(v)
		})
		claim := b.claim(name, "1Gi", func(claim *corev1.PersistentVolumeClaim) { claim.Spec.VolumeName = name })
		b.bound(name, name)
		b.delete(claim)
		controllertest.AwaitGone[*corev1.PersistentVolumeClaim](t, b.Client, "default", name)
		volume := b.awaitVolume(name, c.phase)
		if volume.Spec.ClaimRef == nil || volume.Spec.ClaimRef.UID != claim.UID {
			t.Errorf("%s: claimRef %+v", name, volume.Spec.ClaimRef)
		}
		if c.event != "" {
			b.recorder.Await(t, c.event)
		}
		// Another claim of that name does not get it.
		b.claim(name, "1Gi", as)
		b.recorder.Await(t, "Warning ProvisioningFailed")
		b.delete(b.awaitClaim(name, corev1.ClaimPending))
		controllertest.AwaitGone[*corev1.PersistentVolumeClaim](t, b.Client, "default", name)
		b.awaitVolume(name, c.phase)
	}
	// An administrator makes one available again.
	controllertest.Change(t, b.Client, "", "retain", func(v *corev1.PersistentVolume) { v.Spec.ClaimRef = nil })
	b.claim("next", "1Gi", as)
	b.bound("next", "retain")
}

func TestBrokenBindings(t *testing.T) {
	b := start(t)
	b.volume("gone", "1Gi", as)
	b.claim("orphan", "1Gi", as)
	b.bound("orphan", "gone")
	controllertest.Change(t, b.Client, "", "gone", func(v *corev1.PersistentVolume) { v.Finalizers = nil })
	b.delete(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "gone"}})
	b.awaitClaim("orphan", corev1.ClaimLost)
	b.recorder.Await(t, "Warning ClaimLost Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	// A volume that has lost its claim is bound to it again.
	b.volume("loose", "1Gi", as)
	b.claim("tight", "1Gi", as)
	b.bound("tight", "loose")
	controllertest.Change(t, b.Client, "", "loose", func(v *corev1.PersistentVolume) { v.Spec.ClaimRef = nil })
	controllertest.Await(t, b.Client, "", "loose", "bound again", func(v *corev1.PersistentVolume) bool { return v.Spec.ClaimRef != nil })
	b.bound("tight", "loose")
	// A volume of which the binder thought, but whose claim has got another one, is free.
	tight, _ := client.Get[*corev1.PersistentVolumeClaim](b.Client.View(), "default", "tight")
	ref := &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: "default", Name: "tight", UID: tight.UID}
	b.volume("spare", "1Gi", func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef, v.Annotations = ref, map[string]string{"pv.kubernetes.io/bound-by-controller": "yes"}
	})
	if v := b.awaitVolume("spare", corev1.VolumeAvailable); v.Spec.ClaimRef != nil {
		t.Errorf("claimRef %+v", v.Spec.ClaimRef)
	}
	b.volume("reserved", "1Gi", func(v *corev1.PersistentVolume) { v.Spec.ClaimRef = ref.DeepCopy() })
	if v := b.awaitVolume("reserved", corev1.VolumeAvailable); v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != "" {
		t.Errorf("claimRef %+v", v.Spec.ClaimRef)
	}
}

func TestProvisioners(t *testing.T) {
	b := start(t)
	class := func(name, provisioner string, mode storagev1.VolumeBindingMode) {
		controllertest.Create(t, b.Client, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode})
	}
	of := func(class string) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &class }
	}
	class("now", "example.com/p", storagev1.VolumeBindingImmediate)
	class("wait", "example.com/p", storagev1.VolumeBindingWaitForFirstConsumer)
	class("none", "kubernetes.io/no-provisioner", storagev1.VolumeBindingImmediate)
	asked := func(name string) *corev1.PersistentVolumeClaim {
		return controllertest.Await(t, b.Client, "default", name, "asks its provisioner", func(c *corev1.PersistentVolumeClaim) bool {
			return c.Annotations["volume.kubernetes.io/storage-provisioner"] == "example.com/p" && c.Annotations["volume.beta.kubernetes.io/storage-provisioner"] == "example.com/p"
		})
	}
	b.claim("now", "1Gi", of("now"))
	now := asked("now")
	b.recorder.Await(t, "Normal ExternalProvisioning Waiting for a volume to be created either by the external provisioner 'example.com/p' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.")
	// The provisioner makes a volume for the claim.
	b.volume("pvc-1", "1Gi", func(v *corev1.PersistentVolume) {
		v.Spec.StorageClassName, v.Spec.PersistentVolumeReclaimPolicy = "now", corev1.PersistentVolumeReclaimDelete
		v.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": "example.com/p"}
		v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: "default", Name: "now", UID: now.UID}
	})
	b.bound("now", "pvc-1")

	b.claim("none", "1Gi", of("none"))
	b.recorder.Await(t, "Warning ProvisioningFailed no volume plugin matched name: kubernetes.io/no-provisioner")

	// A claim that waits is bound or provisioned when the scheduler says so, however many volumes there are.
	b.volume("free", "1Gi", func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "wait" })
	b.claim("wait", "1Gi", of("wait"))
	b.recorder.Await(t, "Normal WaitForFirstConsumer waiting for first consumer to be created before binding")
	controllertest.Create(t, b.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "wait"}}}}}})
	controllertest.Change(t, b.Client, "default", "wait", func(c *corev1.PersistentVolumeClaim) { metav1.SetMetaDataAnnotation(&c.ObjectMeta, "poke", "") })
	b.recorder.Await(t, "Normal WaitForPodScheduled waiting for pod p to be scheduled")
	b.awaitVolume("free", corev1.VolumeAvailable)
	wait := b.awaitClaim("wait", corev1.ClaimPending)
	controllertest.Change(t, b.Client, "", "free", func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: "default", Name: "wait", UID: wait.UID}
	})
	b.bound("wait", "free")
	controllertest.Create(t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	b.claim("selected", "1Gi", of("wait"))
	controllertest.Change(t, b.Client, "default", "selected", func(c *corev1.PersistentVolumeClaim) {
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, "volume.kubernetes.io/selected-node", "n1")
	})
	asked("selected")
}

// Many claims and volumes at once: each is bound to one other.
func TestManyClaims(t *testing.T) {
	b := start(t)
	const count = 60
	for i := range count {
		if i%2 == 0 {
			b.volume(fmt.Sprint("v", i), "1Gi", as)
			b.volume(fmt.Sprint("v", i+1), "1Gi", as)
		}
		b.claim(fmt.Sprint("c", i), "1Gi", as)
	}
	controllertest.AwaitView(t, b.Client, []client.Object{&corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}}, func(v client.View) string {
		of := map[string]string{}
		for _, c := range client.List[*corev1.PersistentVolumeClaim](v, "default", nil) {
			if c.Status.Phase != corev1.ClaimBound {
				return c.Name + " is not bound"
			}
			if other, twice := of[c.Spec.VolumeName]; twice {
				t.Errorf("%s and %s have %s", c.Name, other, c.Spec.VolumeName)
			}
			of[c.Spec.VolumeName] = c.Name
		}
		return ""
	})
}
