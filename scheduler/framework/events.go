package framework

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Resource is what an event is about.
type Resource string

// The resources of events.
const (
	AssignedPod           Resource = "AssignedPod"
	Node                  Resource = "Node"
	Namespace             Resource = "Namespace"
	PersistentVolume      Resource = "PersistentVolume"
	PersistentVolumeClaim Resource = "PersistentVolumeClaim"
	StorageClass          Resource = "StorageClass"
	CSINode               Resource = "CSINode"
	CSIDriver             Resource = "CSIDriver"
	CSIStorageCapacity    Resource = "CSIStorageCapacity"
	VolumeAttachment      Resource = "VolumeAttachment"
	ResourceClaim         Resource = "ResourceClaim"
	ResourceSlice         Resource = "ResourceSlice"
	DeviceClass           Resource = "DeviceClass"
	// Anything stands for all resources.
	Anything Resource = "*"
)

// Action is a set of things that happen to objects.
type Action uint

// The actions.
const (
	Add Action = 1 << iota
	Update
	Delete
)

// Event is a change that may make a pod schedulable. Old is nil for an addition, New for a deletion.
type Event struct {
	Resource Resource
	Action   Action
	Old, New runtime.Object
}

// Label names the event as upstream does, such as NodeAdd.
func (e *Event) Label() string {
	action := "Update"
	switch e.Action {
	case Add:
		action = "Add"
	case Delete:
		action = "Delete"
	}
	return string(e.Resource) + action
}

// Hint says when a pod that a plugin refused is worth another try.
type Hint struct {
	Resource Resource
	Actions  Action
	// Wakes says whether the event may make the pod pass; nil means that it always may.
	Wakes func(p *PodInfo, e *Event) bool
}

// HintingPlugin is a plugin that says when a pod that it refused is worth another try. Without hints, it is after any event.
type HintingPlugin interface {
	Plugin
	Events() []Hint
}

// Concerns says whether an event may be worth another try of any pod that a plugin with these hints refused.
func Concerns(hints []Hint, e *Event) bool {
	for i := range hints {
		if (hints[i].Resource == e.Resource || hints[i].Resource == Anything) && hints[i].Actions&e.Action != 0 {
			return true
		}
	}
	return false
}

// Wakes says whether an event is worth another try of a pod that a plugin with these hints refused.
func Wakes(hints []Hint, p *PodInfo, e *Event) bool {
	for i := range hints {
		h := &hints[i]
		if (h.Resource == e.Resource || h.Resource == Anything) && h.Actions&e.Action != 0 && (h.Wakes == nil || h.Wakes(p, e)) {
			return true
		}
	}
	return false
}

// Pods returns an event's pods, nil if there are none.
func (e *Event) Pods() (old, now *corev1.Pod) {
	old, _ = e.Old.(*corev1.Pod)
	now, _ = e.New.(*corev1.Pod)
	return old, now
}

// Nodes returns an event's nodes, nil if there are none.
func (e *Event) Nodes() (old, now *corev1.Node) {
	old, _ = e.Old.(*corev1.Node)
	now, _ = e.New.(*corev1.Node)
	return old, now
}
