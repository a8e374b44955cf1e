package scheduler_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
)

const driver = "gpu.example.com"

// devices starts a scheduler in a cluster with a class that any device of the driver is of.
func devices(t testing.TB) *bed {
	t.Helper()
	b := start(t)
	b.deviceClass("gpu", `device.driver == "gpu.example.com"`)
	return b
}

func (b *bed) deviceClass(name, selector string, change ...func(*resourcev1.DeviceClass)) {
	b.t.Helper()
	class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.DeviceClassSpec{
		Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: selector}}}}}
	for _, c := range change {
		c(class)
	}
	create(b, class)
}

// slice publishes devices of a node: the pool has its name.
func (b *bed) slice(node string, devices ...resourcev1.Device) *resourcev1.ResourceSlice {
	b.t.Helper()
	return create(b, &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: node + "-" + driver}, Spec: resourcev1.ResourceSliceSpec{
		Driver: driver, NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, ResourceSliceCount: 1, Generation: 1}, Devices: devices}})
}

func device(name string, change ...func(*resourcev1.Device)) resourcev1.Device {
	d := resourcev1.Device{Name: name}
	for _, c := range change {
		c(&d)
	}
	return d
}

// attributes sets string attributes: name, value, name, value, ...
func attributes(pairs ...string) func(*resourcev1.Device) {
	return func(d *resourcev1.Device) {
		d.Attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{}
		for i := 0; i < len(pairs); i += 2 {
			d.Attributes[resourcev1.QualifiedName(pairs[i])] = resourcev1.DeviceAttribute{StringValue: &pairs[i+1]}
		}
	}
}

// want requests devices of the class gpu.
func want(name string, count int64, change ...func(*resourcev1.ExactDeviceRequest)) resourcev1.DeviceRequest {
	r := &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count}
	for _, c := range change {
		c(r)
	}
	return resourcev1.DeviceRequest{Name: name, Exactly: r}
}

func selecting(expression string) func(*resourcev1.ExactDeviceRequest) {
	return func(r *resourcev1.ExactDeviceRequest) {
		r.Selectors = append(r.Selectors, resourcev1.DeviceSelector{CEL: &resourcev1.CELDeviceSelector{Expression: expression}})
	}
}

func (b *bed) deviceClaim(name string, requests ...resourcev1.DeviceRequest) *resourcev1.ResourceClaim {
	b.t.Helper()
	return b.deviceClaimOf(name, resourcev1.DeviceClaim{Requests: requests})
}

func (b *bed) deviceClaimOf(name string, devices resourcev1.DeviceClaim) *resourcev1.ResourceClaim {
	b.t.Helper()
	return create(b, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: resourcev1.ResourceClaimSpec{Devices: devices}})
}

// using makes a pod use claims.
func using(claims ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for i, name := range claims {
			p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: fmt.Sprint("c", i), ResourceClaimName: &name})
		}
	}
}

func on(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node} }
}

func (b *bed) claimed(name string) *resourcev1.ResourceClaim {
	b.t.Helper()
	c, ok := client.Get[*resourcev1.ResourceClaim](b.Client.View(), "default", name)
	if !ok {
		b.t.Fatalf("there is no claim %s", name)
	}
	return c
}

