package resourceclaim_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/resourceclaim"
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
	controllertest.Run(t, b.Client, resourceclaim.New(b.Client, b.recorder)...)
	return b
}

func spec() resourcev1.ResourceClaimSpec {
	return resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "gpu", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpus"}}}}}
}

func (b *bed) pod(name string, entries ...corev1.PodResourceClaim) *corev1.Pod {
	b.t.Helper()
	return controllertest.Create(b.t, b.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{ResourceClaims: entries, Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
}

func fromTemplate(name string) corev1.PodResourceClaim {
	return corev1.PodResourceClaim{Name: "card", ResourceClaimTemplateName: new(name)}
}

func (b *bed) template() {
	b.t.Helper()
	controllertest.Create(b.t, b.Client, &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "t"},
		Spec: resourcev1.ResourceClaimTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}}, Spec: spec()}})
}

// named waits until a pod's status names its claim, and returns that.
func (b *bed) named(pod string, other func(string) bool) *resourcev1.ResourceClaim {
	b.t.Helper()
	p := controllertest.Await(b.t, b.Client, "default", pod, "has a claim", func(p *corev1.Pod) bool {
		return len(p.Status.ResourceClaimStatuses) == 1 && other(*p.Status.ResourceClaimStatuses[0].ResourceClaimName)
	})
	return controllertest.Await(b.t, b.Client, "default", *p.Status.ResourceClaimStatuses[0].ResourceClaimName, "exists", func(*resourcev1.ResourceClaim) bool { return true })
}

func anyName(string) bool { return true }

// allocate does what the scheduler does.
func (b *bed) allocate(claim string, users ...*corev1.Pod) {
	b.t.Helper()
	controllertest.Change(b.t, b.Client, "default", claim, func(c *resourcev1.ResourceClaim) { c.Finalizers = append(c.Finalizers, resourcev1.Finalizer) })
	controllertest.ChangeStatus(b.t, b.Client, "default", claim, func(c *resourcev1.ResourceClaim) {
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Request: "gpu", Driver: "example.com", Pool: "n1", Device: "0"}}}}
		for _, p := range users {
			c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
		}
	})
}

func (b *bed) end(pod string) {
	b.t.Helper()
	controllertest.ChangeStatus(b.t, b.Client, "default", pod, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
}

func TestClaimsAreMadeFromTemplates(t *testing.T) {
	b := start(t)
	p := b.pod("p", fromTemplate("t"))
	b.recorder.Await(t, `Warning FailedResourceClaimCreation PodResourceClaim card: resource claim template "t": resourceclaimtemplate.resource.k8s.io "t" not found`)
	b.template()
	claim := b.named("p", anyName)
	ref := metav1.GetControllerOf(claim)
	if ref == nil || ref.UID != p.UID || ref.Kind != "Pod" || ref.BlockOwnerDeletion != nil || !strings.HasPrefix(claim.Name, "p-card-") || claim.Labels["a"] != "b" ||
		claim.Annotations["c"] != "d" || claim.Annotations[resourcev1.PodResourceClaimAnnotation] != "card" || claim.Spec.Devices.Requests[0].Exactly.DeviceClassName != "gpus" {
		t.Errorf("claim %+v", claim)
	}
	// One whose name was not stored is found, and one that is lost is made again.
	controllertest.ChangeStatus(t, b.Client, "default", "p", func(p *corev1.Pod) { p.Status.ResourceClaimStatuses = nil })
	if again := b.named("p", anyName); again.UID != claim.UID {
		t.Errorf("%s was made although there was %s", again.Name, claim.Name)
	}
	if err := b.Client.Delete(context.Background(), claim); err != nil {
		t.Fatal(err)
	}
	b.named("p", func(name string) bool { return name != claim.Name })
	// A pod that is done needs none.
	b.end("p")
	controllertest.AwaitView(t, b.Client, []client.Object{&resourcev1.ResourceClaim{}}, func(v client.View) string {
		if len(client.List[*resourcev1.ResourceClaim](v, "default", nil)) > 0 {
			return "the claim is still there"
		}
		return ""
	})
}

func TestReservationsAndAllocationsEnd(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "shared"}, Spec: spec()})
	shares := corev1.PodResourceClaim{Name: "card", ResourceClaimName: new("shared")}
	first, second, third := b.pod("first", shares), b.pod("second", shares), b.pod("third", shares)
	b.allocate("shared", first, second)
	state := func(what string, allocated bool, users ...*corev1.Pod) {
		t.Helper()
		controllertest.Await(t, b.Client, "default", "shared", what, func(c *resourcev1.ResourceClaim) bool {
			same := len(users) == len(c.Status.ReservedFor)
			for _, p := range users {
				same = same && slices.ContainsFunc(c.Status.ReservedFor, func(ref resourcev1.ResourceClaimConsumerReference) bool {
					return ref.UID == p.UID && ref.Name == p.Name && ref.Resource == "pods"
				})
			}
			return same && allocated == (c.Status.Allocation != nil) && allocated == slices.Contains(c.Finalizers, resourcev1.Finalizer)
		})
	}
	state("for two", true, first, second)
	b.end("first")
	state("for the second", true, second)
	// A pod that is bound by somebody else than the scheduler gets its reservation.
	if err := b.Client.Bind(context.Background(), third, "n1"); err != nil {
		t.Fatal(err)
	}
	state("for the third, too", true, second, third)
	if err := b.Client.Delete(context.Background(), second, client.Grace(0)); err != nil {
		t.Fatal(err)
	}
	state("for the third", true, third)
	b.end("third")
	state("free", false)
	// An allocation that no pod has reserved lasts as long as a pod that names the claim.
	waiting := b.pod("waiting", shares)
	b.allocate("shared")
	state("allocated", true)
	if err := b.Client.Delete(context.Background(), waiting, client.Grace(0)); err != nil {
		t.Fatal(err)
	}
	state("free again", false)
	b.pod("another", shares)
	b.allocate("shared")
	state("allocated again", true)
	if err := b.Client.Delete(context.Background(), &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "shared"}}); err != nil {
		t.Fatal(err)
	}
	controllertest.AwaitGone[*resourcev1.ResourceClaim](t, b.Client, "default", "shared")
}

// A claim that was made for a pod ends with it, with its allocation.
func TestAMadeClaimEndsWithItsPod(t *testing.T) {
	b := start(t)
	b.template()
	p := b.pod("p", fromTemplate("t"))
	claim := b.named("p", anyName)
	b.allocate(claim.Name, p)
	b.end("p")
	controllertest.AwaitGone[*resourcev1.ResourceClaim](t, b.Client, "default", claim.Name)
}
