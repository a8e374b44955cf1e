package devices

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/scheduler/framework"
	"github.com/kontiki/kontiki/test/harness"
)

// container requests cards; a negative number makes it a sidecar.
func container(name string, cards int64) corev1.Container {
	c := corev1.Container{Name: name, Image: "i"}
	if cards < 0 {
		always := corev1.ContainerRestartPolicyAlways
		c.RestartPolicy, cards = &always, -cards
	}
	if cards > 0 {
		c.Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("1"), "example.com/card": *resource.NewQuantity(cards, resource.DecimalSI)}
	}
	return c
}

func TestRequestsForExtendedResources(t *testing.T) {
	for _, c := range []struct {
		name           string
		init, main     []corev1.Container
		wants, assigns string
	}{
		{"one each", nil, []corev1.Container{container("a", 1), container("b", 2), container("c", 0)},
			"container-0-request-1=1 container-1-request-1=2", "a:container-0-request-1 b:container-1-request-1"},
		{"init containers use what comes later", []corev1.Container{container("i", 2)}, []corev1.Container{container("a", 1), container("b", 2)},
			"container-1-request-1=1 container-2-request-1=2", "a:container-1-request-1 b:container-2-request-1 i:container-1-request-1 i:container-2-request-1"},
		{"init containers share what is missing", []corev1.Container{container("i", 2), container("j", 4)}, []corev1.Container{container("a", 1)},
			"container-1-request-1=3 container-2-request-1=1", "a:container-2-request-1 i:container-2-request-1 i:container-1-request-1 j:container-2-request-1 j:container-1-request-1"},
		{"a sidecar keeps what it has", []corev1.Container{container("s", -1), container("i", 1)}, []corev1.Container{container("a", 0)},
			"container-0-request-1=1 container-1-request-1=1", "s:container-0-request-1 i:container-1-request-1"},
		{"an init container before a sidecar uses its", []corev1.Container{container("i", 1), container("s", -1)}, []corev1.Container{container("a", 0)},
			"container-1-request-1=1", "s:container-1-request-1 i:container-1-request-1"},
	} {
		requests, mappings := requestsFor(&corev1.Pod{Spec: corev1.PodSpec{InitContainers: c.init, Containers: c.main}}, map[corev1.ResourceName]string{"example.com/card": "gpu"})
		var wants, assigns []string
		for _, r := range requests {
			if r.Exactly.DeviceClassName != "gpu" || r.Exactly.AllocationMode != resourcev1.DeviceAllocationModeExactCount {
				t.Errorf("%s: %+v", c.name, r)
			}
			wants = append(wants, fmt.Sprintf("%s=%d", r.Name, r.Exactly.Count))
		}
		for _, m := range mappings {
			assigns = append(assigns, m.ContainerName+":"+m.RequestName)
		}
		if got := strings.Join(wants, " "); got != c.wants {
			t.Errorf("%s: requests %s, want %s", c.name, got, c.wants)
		}
		if got := strings.Join(assigns, " "); got != c.assigns {
			t.Errorf("%s: mappings %s, want %s", c.name, got, c.assigns)
		}
	}
}

func TestTheNewestClassProvidesAResource(t *testing.T) {
	s := NewState(nil, nil)
	class := func(name string, created int64) *resourcev1.DeviceClass {
		return &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(created, 0))},
			Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: new("example.com/card")}}
	}
	for _, step := range []struct {
		class   *resourcev1.DeviceClass
		gone    bool
		changes bool
		want    string
	}{
		{class("b", 1), false, true, "b"}, {class("b", 1), false, false, "b"}, {class("old", 0), false, true, "b"}, {class("a", 1), false, true, "a"},
		{class("new", 2), false, true, "new"}, {class("new", 2), true, true, "a"},
	} {
		if changed := s.ObserveClass(step.class, step.gone); changed != step.changes || s.providers["example.com/card"].Name != step.want {
			t.Errorf("%s (gone: %v): changed %v, provided by %s", step.class.Name, step.gone, changed, s.providers["example.com/card"].Name)
		}
	}
	if !s.Provides("deviceclass.resource.kubernetes.io/a") || s.Provides("deviceclass.resource.kubernetes.io/new") || (*State)(nil).Provides("example.com/card") {
		t.Error("the implicit resources are wrong")
	}
}

