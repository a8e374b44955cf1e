package scheduler_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kontiki/kontiki/controller/controllertest"
)

// placedWith creates a pod with a claim of its name, waits until it has a node, and returns what the claim has.
func (b *bed) placedWith(name string, devices resourcev1.DeviceClaim, change ...func(*corev1.Pod)) string {
	b.t.Helper()
	b.deviceClaimOf(name, devices)
	b.pod(name, "10m", append(change, using(name))...)
	b.placed(name)
	return b.got(name)
}

// refusedWith is placedWith for a pod that no node has devices for.
func (b *bed) refusedWith(name string, devices resourcev1.DeviceClaim, change ...func(*corev1.Pod)) {
	b.t.Helper()
	b.deviceClaimOf(name, devices)
	b.pod(name, "10m", append(change, using(name))...)
	b.refused(name, "0/1 nodes are available: 1 "+noDevices+".")
}

func requests(list ...resourcev1.DeviceRequest) resourcev1.DeviceClaim {
	return resourcev1.DeviceClaim{Requests: list}
}

func TestWhichDevicesAClaimGets(t *testing.T) {
	b := devices(t)
	b.node("a", "8")
	b.slice("a", device("0", attributes("model", "x", "numa", "0")), device("1", attributes("model", "y", "numa", "0")),
		device("2", attributes("model", "y", "numa", "1")), device("3", attributes("model", "x", "numa", "1")))
	b.deviceClass("y", `device.attributes["gpu.example.com"].model == "y"`)
	ofY := func(r *resourcev1.ExactDeviceRequest) { r.DeviceClassName = "y" }
	all := func(r *resourcev1.ExactDeviceRequest) {
		r.AllocationMode, r.Count = resourcev1.DeviceAllocationModeAll, 0
	}
	const numa = resourcev1.FullyQualifiedName("gpu.example.com/numa")
	attribute := numa
	for _, c := range []struct {
		name   string
		claim  resourcev1.DeviceClaim
		expect string // "" for none
	}{
		{"class", requests(want("r", 1, ofY)), "r=a/1"},
		{"both", requests(want("r", 1, ofY, selecting(`device.attributes["gpu.example.com"].numa == "1"`))), "r=a/2"},
		{"all-of-a-class", requests(want("r", 0, ofY, all)), "r=a/1 r=a/2"},
		{"all", requests(want("r", 0, all)), "r=a/0 r=a/1 r=a/2 r=a/3"},
		{"too-many", requests(want("r", 3, ofY)), ""},
		{"same", resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{want("y", 1, ofY, selecting(`device.attributes["gpu.example.com"].numa == "1"`)), want("any", 1)},
			Constraints: []resourcev1.DeviceConstraint{{MatchAttribute: &attribute}}}, "any=a/3 y=a/2"},
		{"different", resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{want("y", 1, ofY), want("any", 1)},
			Constraints: []resourcev1.DeviceConstraint{{DistinctAttribute: &attribute}}}, "any=a/2 y=a/1"},
		{"three-that-are-the-same", resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{want("r", 3)}, Constraints: []resourcev1.DeviceConstraint{{MatchAttribute: &attribute}}}, ""},
		{"alternatives", requests(resourcev1.DeviceRequest{Name: "r", FirstAvailable: []resourcev1.DeviceSubRequest{
			{Name: "many", DeviceClassName: "y", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 3},
			{Name: "few", DeviceClassName: "y", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2}}}), "r/few=a/1 r/few=a/2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.t = t
			if c.expect == "" {
				b.refusedWith(c.name, c.claim)
				b.kill(c.name)
				return
			}
			if got := b.placedWith(c.name, c.claim); got != c.expect {
				t.Errorf("got %s, want %s", got, c.expect)
			}
			b.kill(c.name)
			b.free(c.name)
		})
	}
	b.t = t
}

