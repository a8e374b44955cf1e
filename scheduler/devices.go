package scheduler

import (
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/devices"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// devicesOf reads from a view what there is of devices, and returns what makes it known.
func devicesOf(v client.View) func(*devices.State) {
	var claims []*resourcev1.ResourceClaim
	client.Each(v, "", func(c *resourcev1.ResourceClaim) bool {
		if c.Status.Allocation != nil {
			claims = append(claims, c)
		}
		return true
	})
	slices := client.List[*resourcev1.ResourceSlice](v, "", nil)
	rules := client.List[*resourcev1.DeviceTaintRule](v, "", nil)
	classes := client.List[*resourcev1.DeviceClass](v, "", nil)
	return func(s *devices.State) { s.Start(claims, slices, rules, classes) }
}

// observeDevices follows the objects that devices are described, allocated and tainted by.
func (s *Scheduler) observeDevices(o observed) {
	gone := o.New == nil
	switch obj := o.Object().(type) {
	case *resourcev1.ResourceClaim:
		if old, ok := o.Old.(*resourcev1.ResourceClaim); ok && !gone && old.UID != obj.UID {
			s.devices.ObserveClaim(old, true)
		}
		s.devices.ObserveClaim(obj, gone)
		s.changed(o, framework.ResourceClaim)
		s.ungate(obj)
	case *resourcev1.ResourceSlice:
		s.devices.ObserveSlice(obj, gone)
		s.changed(o, framework.ResourceSlice)
	case *resourcev1.DeviceTaintRule:
		s.devices.ObserveRule(obj, gone)
		s.happened(framework.ResourceSlice, framework.Update, nil, nil) // its devices are others to pods
	case *resourcev1.DeviceClass:
		if s.devices.ObserveClass(obj, gone) {
			s.cluster.Invalidate() // NodeResourcesFit leaves other resources to devices
		}
		s.changed(o, framework.DeviceClass)
	}
}

// ungate lets pods be tried that were kept out of the queue because of a claim, if it can be used now.
func (s *Scheduler) ungate(c *resourcev1.ResourceClaim) {
	for _, pod := range devices.Waiting(s.Client.View(), c) {
		if e := s.queue.Get(pod.UID); e != nil && e.Gated != nil && e.Gated.Plugin == devices.Name {
			s.queue.Add(e.Pod, s.gate(e.Pod), s.now())
		}
	}
}
