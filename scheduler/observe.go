package scheduler

import (
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// watched are the kinds whose events the scheduler follows.
var watched = []client.Object{
	&corev1.Pod{}, &corev1.Node{}, &corev1.Namespace{}, &corev1.Service{}, &corev1.PersistentVolume{}, &corev1.PersistentVolumeClaim{},
	&storagev1.StorageClass{}, &storagev1.CSINode{}, &storagev1.CSIDriver{}, &storagev1.CSIStorageCapacity{}, &storagev1.VolumeAttachment{},
	&resourcev1.ResourceClaim{}, &resourcev1.ResourceSlice{}, &resourcev1.DeviceClass{}, &resourcev1.DeviceTaintRule{},
}

// resourceOf returns what an event about an object of storage is called; "" for others.
func resourceOf(obj client.Object) framework.Resource {
	switch obj.(type) {
	case *corev1.PersistentVolume:
		return framework.PersistentVolume
	case *corev1.PersistentVolumeClaim:
		return framework.PersistentVolumeClaim
	case *storagev1.StorageClass:
		return framework.StorageClass
	case *storagev1.CSINode:
		return framework.CSINode
	case *storagev1.CSIDriver:
		return framework.CSIDriver
	case *storagev1.CSIStorageCapacity:
		return framework.CSIStorageCapacity
	case *storagev1.VolumeAttachment:
		return framework.VolumeAttachment
	}
	return ""
}

// start builds cluster and queue from a view.
func (s *Scheduler) start(v client.View) error {
	var nodes []*corev1.Node
	var pods []observed
	known := devicesOf(v)
	client.Each(v, "", func(node *corev1.Node) bool {
		nodes = append(nodes, node)
		return true
	})
	client.Each(v, "", func(pod *corev1.Pod) bool {
		pods = append(pods, s.prepare(client.Event{New: pod}))
		return true
	})
	s.inbox.post(func() {
		s.clear()
		for _, node := range nodes {
			s.contained(node, func() { s.cluster.SetNode(node) })
		}
		known(s.devices)
		for _, pod := range pods {
			s.apply(pod)
		}
	})
	return nil
}

// observed is an event with what is computed before it reaches the loop.
type observed struct {
	client.Event
	info *framework.PodInfo // of a pod that is not assigned
}

// observe sends events to the loop.
func (s *Scheduler) observe(events []client.Event) error {
	prepared := make([]observed, len(events))
	for i, event := range events {
		prepared[i] = s.prepare(event)
	}
	s.inbox.post(func() {
		for _, event := range prepared {
			s.apply(event)
		}
	})
	return nil
}

func (s *Scheduler) prepare(event client.Event) observed {
	o := observed{Event: event}
	if pod, ok := event.New.(*corev1.Pod); ok && pod != nil && pod.Spec.NodeName == "" && s.ours(pod) {
		s.contained(pod, func() {
			o.info = framework.NewPodInfo(pod)
			o.info.Signature()
		})
	}
	return o
}

// contained calls look for an object, and skips it with an error in the log if that panics: the others are still scheduled.
func (s *Scheduler) contained(obj client.Object, look func()) {
	err := contain.Run(func() error {
		look()
		return nil
	})
	if err != nil {
		s.Log.Error("an object made the scheduler panic and was skipped", "object", fmt.Sprintf("%T", obj), "error", err, "stack", contain.Stack(err))
	}
}

// apply brings cluster and queue up to date with an event.
func (s *Scheduler) apply(o observed) {
	s.contained(o.Object(), func() {
		switch obj := o.Object().(type) {
		case *corev1.Pod:
			old, _ := o.Old.(*corev1.Pod)
			if o.New == nil {
				s.podGone(obj)
			} else {
				s.observePod(old, obj, o.info)
			}
			if o.New == nil || obj.DeletionTimestamp != nil || framework.Finished(obj) {
				s.sawLeave(obj.UID)
			}
			if old != nil && old.UID != obj.UID {
				s.sawLeave(old.UID)
			}
		case *corev1.Node:
			old, _ := o.Old.(*corev1.Node)
			s.observeNode(old, obj, o.New == nil)
		case *corev1.Namespace:
			if old, ok := o.Old.(*corev1.Namespace); ok && o.New != nil {
				s.observeNamespace(old, obj)
			}
		case *corev1.Service:
			s.observeService(o)
		case *resourcev1.ResourceClaim, *resourcev1.ResourceSlice, *resourcev1.DeviceClass, *resourcev1.DeviceTaintRule:
			s.observeDevices(o)
		default:
			s.observeStorage(o, resourceOf(obj))
		}
	})
}

// observeStorage follows objects of storage, which plugins read from the API.
func (s *Scheduler) observeStorage(o observed, resource framework.Resource) {
	s.changed(o, resource)
	if resource == framework.PersistentVolume || resource == framework.PersistentVolumeClaim {
		s.volumes.Changed(o.Object())
	}
}

// changed wakes the pods that a change of an object may help.
func (s *Scheduler) changed(o observed, resource framework.Resource) {
	switch {
	case o.Old == nil:
		s.happened(resource, framework.Add, nil, o.New)
	case o.New == nil:
		s.happened(resource, framework.Delete, o.Old, nil)
	default:
		s.happened(resource, framework.Update, o.Old, o.New)
	}
}

// happened wakes the pods that an event may help.
func (s *Scheduler) happened(resource framework.Resource, action framework.Action, old, now runtime.Object) {
	s.queue.Wake(&framework.Event{Resource: resource, Action: action, Old: old, New: now})
}

func (s *Scheduler) podGone(pod *corev1.Pod) {
	s.queue.Remove(pod.UID)
	s.leaveGang(pod, false)
	s.withdraw(pod)
	s.unplace(pod)
}

// withdraw forgets that a pod expects room on a node. Others may have been refused because of it.
func (s *Scheduler) withdraw(pod *corev1.Pod) {
	if s.cluster.NominatedNode(pod.UID) != "" {
		s.cluster.Nominate(&framework.PodInfo{Pod: pod}, "")
		s.happened(framework.AssignedPod, framework.Delete, pod, nil)
	}
}

// unplace takes a pod off its node, if it is on one.
func (s *Scheduler) unplace(pod *corev1.Pod) {
	s.confirm(pod.UID)
	if s.cluster.RemovePod(pod.UID) {
		s.happened(framework.AssignedPod, framework.Delete, pod, nil)
	}
}

// confirm ends an assumption, and what is done for its binding.
func (s *Scheduler) confirm(uid types.UID) {
	if a := s.assumed[uid]; a != nil {
		delete(s.assumed, uid)
		a.cancel()
	}
}

func (s *Scheduler) observePod(old, pod *corev1.Pod, info *framework.PodInfo) {
	if old != nil && old.UID != pod.UID {
		s.podGone(old)
		old = nil
	}
	if pod.Spec.NodeName != "" {
		s.observeAssigned(old, pod)
		return
	}
	if info == nil { // it is not ours, or is being deleted
		s.queue.Remove(pod.UID)
		s.leaveGang(pod, false)
		s.withdraw(pod)
		return
	}
	if s.assumed[pod.UID] != nil {
		return // its binding is in flight
	}
	if node := pod.Status.NominatedNodeName; node != "" || (old != nil && old.Status.NominatedNodeName != "") {
		s.cluster.Nominate(info, node)
	}
	// A status that the scheduler itself wrote is not a reason to try again.
	if have := s.queue.Get(pod.UID); have != nil && old != nil && sameToUs(old, pod) {
		have.Pod = info
		return
	}
	if old != nil {
		was, _ := framework.GangOf(old)
		if is, _ := framework.GangOf(pod); was != is {
			s.leaveGang(old, false)
		}
	}
	s.queue.Add(info, s.gate(info), s.now())
}

// sameToUs says whether an update of a pod changes nothing that decides where it can be placed.
func sameToUs(old, pod *corev1.Pod) bool {
	return maps.Equal(old.Labels, pod.Labels) && old.Annotations[framework.GangName] == pod.Annotations[framework.GangName] && old.Annotations[gangSize] == pod.Annotations[gangSize] && (&old.Spec == &pod.Spec || apiequality.Semantic.DeepEqual(old.Spec, pod.Spec)) &&
		apiequality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses)
}