func TestConfigurationsAreHandedOn(t *testing.T) {
	b := devices(t)
	b.node("a", "8")
	b.slice("a", device("0"), device("1"))
	opaque := func(text string) resourcev1.DeviceConfiguration {
		return resourcev1.DeviceConfiguration{Opaque: &resourcev1.OpaqueDeviceConfiguration{Driver: driver, Parameters: runtime.RawExtension{Raw: []byte(text)}}}
	}
	b.deviceClass("tuned", "true", func(c *resourcev1.DeviceClass) {
		c.Spec.Config = []resourcev1.DeviceClassConfiguration{{DeviceConfiguration: opaque(`{"a":1}`)}}
	})
	b.placedWith("p", resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{want("r", 1, func(r *resourcev1.ExactDeviceRequest) { r.DeviceClassName = "tuned" }), want("other", 1)},
		Config: []resourcev1.DeviceClaimConfiguration{{Requests: []string{"r"}, DeviceConfiguration: opaque(`{"b":2}`)}}})
	configs := b.claimed("p").Status.Allocation.Devices.Config
	if len(configs) != 2 || configs[0].Source != resourcev1.AllocationConfigSourceClass || string(configs[0].Opaque.Parameters.Raw) != `{"a":1}` ||
		configs[1].Source != resourcev1.AllocationConfigSourceClaim || string(configs[1].Opaque.Parameters.Raw) != `{"b":2}` || !slices.Equal(configs[1].Requests, []string{"r"}) {
		t.Errorf("%+v", configs)
	}
}

// TestAlternativesDecideTheNode: of two nodes that fit, the one is taken on which a request gets what it lists first.
func TestAlternativesDecideTheNode(t *testing.T) {
	b := devices(t)
	b.node("a", "8")
	b.node("b", "8")
	b.slice("a", device("0", attributes("model", "small")))
	b.slice("b", device("0", attributes("model", "large")))
	b.deviceClass("large", `device.attributes["gpu.example.com"].model == "large"`)
	either := requests(resourcev1.DeviceRequest{Name: "r", FirstAvailable: []resourcev1.DeviceSubRequest{
		{Name: "large", DeviceClassName: "large", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
		{Name: "any", DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}})
	if got := b.placedWith("first", either); got != "r/large=b/0" {
		t.Errorf("the first got %s", got)
	}
	if got := b.placedWith("second", either); got != "r/any=a/0" {
		t.Errorf("the second got %s", got)
	}
}

func TestAdministrativeAccessTakesNothing(t *testing.T) {
	b := devices(t)
	b.node("a", "8")
	b.slice("a", device("0"))
	controllertest.Change(t, b.Client, "", "default", func(n *corev1.Namespace) {
		n.Labels = map[string]string{resourcev1.DRAAdminNamespaceLabelKey: "true"}
	})
	yes := true
	admin := requests(want("r", 1, func(r *resourcev1.ExactDeviceRequest) { r.AdminAccess = &yes }))
	for _, name := range []string{"before", "user", "after"} {
		claim := admin
		if name == "user" {
			claim = requests(want("r", 1))
		}
		if got := b.placedWith(name, claim); got != "r=a/0" {
			t.Errorf("%s got %s", name, got)
		}
	}
	b.refusedWith("second-user", requests(want("r", 1)))
}

func TestTaintedDevicesAreTolerated(t *testing.T) {
	b := devices(t)
	b.node("a", "8")
	tainted := func(effect resourcev1.DeviceTaintEffect) func(*resourcev1.Device) {
		return func(d *resourcev1.Device) {
			d.Taints = []resourcev1.DeviceTaint{{Key: "example.com/broken", Value: "yes", Effect: effect}}
		}
	}
	b.slice("a", device("0", tainted(resourcev1.DeviceTaintEffectNoSchedule)), device("1", tainted(resourcev1.DeviceTaintEffectNone)))
	tolerant := requests(want("r", 1, func(r *resourcev1.ExactDeviceRequest) {
		r.Tolerations = []resourcev1.DeviceToleration{{Key: "example.com/broken", Operator: resourcev1.DeviceTolerationOpExists}}
	}))
	if got := b.placedWith("p", requests(want("r", 1))); got != "r=a/1" {
		t.Errorf("without a toleration: %s", got)
	}
	b.refusedWith("q", requests(want("r", 1)))
	b.kill("q")
	if got := b.placedWith("tolerant", tolerant); got != "r=a/0" {
		t.Errorf("with a toleration: %s", got)
	}
	b.kill("p")
	rule := create(b, &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "rule"}, Spec: resourcev1.DeviceTaintRuleSpec{
		DeviceSelector: &resourcev1.DeviceTaintSelector{Driver: new(driver), Device: new("1")}, Taint: resourcev1.DeviceTaint{Key: "example.com/drained", Effect: resourcev1.DeviceTaintEffectNoSchedule}}})
	b.free("p")
	b.refusedWith("r", requests(want("r", 1)))
	if err := b.Client.Delete(t.Context(), rule); err != nil {
		t.Fatal(err)
	}
	b.placed("r")
}