func TestWhatIsUnsureStaysTaken(t *testing.T) {
	h := harness.New(t)
	s := NewState(h.Client, nil)
	freed := 0
	s.Freed = func(_, _ *resourcev1.ResourceClaim) { freed++ }
	c := controllertest.Create(t, h.Client, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"}, Spec: resourcev1.ResourceClaimSpec{
		Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}}}}}})
	allocation := &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "r", Driver: "d.example.com", Pool: "n", Device: "0"}}}}
	taken := func(want int) {
		t.Helper()
		if got := len(s.taken.AllocatedDevices); got != want {
			t.Errorf("%d devices are taken, want %d", got, want)
		}
	}
	// An attempt that certainly failed frees the device.
	s.reserve(c.UID, c, allocation, "p", framework.GangKey{})
	taken(1)
	s.drop(c.UID, "p", c, 0)
	if taken(0); freed != 1 {
		t.Errorf("freed %d times", freed)
	}
	// One whose outcome is not known does when the claim has changed otherwise.
	s.reserve(c.UID, c, allocation, "p", framework.GangKey{})
	s.drop(c.UID, "p", c, versionOf(c))
	taken(1)
	if p := s.pendingOf(c.UID); p == nil || p.users.Len() != 0 {
		t.Errorf("pending: %+v", p)
	}
	c = controllertest.Change(t, h.Client, "default", "c", func(c *resourcev1.ResourceClaim) { c.Labels = map[string]string{"a": "b"} })
	s.ObserveClaim(c, false)
	if taken(0); freed != 2 {
		t.Errorf("freed %d times", freed)
	}
	// One that was carried out counts at once, and an older event does not change that.
	s.reserve(c.UID, c, allocation, "p", framework.GangKey{})
	before := c
	c = controllertest.ChangeStatus(t, h.Client, "default", "c", func(c *resourcev1.ResourceClaim) { c.Status.Allocation = allocation.DeepCopy() })
	s.drop(c.UID, "p", before, versionOf(before))
	s.ObserveClaim(before, false)
	taken(1)
	s.ObserveClaim(c, true)
	taken(0)
}

// TestADecisionIsStoredForItsAllocationOnly: a claim that several pods share was given, taken away, or given elsewhere since the decision.
func TestADecisionIsStoredForItsAllocationOnly(t *testing.T) {
	h := harness.New(t)
	f := &podClaims{plugin: &DynamicResources{State: NewState(h.Client, nil)}, pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "p"}}}
	allocation := func(device string) *resourcev1.AllocationResult {
		return &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "r", Driver: "d.example.com", Pool: "n", Device: device}}}}
	}
	claim := func(name string) *resourcev1.ResourceClaim {
		return controllertest.Create(t, h.Client, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: resourcev1.ResourceClaimSpec{
			Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}}}}}})
	}
	allocate := func(name string, to *resourcev1.AllocationResult) *resourcev1.ResourceClaim {
		return controllertest.ChangeStatus(t, h.Client, "default", name, func(c *resourcev1.ResourceClaim) { c.Status.Allocation = to })
	}
	stored := func(name string) *resourcev1.ResourceClaim {
		c, _ := client.Get[*resourcev1.ResourceClaim](h.Client.View(), "default", name)
		return c
	}
	taken := &podClaim{claim: claim("taken"), decided: allocation("0")}
	allocate("taken", allocation("0"))
	allocate("taken", nil)
	if err := f.store(t.Context(), taken); err == nil || stored("taken").Status.Allocation != nil {
		t.Errorf("devices that may be others' already: %v, %+v", err, stored("taken").Status)
	}
	claim("moved")
	moved := &podClaim{claim: allocate("moved", allocation("0"))}
	allocate("moved", nil)
	allocate("moved", allocation("1"))
	if err := f.store(t.Context(), moved); err == nil || len(stored("moved").Status.ReservedFor) > 0 {
		t.Errorf("devices of another node: %v, %+v", err, stored("moved").Status)
	}
	same := &podClaim{claim: claim("same"), decided: allocation("0")}
	allocate("same", allocation("0"))
	if err := f.store(t.Context(), same); err != nil || len(stored("same").Status.ReservedFor) != 1 {
		t.Errorf("what another pod has stored: %v, %+v", err, stored("same").Status)
	}
	// A write that may still take the allocation of this version away cannot do so after a reservation has been renewed.
	f.plugin.State.doubts.Store(same.claim.UID, versionOf(same.claim))
	before := same.claim.DeepCopy()
	f.claims = []*podClaim{same}
	if err := f.PreBind(t.Context(), "n"); err != nil {
		t.Fatal(err)
	}
	before.Status.Allocation, before.Status.ReservedFor = nil, nil
	if _, err := client.UpdateStatus(t.Context(), h.Client, before); !apierrors.IsConflict(err) || len(stored("same").Status.ReservedFor) != 1 {
		t.Errorf("a late write: %v, %+v", err, stored("same").Status)
	}
}