// got returns what a claim has: request=pool/device, in order.
func (b *bed) got(claim string) string {
	b.t.Helper()
	c := b.claimed(claim)
	if c.Status.Allocation == nil {
		return "nothing"
	}
	var out []string
	for _, r := range c.Status.Allocation.Devices.Results {
		out = append(out, fmt.Sprintf("%s=%s/%s", r.Request, r.Pool, r.Device))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// free takes an allocation away, as the resource claim controller does when no pod uses it any more.
func (b *bed) free(claim string) {
	b.t.Helper()
	controllertest.ChangeStatus(b.t, b.Client, "default", claim, func(c *resourcev1.ResourceClaim) {
		c.Status.Allocation, c.Status.ReservedFor = nil, nil
	})
}

const noDevices = "cannot allocate all claims"

func TestDevicesAreAllocatedWithThePod(t *testing.T) {
	b := devices(t)
	for _, name := range []string{"a", "b"} {
		b.node(name, "8")
	}
	b.slice("b", device("0"), device("1"))
	b.deviceClaim("one", want("r", 1))
	p := b.pod("p", "1", using("one"))
	if at := b.placed("p"); at != "b" {
		t.Errorf("the pod is on %s", at)
	}
	c := b.claimed("one")
	if b.got("one") != "r=b/0" || !slices.Contains(c.Finalizers, resourcev1.Finalizer) || c.Status.Allocation.NodeSelector == nil || c.Status.Allocation.AllocationTimestamp == nil ||
		len(c.Status.ReservedFor) != 1 || c.Status.ReservedFor[0].UID != p.UID || c.Status.ReservedFor[0].Resource != "pods" || c.Status.ReservedFor[0].Name != "p" {
		t.Errorf("finalizers %v, status %+v", c.Finalizers, c.Status)
	}
	// The claim can be shared, where its device is.
	q := b.pod("q", "1", using("one"))
	if at := b.placed("q"); at != "b" {
		t.Errorf("the second pod is on %s", at)
	}
	if c = b.claimed("one"); len(c.Status.ReservedFor) != 2 || c.Status.ReservedFor[1].UID != q.UID {
		t.Errorf("reserved for %+v", c.Status.ReservedFor)
	}
	b.pod("elsewhere", "1", using("one"), on("a"))
	b.refused("elsewhere", "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 resourceclaim not available on the node.")
	// Devices are counted.
	b.deviceClaim("two", want("r", 2))
	b.pod("greedy", "1", using("two"))
	b.refused("greedy", "0/2 nodes are available: 2 "+noDevices+".")
	b.deviceClaim("rest", want("r", 1))
	b.pod("modest", "1", using("rest"))
	b.placed("modest")
	if b.got("rest") != "r=b/1" {
		t.Errorf("the rest is %s", b.got("rest"))
	}
	// What is freed wakes the pods that wait for it.
	b.kill("modest")
	b.kill("p")
	b.kill("q")
	b.free("rest")
	b.free("one")
	b.placed("greedy")
	if b.got("two") != "r=b/0 r=b/1" {
		t.Errorf("two are %s", b.got("two"))
	}
}

func TestAPodWaitsForItsClaims(t *testing.T) {
	b := devices(t)
	b.node("a", "8")
	b.slice("a", device("0"), device("1"))
	b.pod("early", "1", using("late"))
	b.pod("generated", "1", func(p *corev1.Pod) {
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "c", ResourceClaimTemplateName: new("t")}}
	})
	b.pod("other", "1")
	b.placed("other")
	for _, name := range []string{"early", "generated"} {
		if p := b.now(name); p.Spec.NodeName != "" || len(p.Status.Conditions) > 0 {
			t.Errorf("%s: %+v", name, p.Status)
		}
	}
	b.deviceClaim("late", want("r", 1))
	b.placed("early")
	// The claim of the other one must be its own.
	foreign := b.deviceClaim("foreign", want("r", 1))
	controllertest.ChangeStatus(t, b.Client, "default", "generated", func(p *corev1.Pod) {
		p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "c", ResourceClaimName: new("foreign")}}
	})
	b.pod("another", "1")
	b.placed("another")
	owner := b.now("generated")
	if owner.Spec.NodeName != "" {
		t.Error("a pod runs with a claim that was not made for it")
	}
	if err := b.Client.Delete(context.Background(), foreign); err != nil {
		t.Fatal(err)
	}
	create(b, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "foreign",
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, corev1.SchemeGroupVersion.WithKind("Pod"))}},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{want("r", 1)}}}})
	b.placed("generated")
}

func TestWhyAClaimKeepsAPodFromAllNodes(t *testing.T) {
	b := devices(t)
	b.node("a", "8")
	b.slice("a", device("0"))
	t.Run("its class does not exist", func(t *testing.T) {
		b.deviceClaim("unclassed", resourcev1.DeviceRequest{Name: "r", FirstAvailable: []resourcev1.DeviceSubRequest{
			{Name: "s", DeviceClassName: "nic", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}})
		b.pod("unclassed", "1", using("unclassed"))
		b.refused("unclassed", "0/1 nodes are available: request r/s: device class nic does not exist.")
		b.deviceClass("nic", "true")
		b.placed("unclassed")
		b.kill("unclassed")
		b.free("unclassed")
	})
	t.Run("it has as many users as it can", func(t *testing.T) {
		b.deviceClaim("popular", want("r", 1))
		b.pod("first", "1", using("popular"))
		b.placed("first")
		controllertest.ChangeStatus(t, b.Client, "default", "popular", func(c *resourcev1.ResourceClaim) {
			for i := len(c.Status.ReservedFor); i < resourcev1.ResourceClaimReservedForMaxSize; i++ {
				c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: fmt.Sprint("u", i), UID: types.UID(fmt.Sprint("u", i))})
			}
		})
		b.pod("late", "1", using("popular"))
		b.refused("late", "0/1 nodes are available: resourceclaim in use.")
		controllertest.ChangeStatus(t, b.Client, "default", "popular", func(c *resourcev1.ResourceClaim) { c.Status.ReservedFor = c.Status.ReservedFor[:1] })
		b.placed("late")
		for _, name := range []string{"first", "late"} {
			b.kill(name)
		}
		b.free("popular")
	})
	t.Run("its selector fails", func(t *testing.T) {
		b.deviceClaim("broken", want("r", 1, selecting(`device.attributes["gpu.example.com"].model == "x"`)))
		b.pod("broken", "1", using("broken"))
		b.event(`FailedScheduling running plugin "DynamicResources": claim default/broken`)
	})
}