// TestPartitionsShareCounters: half of a device and the whole of it cannot both be allocated.
func TestPartitionsShareCounters(t *testing.T) {
	b := devices(t)
	b.node("a", "8")
	spec := func(part int, devices []resourcev1.Device, counters []resourcev1.CounterSet) {
		create(b, &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s" + string(rune('0'+part))}, Spec: resourcev1.ResourceSliceSpec{
			Driver: driver, NodeName: new("a"), Pool: resourcev1.ResourcePool{Name: "a", ResourceSliceCount: 2, Generation: 1}, Devices: devices, SharedCounters: counters}})
	}
	memory := func(size string) map[string]resourcev1.Counter {
		return map[string]resourcev1.Counter{"memory": {Value: resource.MustParse(size)}}
	}
	consuming := func(size string) func(*resourcev1.Device) {
		return func(d *resourcev1.Device) {
			d.ConsumesCounters = []resourcev1.DeviceCounterConsumption{{CounterSet: "card", Counters: memory(size)}}
		}
	}
	spec(0, nil, []resourcev1.CounterSet{{Name: "card", Counters: memory("8Gi")}})
	b.deviceClaim("before", want("r", 1))
	b.pod("before", "1", using("before"))
	b.refused("before", "0/1 nodes are available: 1 "+noDevices+".") // the pool is not complete
	b.kill("before")
	spec(1, []resourcev1.Device{device("half-0", consuming("4Gi")), device("whole", consuming("8Gi"))}, nil)
	if got := b.placedWith("half", requests(want("r", 1))); got != "r=a/half-0" {
		t.Errorf("got %s", got)
	}
	b.refusedWith("two", requests(want("r", 2))) // a half and the whole is too much
	b.kill("two")
	b.refusedWith("third", requests(want("r", 1)))
	b.kill("half")
	b.free("half")
	b.placed("third")
}

// TestCapacityIsConsumed: claims share a device until its capacity is used up.
func TestCapacityIsConsumed(t *testing.T) {
	b := devices(t)
	b.node("a", "8")
	yes := true
	b.slice("a", device("nic", func(d *resourcev1.Device) {
		d.AllowMultipleAllocations = &yes
		d.Capacity = map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"bandwidth": {Value: resource.MustParse("10G")}}
	}))
	share := func(size string) resourcev1.DeviceClaim {
		return requests(want("r", 1, func(r *resourcev1.ExactDeviceRequest) {
			r.Capacity = &resourcev1.CapacityRequirements{Requests: map[resourcev1.QualifiedName]resource.Quantity{"bandwidth": resource.MustParse(size)}}
		}))
	}
	b.placedWith("p", share("6G"))
	b.placedWith("q", share("4G"))
	r := b.claimed("q").Status.Allocation.Devices.Results[0]
	if used := r.ConsumedCapacity["bandwidth"]; r.ShareID == nil || used.String() != "4G" || *r.ShareID == *b.claimed("p").Status.Allocation.Devices.Results[0].ShareID {
		t.Errorf("%+v", r)
	}
	b.refusedWith("late", share("1G"))
	b.kill("p")
	b.free("p")
	b.placed("late")
	b.refusedWith("large", share("6G"))
}

