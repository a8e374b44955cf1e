package devices

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// Name is the plugin's name.
const Name = "DynamicResources"

// How long the search for a pod's devices may take, and how long conditions that devices require are awaited. Upstream searches on several
// nodes at once, for ten seconds on each; here all other pods wait for the search.
const (
	DefaultFilterTimeout  = 2 * time.Second
	DefaultBindingTimeout = 10 * time.Minute
)

// DynamicResources is the plugin.
type DynamicResources struct {
	State *State
	// FilterTimeout limits the search for devices for a pod, on all nodes together: other pods wait for it. Zero is no limit.
	FilterTimeout  time.Duration
	BindingTimeout time.Duration
}

// Name returns the plugin's name.
func (*DynamicResources) Name() string { return Name }

func refuse(format string, args ...any) *framework.Status {
	return framework.Refuse(framework.UnschedulableAndUnresolvable, Name, fmt.Sprintf(format, args...))
}

var (
	unavailable = refuse("resourceclaim not available on the node")
	noDevices   = refuse("cannot allocate all claims")
	stale       = refuse("cannot schedule extended resource claim")
)

// PreEnqueue keeps a pod out of the queue until its claims exist.
func (d *DynamicResources) PreEnqueue(p *framework.PodInfo) *framework.Status {
	if len(p.Spec.ResourceClaims) == 0 {
		return nil
	}
	if err := eachClaim(d.State.Client.View(), p.Pod, func(*resourcev1.ResourceClaim) {}); err != nil {
		return refuse("%v", err)
	}
	return nil
}

// eachClaim calls visit with the claims that a pod names. It returns an error if one of them cannot be used.
func eachClaim(v client.View, pod *corev1.Pod, visit func(*resourcev1.ResourceClaim)) error {
	for i := range pod.Spec.ResourceClaims {
		name, generated, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return err
		}
		if name == nil {
			continue // none is needed
		}
		c, ok := client.Get[*resourcev1.ResourceClaim](v, pod.Namespace, *name)
		if !ok {
			return fmt.Errorf("could not find ResourceClaim %q", pod.Namespace+"/"+*name)
		}
		if c.DeletionTimestamp != nil {
			return fmt.Errorf("resourceclaim %q is being deleted", c.Name)
		}
		if generated {
			if err := resourceclaim.IsForPod(pod, c, false); err != nil {
				return err
			}
		}
		visit(c)
	}
	return nil
}

// podClaims is what is known about the claims of one pod.
type podClaims struct {
	plugin *DynamicResources
	pod    *corev1.Pod
	// claims are those that the pod names, and, last, the one for its extended resources, if a class provides any.
	claims    []*podClaim
	extended  *extendedClaim
	allocator structured.Allocator
	revision  uint64 // of the state that this was found out in
	// deadline is when the search for devices ends; zero if it does not.
	deadline time.Time
	// failed is why the search was given up.
	failed *framework.Status
	// plans are the allocations for the nodes that passed.
	plans map[string]*plan
	// blocked are the claims that are allocated, but not available on a node.
	blocked map[*podClaim]bool
	taken   *plan // the one that was reserved
}

// podClaim is one of a pod's claims.
type podClaim struct {
	// claim is as it was read, and later as it was written last.
	claim *resourcev1.ResourceClaim
	// uid is that of claim, but for a claim that is yet to be created.
	uid types.UID
	// nodes are those on which what it has can be used; nil for all.
	nodes *nodeaffinity.NodeSelector
	// has is its allocation: one that is stored, or a pending one that the pod can share. Without one it must be allocated.
	has *resourcev1.AllocationResult
	// decided is the allocation that was reserved for it.
	decided *resourcev1.AllocationResult
	// reserved says that the pod was written into status.reservedFor, made that the claim was created for this attempt.
	reserved, made bool
	// unsure is the version of the claim if the outcome of writing its allocation is not known.
	unsure uint64
}

// plan is what is allocated for a pod on a node.
type plan struct {
	allocations map[*podClaim]*resourcev1.AllocationResult
	// extended is the claim for extended resources as this node needs it, nil if it needs none, with what containers get of it.
	extended *resourcev1.ResourceClaim
	mappings []corev1.ContainerExtendedResourceRequest
}