// TestAnAllocationThatWasTakenAwayHidesNoNewOne: the decision may be about a claim that is newer than its last event.
func TestAnAllocationThatWasTakenAwayHidesNoNewOne(t *testing.T) {
	h := harness.New(t)
	s := NewState(h.Client, nil)
	on := func(device string) *resourcev1.AllocationResult {
		return &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "r", Driver: "d.example.com", Pool: "n", Device: device}}}}
	}
	version := func(v string, a *resourcev1.AllocationResult) *resourcev1.ResourceClaim {
		return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c", UID: "c", ResourceVersion: v}, Status: resourcev1.ResourceClaimStatus{Allocation: a}}
	}
	taken := func(when, want string) {
		t.Helper()
		names := []string{}
		for id := range s.taken.AllocatedDevices {
			names = append(names, id.Device.String())
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %q is taken, want %q", when, got, want)
		}
	}
	s.ObserveClaim(version("5", on("old")), false)
	taken("at first", "old")
	s.reserve("c", version("7", nil), on("new"), "p", framework.GangKey{})
	taken("reserved", "new")
	s.ObserveClaim(version("5", on("old")), false) // events come late, and again
	s.ObserveClaim(version("6", nil), false)
	taken("after older events", "new")
	s.drop("c", "p", version("7", nil), 0)
	taken("given up", "")

	// A claim that was not known at all.
	s.reserve("c", version("9", nil), on("new"), "p", framework.GangKey{})
	s.ObserveClaim(version("8", on("old")), false)
	taken("before an older event of an unknown claim", "new")
}

// TestAnUnsureWriteIsSettledByALaterVersion, also if that was observed while another attempt went on.
func TestAnUnsureWriteIsSettledByALaterVersion(t *testing.T) {
	h := harness.New(t)
	s := NewState(h.Client, nil)
	c := controllertest.Create(t, h.Client, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"}, Spec: resourcev1.ResourceClaimSpec{
		Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}}}}}})
	allocation := &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "r", Driver: "d.example.com", Pool: "n", Device: "0"}}}}
	s.reserve(c.UID, c, allocation, "p", framework.GangKey{})
	s.drop(c.UID, "p", c, versionOf(c))
	s.reserve(c.UID, c, allocation, "q", framework.GangKey{})
	later := controllertest.Change(t, h.Client, "default", "c", func(c *resourcev1.ResourceClaim) { c.Labels = map[string]string{"a": "b"} })
	s.ObserveClaim(later, false)
	s.drop(c.UID, "q", later, 0)
	if p := s.pendingOf(c.UID); p != nil || len(s.taken.AllocatedDevices) != 0 {
		t.Errorf("it is still pending: %+v", p)
	}
}

func TestChangesOfClaimsThatMayHelp(t *testing.T) {
	claim := func(name string, allocated bool, users ...string) *resourcev1.ResourceClaim {
		c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
		if allocated {
			c.Status.Allocation = &resourcev1.AllocationResult{}
		}
		for _, u := range users {
			c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{UID: types.UID(u)})
		}
		return c
	}
	p := framework.NewPodInfo(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: corev1.PodSpec{ResourceClaims: []corev1.PodResourceClaim{{Name: "c", ResourceClaimName: new("mine")}}}})
	for _, c := range []struct {
		name     string
		old, now *resourcev1.ResourceClaim
		want     bool
	}{
		{"its claim is created", nil, claim("mine", false), true},
		{"another is created", nil, claim("other", false), false},
		{"another is allocated", claim("other", false), claim("other", true), false},
		{"another is freed", claim("other", true), claim("other", false), true},
		{"another is deleted with devices", claim("other", true), nil, true},
		{"another is deleted without", claim("other", false), nil, false},
		{"a user of its claim goes", claim("mine", true, "a", "b"), claim("mine", true, "a"), true},
		{"nothing of its claim's status changes", claim("mine", true), claim("mine", true), false},
	} {
		if got := wakes(p, &framework.Event{Old: c.old, New: c.now}); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