// gate returns why a pod must not be tried yet, or nil.
func (s *Scheduler) gate(p *framework.PodInfo) *framework.Status {
	if status := s.gatePlugins(p); status != nil {
		s.leaveGang(p.Pod, false)
		return status
	}
	status := s.joinGang(p)
	if status != nil {
		s.reporter.report(p, corev1.PodReasonUnschedulable, status.Message(), nil)
	}
	return status
}

func (s *Scheduler) gatePlugins(p *framework.PodInfo) *framework.Status {
	for _, plugin := range s.profiles[p.Spec.SchedulerName].PreEnqueue {
		if status := plugin.PreEnqueue(p); status != nil {
			return status
		}
	}
	return nil
}

// observeAssigned follows a pod that is assigned to a node.
func (s *Scheduler) observeAssigned(old, pod *corev1.Pod) {
	s.queue.Remove(pod.UID)
	s.leaveGang(pod, true)
	s.cluster.Nominate(&framework.PodInfo{Pod: pod}, "")
	if framework.Finished(pod) {
		s.unplace(pod)
		return
	}
	s.confirm(pod.UID)
	have, node := s.cluster.Pod(pod.UID)
	if have == nil || node != pod.Spec.NodeName {
		s.cluster.Place(framework.NewPodInfo(pod), pod.Spec.NodeName)
		s.happened(framework.AssignedPod, framework.Add, nil, pod)
		return
	}
	info, changed := have.With(pod)
	if changed {
		s.cluster.Place(info, pod.Spec.NodeName)
	} else {
		s.cluster.Replace(info)
	}
	switch {
	case old == nil || old.Spec.NodeName == "": // it was only assumed to be there
		s.happened(framework.AssignedPod, framework.Add, nil, pod)
	case changed:
		s.happened(framework.AssignedPod, framework.Update, old, pod)
	}
}