// Volatile says that the results depend on objects that are not part of the cluster.
func (*podClaims) Volatile() {}

// PreFilter looks at the claims of a pod.
func (d *DynamicResources) PreFilter(_ *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	if len(p.Spec.ResourceClaims) == 0 && len(p.Requests.Scalar) == 0 {
		return nil, nil
	}
	f, status := d.look(p)
	if f == nil {
		return nil, status // not a nil *podClaims in the interface
	}
	return f, nil
}

func (d *DynamicResources) look(p *framework.PodInfo) (*podClaims, *framework.Status) {
	view := d.State.Client.View()
	f := &podClaims{plugin: d, pod: p.Pod, revision: d.State.revision, plans: map[string]*plan{}, blocked: map[*podClaim]bool{}}
	if d.FilterTimeout > 0 {
		f.deadline = time.Now().Add(d.FilterTimeout)
	}
	err := eachClaim(view, p.Pod, func(c *resourcev1.ResourceClaim) { f.claims = append(f.claims, &podClaim{claim: c, uid: c.UID}) })
	if err != nil {
		return nil, refuse("%v", err)
	}
	if f.extended = d.State.extendedOf(view, p); f.extended != nil {
		f.claims = append(f.claims, f.extended.podClaim)
	}
	if len(f.claims) == 0 {
		return nil, nil
	}
	searches := false
	for _, c := range f.claims {
		if status := f.prepare(c); status != nil {
			return nil, status
		}
		searches = searches || c.has == nil
	}
	if searches {
		if f.allocator, err = d.State.allocator(); err != nil {
			return nil, framework.Failed(Name, err)
		}
	}
	return f, nil
}

// prepare finds out whether a claim can be used, and what must be allocated for it.
func (f *podClaims) prepare(c *podClaim) *framework.Status {
	s := f.plugin.State
	if s.givenUp.Has(c.uid) {
		return refuse("resource claim %s/%s is in the process of being deallocated", c.claim.Namespace, c.claim.Name)
	}
	c.has = c.claim.Status.Allocation
	if c.has != nil && len(c.claim.Status.ReservedFor) >= resourcev1.ResourceClaimReservedForMaxSize && !resourceclaim.IsReservedForPod(f.pod, c.claim, false) {
		return refuse("resourceclaim in use")
	}
	if p := s.pendingOf(c.uid); p != nil && c.has == nil {
		// What was decided for another pod is not shared before it is stored: then that pod's attempt can fail without this one's.
		// Pods of a gang are bound together, and all fail together. Without users, it may be stored at any moment.
		if gang, ok := framework.GangOf(f.pod); p.users.Len() > 0 && (!ok || p.gang != gang) {
			return refuse("resource claim %s/%s is in the process of being allocated", c.claim.Namespace, c.claim.Name)
		}
		c.has = p.allocation
	}
	if c.has != nil {
		if c.has.NodeSelector == nil {
			return nil
		}
		var err error
		if c.nodes, err = nodeaffinity.NewNodeSelector(c.has.NodeSelector); err != nil {
			return framework.Failed(Name, err)
		}
		return nil
	}
	if f.extended != nil && c == f.extended.podClaim {
		return nil // its requests depend on the node
	}
	return s.classesOf(c.claim)
}

// classesOf refuses a claim whose classes do not exist.
func (s *State) classesOf(c *resourcev1.ResourceClaim) *framework.Status {
	check := func(class, request string) *framework.Status {
		if s.classes[class] == nil {
			return refuse("request %s: device class %s does not exist", request, class)
		}
		return nil
	}
	for i := range c.Spec.Devices.Requests {
		request := &c.Spec.Devices.Requests[i]
		switch {
		case request.Exactly != nil:
			if status := check(request.Exactly.DeviceClassName, request.Name); status != nil {
				return status
			}
		case len(request.FirstAvailable) > 0:
			for j := range request.FirstAvailable {
				if status := check(request.FirstAvailable[j].DeviceClassName, request.Name+"/"+request.FirstAvailable[j].Name); status != nil {
					return status
				}
			}
		default:
			return refuse("resource claim %s/%s, request %s: unknown request type", c.Namespace, c.Name, request.Name)
		}
	}
	return nil
}

