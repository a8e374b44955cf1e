package devicetainteviction

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

const everyDevice = "every device"

func poolKey(driver, pool string) string { return "pool " + driver + "/" + pool }

// allocated finds claims by the pools of their devices; all that are allocated have the key everyDevice.
var allocated = client.NewIndex(func(claim *resourcev1.ResourceClaim, add func(string)) {
	if claim.Status.Allocation == nil {
		return
	}
	add(everyDevice)
	for _, device := range claim.Status.Allocation.Devices.Results {
		add(poolKey(device.Driver, device.Pool))
	}
})

// pools finds the slices of a pool.
var pools = client.NewIndex(func(slice *resourcev1.ResourceSlice, add func(string)) {
	add(poolKey(slice.Spec.Driver, slice.Spec.Pool.Name))
})

// users finds pods that have a node by the claims that they use.
var users = client.NewIndex(func(pod *corev1.Pod, add func(string)) {
	if pod.Spec.NodeName == "" {
		return
	}
	for _, name := range claimNames(pod) {
		add(pod.Namespace + "/" + name)
	}
})

// claimNames returns the names of a pod's claims, as far as they were made.
func claimNames(pod *corev1.Pod) (names []string) {
	for i := range pod.Spec.ResourceClaims {
		if name := pod.Spec.ResourceClaims[i].ResourceClaimName; name != nil {
			names = append(names, *name)
		}
	}
	for _, status := range pod.Status.ResourceClaimStatuses {
		if status.ResourceClaimName != nil {
			names = append(names, *status.ResourceClaimName)
		}
	}
	if st := pod.Status.ExtendedResourceClaimStatus; st != nil && st.ResourceClaimName != "" {
		names = append(names, st.ResourceClaimName)
	}
	return names
}

func reservedFor(claim *resourcev1.ResourceClaim, pod *corev1.Pod) bool {
	return slices.ContainsFunc(claim.Status.ReservedFor, func(ref resourcev1.ResourceClaimConsumerReference) bool { return ref.UID == pod.UID })
}

// tainted is a taint of a device, and the rule that it comes from, if any.
type tainted struct {
	taint *resourcev1.DeviceTaint
	rule  *resourcev1.DeviceTaintRule
}

// taintsOf returns the taints of a device that evict: those of its driver, in the newest generation of the pool, and those of rules.
func taintsOf(v client.View, device *resourcev1.DeviceRequestAllocationResult, rules []*resourcev1.DeviceTaintRule) (taints []tainted) {
	newest := int64(math.MinInt64)
	parts := pools.Any(v, poolKey(device.Driver, device.Pool))
	for _, slice := range parts {
		newest = max(newest, slice.Spec.Pool.Generation)
	}
	for _, slice := range parts {
		if slice.Spec.Pool.Generation != newest {
			continue
		}
		for i := range slice.Spec.Devices {
			if slice.Spec.Devices[i].Name != device.Device {
				continue
			}
			for j := range slice.Spec.Devices[i].Taints {
				if taint := &slice.Spec.Devices[i].Taints[j]; taint.Effect == resourcev1.DeviceTaintEffectNoExecute {
					taints = append(taints, tainted{taint: taint})
				}
			}
		}
	}
	for _, rule := range rules {
		if selects(rule, device.Driver, device.Pool, device.Device) {
			taints = append(taints, tainted{&rule.Spec.Taint, rule})
		}
	}
	return taints
}

// selects says whether a rule is about a device; a rule without a selector is about none.
func selects(rule *resourcev1.DeviceTaintRule, driver, pool, device string) bool {
	s := rule.Spec.DeviceSelector
	return s != nil && (s.Driver == nil || *s.Driver == driver) && (s.Pool == nil || *s.Pool == pool) && (s.Device == nil || *s.Device == device)
}

// evictingRules returns the rules that evict.
func evictingRules(v client.View) (rules []*resourcev1.DeviceTaintRule) {
	client.Each(v, "", func(rule *resourcev1.DeviceTaintRule) bool {
		if rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute && rule.DeletionTimestamp == nil {
			rules = append(rules, rule)
		}
		return true
	})
	return rules
}

// enqueue enqueues the pods that a change may concern.
func enqueue(v client.View, event client.Event, enqueue func(controller.Key)) {
	switch obj := event.Object().(type) {
	case *corev1.Pod:
		if len(claimNames(obj)) > 0 {
			enqueue(controller.KeyOf(obj))
		}
	case *resourcev1.ResourceClaim:
		enqueuePods(v, obj, enqueue)
	case *resourcev1.ResourceSlice:
		for _, claim := range allocated.Any(v, poolKey(obj.Spec.Driver, obj.Spec.Pool.Name)) {
			enqueuePods(v, claim, enqueue)
		}
	case *resourcev1.DeviceTaintRule:
		for _, o := range []client.Object{event.Old, event.New} {
			rule, ok := o.(*resourcev1.DeviceTaintRule)
			if !ok || rule.Spec.Taint.Effect != resourcev1.DeviceTaintEffectNoExecute || event.Old != nil && event.New != nil && event.Old.GetGeneration() == event.New.GetGeneration() {
				continue
			}
			for _, claim := range selectedBy(v, rule) {
				enqueuePods(v, claim, enqueue)
			}
		}
	}
}

// selectedBy returns the allocated claims with a device that a rule is about.
func selectedBy(v client.View, rule *resourcev1.DeviceTaintRule) []*resourcev1.ResourceClaim {
	key := everyDevice
	if s := rule.Spec.DeviceSelector; s != nil && s.Driver != nil && s.Pool != nil {
		key = poolKey(*s.Driver, *s.Pool)
	}
	return slices.DeleteFunc(allocated.Any(v, key), func(claim *resourcev1.ResourceClaim) bool {
		return !slices.ContainsFunc(claim.Status.Allocation.Devices.Results, func(d resourcev1.DeviceRequestAllocationResult) bool {
			return selects(rule, d.Driver, d.Pool, d.Device)
		})
	})
}

func enqueuePods(v client.View, claim *resourcev1.ResourceClaim, enqueue func(controller.Key)) {
	for _, pod := range users.Any(v, claim.Namespace+"/"+claim.Name) {
		enqueue(controller.KeyOf(pod))
	}
}