func TestDevicesThatMustBeReadyFirst(t *testing.T) {
	b := devices(t)
	b.node("a", "8")
	b.slice("a", device("0", func(d *resourcev1.Device) {
		d.BindingConditions, d.BindingFailureConditions = []string{"example.com/attached"}, []string{"example.com/failed"}
	}))
	b.deviceClaim("c", want("r", 1))
	b.pod("p", "1", using("c"))
	b.event("BindingConditionsPending waiting for binding conditions for device on node a")
	if b.now("p").Spec.NodeName != "" {
		t.Error("the pod is bound although its device is not ready")
	}
	reports := func(condition string) {
		controllertest.ChangeStatus(t, b.Client, "default", "c", func(c *resourcev1.ResourceClaim) {
			r := c.Status.Allocation.Devices.Results[0]
			c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: r.Driver, Pool: r.Pool, Device: r.Device,
				Conditions: []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue, Reason: "Driver", LastTransitionTime: metav1.Now(), Message: "m"}}}}
		})
	}
	// A failure makes the scheduler give the device up and try again.
	reports("example.com/failed")
	b.event("binding rejected: device binding failed: claim=c, reason=Driver")
	b.refused("p", "0/1 nodes are available: 1 resourceclaim not available on the node. deallocation of ResourceClaim completed")
	b.event("BindingConditionsPending")
	if c := b.claimed("c"); len(c.Status.Devices) != 0 || b.got("c") != "r=a/0" {
		t.Errorf("%+v", c.Status)
	}
	reports("example.com/attached")
	b.placed("p")
}

// TestAnUnusedAllocationIsGivenUp: a claim that was allocated for a pod which never ran does not keep its next user from another node.
func TestAnUnusedAllocationIsGivenUp(t *testing.T) {
	b := devices(t)
	b.node("a", "8")
	b.node("b", "8")
	b.slice("a", device("0"))
	b.slice("b", device("0"))
	b.deviceClaim("c", want("r", 1))
	b.pod("p", "1", using("c"), on("a"))
	b.placed("p")
	b.kill("p")
	controllertest.ChangeStatus(t, b.Client, "default", "c", func(c *resourcev1.ResourceClaim) { c.Status.ReservedFor = nil })
	b.pod("q", "1", using("c"), on("b"))
	b.event("deallocation of ResourceClaim completed")
	if at := b.placed("q"); at != "b" || b.got("c") != "r=b/0" {
		t.Errorf("on %s with %s", at, b.got("c"))
	}
	// One that is in use stays.
	b.pod("r", "1", using("c"), on("a"))
	b.refused("r", "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 resourceclaim not available on the node.")
	if b.got("c") != "r=b/0" || !strings.HasPrefix(string(b.claimed("c").Status.ReservedFor[0].UID), string(b.now("q").UID)) {
		t.Errorf("%+v", b.claimed("c").Status)
	}
}

func asking(name string, count string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		r := &p.Spec.Containers[0].Resources
		r.Requests[corev1.ResourceName(name)] = resource.MustParse(count)
		r.Limits = corev1.ResourceList{corev1.ResourceName(name): resource.MustParse(count)}
	}
}

