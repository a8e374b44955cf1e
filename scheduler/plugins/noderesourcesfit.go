package plugins

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// NodeResourcesFit refuses nodes that do not have enough resources left, and scores the others by a strategy.
type NodeResourcesFit struct {
	// Ignored and IgnoredGroups are extended resources that are not looked at: their names, and the part before the slash.
	Ignored, IgnoredGroups sets.Set[string]
	// Devices says whether an extended resource can be had as devices, on nodes that do not offer it otherwise: DynamicResources decides about
	// those. Nil if none can.
	Devices  func(corev1.ResourceName) bool
	strategy *allocationScorer
}

// NewNodeResourcesFit returns the plugin with a strategy.
func NewNodeResourcesFit(strategy Strategy, ignored, ignoredGroups []string) *NodeResourcesFit {
	return &NodeResourcesFit{Ignored: sets.New(ignored...), IgnoredGroups: sets.New(ignoredGroups...), strategy: newAllocationScorer(strategy)}
}

// Name returns the plugin's name.
func (*NodeResourcesFit) Name() string { return "NodeResourcesFit" }

type fitFilter struct {
	devices  func(corev1.ResourceName) bool
	requests *framework.Amounts
	// scalar are the names of the requested resources beside CPU, memory and ephemeral storage that are looked at, in order.
	scalar []corev1.ResourceName
}

// PreFilter returns a filter.
func (f *NodeResourcesFit) PreFilter(_ *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	return f.filter(p), nil
}

func (f *NodeResourcesFit) filter(p *framework.PodInfo) *fitFilter {
	filter := &fitFilter{requests: &p.Requests, devices: f.Devices}
	for _, name := range slices.Sorted(maps.Keys(p.Requests.Scalar)) {
		group, _, _ := strings.Cut(string(name), "/")
		if extended(name) && (f.Ignored.Has(string(name)) || f.IgnoredGroups.Has(group)) {
			continue
		}
		filter.scalar = append(filter.scalar, name)
	}
	return filter
}

// extended says whether a resource is not one of Kubernetes' own.
func extended(name corev1.ResourceName) bool {
	return strings.Contains(string(name), "/") && !strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix) &&
		!strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
}

// The most frequent refusals are made once.
var (
	tooManyPods = refuseFit(framework.Unschedulable, "Too many pods")
	noCPU       = refuseFit(framework.Unschedulable, "Insufficient cpu")
	smallCPU    = refuseFit(framework.UnschedulableAndUnresolvable, "Insufficient cpu")
	noMemory    = refuseFit(framework.Unschedulable, "Insufficient memory")
	smallMemory = refuseFit(framework.UnschedulableAndUnresolvable, "Insufficient memory")
)

func refuseFit(code framework.Code, reasons ...string) *framework.Status {
	return framework.Refuse(code, "NodeResourcesFit", reasons...)
}

func (f *fitFilter) Filter(n *framework.NodeInfo) *framework.Status {
	r := f.requests
	full := len(n.Pods)+1 > n.MaxPods
	cpu := r.MilliCPU > 0 && r.MilliCPU > n.Allocatable.MilliCPU-n.Requested.MilliCPU
	memory := r.Memory > 0 && r.Memory > n.Allocatable.Memory-n.Requested.Memory
	storage := r.Storage > 0 && r.Storage > n.Allocatable.Storage-n.Requested.Storage
	switch {
	case len(f.scalar) > 0 || storage:
	case !full && !cpu && !memory:
		return nil
	case full && !cpu && !memory:
		return tooManyPods
	case cpu && !full && !memory:
		return oneOf(r.MilliCPU > n.Allocatable.MilliCPU, smallCPU, noCPU)
	case memory && !full && !cpu:
		return oneOf(r.Memory > n.Allocatable.Memory, smallMemory, noMemory)
	}
	return f.all(n, full, cpu, memory, storage)
}

func oneOf(first bool, a, b *framework.Status) *framework.Status {
	if first {
		return a
	}
	return b
}

// all returns the refusal with all resources that the node lacks. If it lacks one even without any pods, no preemption can help.
func (f *fitFilter) all(n *framework.NodeInfo, full, cpu, memory, storage bool) *framework.Status {
	r := f.requests
	var reasons []string
	code := framework.Unschedulable
	add := func(lacks bool, reason string, never bool) {
		if lacks {
			reasons = append(reasons, reason)
			if never {
				code = framework.UnschedulableAndUnresolvable
			}
		}
	}
	add(full, "Too many pods", false)
	add(cpu, "Insufficient cpu", r.MilliCPU > n.Allocatable.MilliCPU)
	add(memory, "Insufficient memory", r.Memory > n.Allocatable.Memory)
	add(storage, "Insufficient ephemeral-storage", r.Storage > n.Allocatable.Storage)
	for _, name := range f.scalar {
		wanted, total := r.Scalar[name], n.Allocatable.Scalar[name]
		if total == 0 && f.devices != nil && f.devices(name) {
			continue
		}
		add(wanted > total-n.Requested.Scalar[name], "Insufficient "+string(name), wanted > total)
	}
	if len(reasons) == 0 {
		return nil
	}
	return refuseFit(code, reasons...)
}

// PreScore returns a score by the strategy.
func (f *NodeResourcesFit) PreScore(_ *framework.Cluster, p *framework.PodInfo, _ framework.PodFilter) framework.PodScore {
	return f.strategy.forPod(p)
}

// Events says that a node with more resources, a pod that needs less, or a class of devices that provides a resource may help.
func (f *NodeResourcesFit) Events() []framework.Hint {
	return []framework.Hint{
		{Resource: framework.AssignedPod, Actions: framework.Delete},
		{Resource: framework.AssignedPod, Actions: framework.Update, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
			old, now := e.Pods()
			before, after := framework.NewPodInfo(old).Requests, framework.NewPodInfo(now).Requests
			return f.filter(p).anyOf(func(name corev1.ResourceName) bool { return after.Of(name) < before.Of(name) })
		}},
		{Resource: framework.Node, Actions: framework.Add | framework.Update, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
			old, now := e.Nodes()
			empty := framework.NewNodeInfo(now)
			if f.filter(p).Filter(empty) != nil {
				return false
			}
			if old == nil {
				return true
			}
			before := framework.NewNodeInfo(old)
			return empty.MaxPods > before.MaxPods || f.filter(p).anyOf(func(name corev1.ResourceName) bool { return empty.Allocatable.Of(name) > before.Allocatable.Of(name) })
		}},
		{Resource: framework.DeviceClass, Actions: framework.Add | framework.Update, Wakes: func(p *framework.PodInfo, _ *framework.Event) bool {
			return f.Devices != nil && slices.ContainsFunc(f.filter(p).scalar, f.Devices)
		}},
	}
}

// anyOf says whether something holds for one of the requested resources.
func (f *fitFilter) anyOf(holds func(corev1.ResourceName) bool) bool {
	for _, name := range append([]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}, f.scalar...) {
		if f.requests.Of(name) > 0 && holds(name) {
			return true
		}
	}
	return false
}