func (s *Scheduler) observeNode(old, node *corev1.Node, gone bool) {
	if gone {
		s.cluster.RemoveNode(node.Name)
		s.happened(framework.Node, framework.Delete, node, nil) // an affinity or a spread constraint may be satisfied now
		return
	}
	s.cluster.SetNode(node)
	if old == nil {
		s.happened(framework.Node, framework.Add, nil, node)
	} else if changedToUs(old, node) {
		s.happened(framework.Node, framework.Update, old, node)
	}
}

// changedToUs says whether an update of a node changes something that decides which pods can be placed there.
func changedToUs(old, node *corev1.Node) bool {
	return !apiequality.Semantic.DeepEqual(old.Spec, node.Spec) || !maps.Equal(old.Labels, node.Labels) ||
		!apiequality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable) ||
		!apiequality.Semantic.DeepEqual(old.Status.DeclaredFeatures, node.Status.DeclaredFeatures)
}

// observeNamespace handles changes of a namespace's labels, which terms of affinity select by. Those of a new or a removed
// namespace matter only with its pods, which are observed themselves.
func (s *Scheduler) observeNamespace(old, now *corev1.Namespace) {
	if maps.Equal(old.Labels, now.Labels) {
		return
	}
	s.cluster.Invalidate()
	s.queue.WakeIf("NamespaceUpdate", func(p *framework.PodInfo) bool {
		// The anti-affinity of placed pods may have excluded it.
		return p.SelectsOtherwise(old.Labels, now.Labels) || (p.Namespace == now.Name && s.cluster.Averse > 0)
	})
}

// observeService handles changes of what Services select: the default spread constraints depend on it.
func (s *Scheduler) observeService(o observed) {
	old, _ := o.Old.(*corev1.Service)
	now, _ := o.New.(*corev1.Service)
	if old == nil || now == nil || !maps.Equal(old.Spec.Selector, now.Spec.Selector) {
		s.cluster.Invalidate()
	}
}

// ours says whether an unassigned pod should be scheduled by this scheduler.
func (s *Scheduler) ours(pod *corev1.Pod) bool {
	return s.profiles[pod.Spec.SchedulerName] != nil && pod.DeletionTimestamp == nil && !framework.Finished(pod)
}