func TestExtendedResourcesThatAreDevices(t *testing.T) {
	b := start(t)
	b.node("a", "8")
	b.node("plugin", "8", func(n *corev1.Node) { n.Status.Allocatable["example.com/card"] = resource.MustParse("1") })
	b.slice("a", device("0"), device("1"), device("2"))
	b.pod("early", "10m", asking("example.com/card", "2"))
	b.refused("early", "0/2 nodes are available: 2 Insufficient example.com/card.")
	b.deviceClass("gpu", "true", func(c *resourcev1.DeviceClass) { c.Spec.ExtendedResourceName = new("example.com/card") })
	if at := b.placed("early"); at != "a" {
		t.Errorf("the first is on %s", at)
	}
	status := b.now("early").Status.ExtendedResourceClaimStatus
	if status == nil || len(status.RequestMappings) != 1 || status.RequestMappings[0] != (corev1.ContainerExtendedResourceRequest{ContainerName: "c", ResourceName: "example.com/card", RequestName: "container-0-request-1"}) {
		t.Fatalf("%+v", status)
	}
	c := b.claimed(status.ResourceClaimName)
	if b.got(c.Name) != "container-0-request-1=a/0 container-0-request-1=a/1" || !strings.HasPrefix(c.Name, "early-extended-resources-") ||
		c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" || !metav1.IsControlledBy(c, b.now("early")) || len(c.Status.ReservedFor) != 1 {
		t.Errorf("%+v", c)
	}
	// A device plugin's resource is used where there is one.
	b.pod("plugged", "10m", asking("example.com/card", "1"), on("plugin"))
	b.placed("plugged")
	if b.now("plugged").Status.ExtendedResourceClaimStatus != nil {
		t.Error("a claim was made for what a device plugin has")
	}
	b.pod("implicit", "10m", asking("deviceclass.resource.kubernetes.io/gpu", "1"))
	b.placed("implicit")
	b.pod("late", "10m", asking("example.com/card", "1"))
	b.refused("late", "0/2 nodes are available: 1 Insufficient example.com/card, 1 "+noDevices+".")
}

// TestAGangGetsItsDevicesTogether: pods of a gang do not get each other's devices, share a claim, and hold nothing when they do not all fit.
func TestAGangGetsItsDevicesTogether(t *testing.T) {
	b := devices(t)
	b.node("a", "8")
	b.node("b", "8")
	b.slice("a", device("0"))
	b.slice("b", device("0"), device("1"))
	gang := func(name, size string, claims ...string) {
		for i, claim := range claims {
			b.pod(name+string(rune('0'+i)), "10m", using(claim), func(p *corev1.Pod) {
				p.Annotations = map[string]string{"kontiki.io/gang": name, "kontiki.io/gang-size": size}
			})
		}
	}
	for _, name := range []string{"c0", "c1", "c2", "c3", "shared", "single"} {
		b.deviceClaim(name, want("r", 1))
	}
	gang("four", "4", "c0", "c1", "c2", "c3")
	b.event(`gang "four": 3 of 4 pods fit; 0/2 nodes are available: 2 ` + noDevices)
	b.pod("single", "10m", using("single"))
	b.placed("single")
	b.kill("single")
	b.free("single")
	gang("two", "3", "shared", "shared", "single")
	for _, name := range []string{"two0", "two1", "two2"} {
		b.placed(name)
	}
	if n := len(b.claimed("shared").Status.ReservedFor); n != 2 || b.now("two0").Spec.NodeName != b.now("two1").Spec.NodeName {
		t.Errorf("the claim is reserved for %d pods", n)
	}
	for _, name := range []string{"two0", "two1", "two2"} {
		b.kill(name)
	}
	b.free("shared")
	b.free("single")
	create(b, &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: driver, NodeName: new("a"), Pool: resourcev1.ResourcePool{Name: "more", ResourceSliceCount: 1, Generation: 1}, Devices: []resourcev1.Device{device("0")}}})
	got := map[string]bool{}
	for i, claim := range []string{"c0", "c1", "c2", "c3"} {
		b.placed("four" + string(rune('0'+i)))
		got[b.got(claim)] = true
	}
	if len(got) != 4 {
		t.Errorf("the four got %v", got)
	}
}