// Filter refuses nodes on which the pod's claims cannot be used or allocated.
func (f *podClaims) Filter(n *framework.NodeInfo) *framework.Status {
	if f.failed != nil {
		return f.failed // for the whole pod, as upstream: the loop does not try for longer
	}
	next := &plan{allocations: map[*podClaim]*resourcev1.AllocationResult{}}
	if f.extended != nil {
		if status := f.extended.on(n, next); status != nil {
			return status
		}
		if next.extended == nil && len(f.claims) == 1 {
			f.plans[n.Name] = next // a device plugin has all that the pod needs
			return nil
		}
	}
	if !f.available(n.Node) {
		return unavailable
	}
	if status := f.allocate(n.Node, next); status != nil {
		return status
	}
	f.plans[n.Name] = next
	return nil
}

// available says whether what the claims have can be used on a node, and is not known to be unusable.
func (f *podClaims) available(node *corev1.Node) bool {
	all := true
	for _, c := range f.claims {
		if c.has == nil {
			continue
		}
		usable := c.nodes == nil || c.nodes.Match(node)
		if usable && c.claim.Status.Allocation != nil {
			ready, err := ready(c.claim)
			usable = err == nil && (ready || !f.plugin.overdue(c.claim, time.Now()))
		}
		if !usable {
			f.blocked[c] = true
			all = false
		}
	}
	return all
}

// allocate finds devices on a node for the claims that have none.
func (f *podClaims) allocate(node *corev1.Node, next *plan) *framework.Status {
	var wanting []*podClaim
	var claims []*resourcev1.ResourceClaim
	for _, c := range f.claims {
		switch {
		case c.has != nil:
		case f.extended == nil || c != f.extended.podClaim:
			wanting, claims = append(wanting, c), append(claims, c.claim)
		case next.extended != nil:
			wanting, claims = append(wanting, c), append(claims, next.extended)
		}
	}
	if len(claims) == 0 {
		return nil
	}
	ctx := context.Background()
	if !f.deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, f.deadline)
		defer cancel()
	}
	results, err := f.allocator.Allocate(ctx, node, claims)
	switch {
	case errors.Is(err, structured.ErrFailedAllocationOnNode):
		return refuse("%v", err)
	case errors.Is(err, context.DeadlineExceeded):
		f.failed = framework.Failed(Name, fmt.Errorf("node %s: timed out trying to allocate devices: the search was given up after %v (filterTimeout)", node.Name, f.plugin.FilterTimeout))
		return f.failed
	case err != nil:
		f.failed = framework.Failed(Name, err) // something is wrong with a claim or a class
		return f.failed
	case len(results) != len(claims):
		return noDevices
	}
	for i, c := range wanting {
		next.allocations[c] = &results[i]
	}
	return nil
}

// Reserve makes the allocations for a node pending, so that no other pod gets the devices.
func (f *podClaims) Reserve(n *framework.NodeInfo) *framework.Status {
	s := f.plugin.State
	if f.revision != s.revision { // others have been placed since, of the same gang
		fresh, status := f.plugin.look(framework.NewPodInfo(f.pod))
		switch {
		case status != nil:
			return status
		case fresh == nil:
			return refuse("%s", "the claims of the pod have changed")
		}
		if status := fresh.Filter(n); status != nil {
			return status
		}
		*f = *fresh
	}
	f.taken = f.plans[n.Name]
	if f.taken == nil {
		return framework.Failed(Name, errors.New("claim allocation not found for node"))
	}
	for _, c := range f.claims {
		c.decided = f.taken.allocations[c]
		if c.decided == nil && c.claim.Status.Allocation == nil {
			c.decided = c.has // it is shared, and not stored
		}
		if c.decided != nil {
			claim := c.claim
			if f.extended != nil && c == f.extended.podClaim {
				claim = f.taken.extended
			}
			gang, _ := framework.GangOf(f.pod)
			s.reserve(c.uid, claim, c.decided, f.pod.UID, gang)
		}
	}
	return nil
}

// Unreserve gives up what was reserved.
func (f *podClaims) Unreserve() {
	if f.taken == nil {
		return
	}
	for _, c := range f.claims {
		if c.decided != nil {
			f.plugin.State.drop(c.uid, f.pod.UID, c.claim, c.unsure)
		}
	}
	f.taken = nil
}
