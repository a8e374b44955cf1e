package devices

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/record"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// features are those that are on by default in v1.37.
var features = structured.Features{
	AdminAccess: true, PrioritizedList: true, PartitionableDevices: true, DeviceTaints: true, DeviceBindingAndStatus: true,
	ConsumableCapacity: true, FractionalCapacityRange: true,
}

// compiledSelectors is how many compiled CEL expressions are kept.
const compiledSelectors = 64

// State is the devices of the cluster as the scheduler sees them. It belongs to the scheduler's loop, except for changed, made and doubts.
type State struct {
	Client   *client.Client
	Recorder record.EventRecorder
	// Freed is called when devices are free again without a change of a stored claim: with the claim as it would have been, and as it is.
	Freed func(old, now *resourcev1.ResourceClaim)

	claims map[types.UID]*claim
	// givenUp are the claims whose allocation is being taken away so that pods can have another one.
	givenUp sets.Set[types.UID]
	taken   taken
	slices  map[string]*resourcev1.ResourceSlice
	rules   map[string]*resourcev1.DeviceTaintRule
	classes map[string]*resourcev1.DeviceClass
	// providers are the classes by the extended resources that they provide.
	providers map[corev1.ResourceName]*resourcev1.DeviceClass

	// revision grows with every change of what an allocation depends on. current is the allocator of that revision, nil if it was not
	// needed yet, and published the slices with the taints of rules, nil if they have changed.
	revision  uint64
	current   structured.Allocator
	published []*resourcev1.ResourceSlice
	selectors *cel.Cache
	changed   broadcast.Signal // of a claim
	// made has, by the UIDs of claims for extended resources, those under which they were pending before they were created.
	made sync.Map
	// doubts has, by the UIDs of claims, the versions that writes were conditional on which take an allocation or a reservation away and
	// whose outcomes are not known.
	doubts sync.Map
}

// claim is a claim that has devices or is about to.
type claim struct {
	// stored is the allocation in the API, as of version.
	stored  *resourcev1.AllocationResult
	version uint64
	pending *pending
}

// pending is an allocation that has been decided and may not be stored yet.
type pending struct {
	claim      *resourcev1.ResourceClaim // as it would be stored
	allocation *resourcev1.AllocationResult
	// users are the pods that it was decided for: one, or several of a gang.
	users sets.Set[types.UID]
	gang  framework.GangKey
	// unsure is the version of the claim that a write was conditional on whose outcome is not known. As long as the claim has that
	// version, it may still be carried out.
	unsure uint64
}

// NewState returns a state without devices.
func NewState(c *client.Client, recorder record.EventRecorder) *State {
	s := &State{
		Client: c, Recorder: recorder, Freed: func(_, _ *resourcev1.ResourceClaim) {}, claims: map[types.UID]*claim{}, givenUp: sets.New[types.UID](), taken: newTaken(),
		selectors: cel.NewCache(compiledSelectors, cel.Features{EnableConsumableCapacity: true}),
	}
	s.Start(nil, nil, nil, nil)
	return s
}

// Start replaces what is known of the API's objects. Pending allocations stay: their writes go on.
func (s *State) Start(claims []*resourcev1.ResourceClaim, slices []*resourcev1.ResourceSlice, rules []*resourcev1.DeviceTaintRule, classes []*resourcev1.DeviceClass) {
	s.slices, s.rules, s.classes = byName(slices), byName(rules), byName(classes)
	s.provide()
	s.republish()
	there := sets.New[types.UID]()
	for _, c := range claims {
		there.Insert(c.UID)
		s.ObserveClaim(c, false)
	}
	for uid, c := range s.claims {
		if !there.Has(uid) {
			c.version = 0 // whatever was known of it is outdated
			s.set(uid, c, nil, 0, c.pending)
		}
	}
}

func byName[T client.Object](list []T) map[string]T {
	out := make(map[string]T, len(list))
	for _, obj := range list {
		out[obj.GetName()] = obj
	}
	return out
}

// versionOf returns the revision at which an object was stored.
func versionOf(c *resourcev1.ResourceClaim) uint64 {
	version, err := strconv.ParseUint(c.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return version
}

// ObserveClaim follows a claim. gone says that it was deleted.
func (s *State) ObserveClaim(c *resourcev1.ResourceClaim, gone bool) {
	defer s.changed.Tell()
	s.settleMade(c, gone)
	version := versionOf(c)
	if doubted, ok := s.doubts.Load(c.UID); ok && (gone || version > doubted.(uint64)) {
		s.doubts.Delete(c.UID)
	}
	have := s.claims[c.UID]
	switch {
	case have == nil && (gone || c.Status.Allocation == nil):
		return
	case have == nil:
		have = &claim{}
	case version < have.version:
		return // a newer one is known: see drop
	}
	stored, waits := c.Status.Allocation, have.pending
	if gone {
		stored = nil
	}
	never := stored == nil && waits != nil && (gone || waits.users.Len() == 0 && version > waits.unsure)
	if stored != nil || never {
		waits = nil
	}
	if never {
		defer s.free(have.pending)
	}
	s.set(c.UID, have, stored, version, waits)
}

// settleMade ends what is pending for a claim from before it was created, if it has its allocation now, or is gone.
func (s *State) settleMade(c *resourcev1.ResourceClaim, gone bool) {
	unmade, ok := s.made.Load(c.UID)
	if !ok || !gone && c.Status.Allocation == nil {
		return
	}
	s.made.Delete(c.UID)
	uid := unmade.(types.UID)
	if have := s.claims[uid]; have != nil && have.pending != nil {
		p := have.pending
		s.set(uid, have, nil, 0, nil)
		if gone {
			s.free(p)
		}
	}
}

// free tells that a pending allocation is given up.
func (s *State) free(p *pending) {
	now := p.claim.DeepCopy()
	now.Status.Allocation = nil
	s.Freed(p.claim, now)
}

// set replaces what is known of a claim.
func (s *State) set(uid types.UID, c *claim, stored *resourcev1.AllocationResult, version uint64, waits *pending) {
	before := c.effective()
	if stored != nil && c.stored != nil && apiequality.Semantic.DeepEqual(stored.Devices.Results, c.stored.Devices.Results) {
		stored = c.stored // as nearly always, since an allocation cannot be changed
	}
	c.stored, c.version, c.pending = stored, version, waits
	if after := c.effective(); after != before {
		s.taken.count(before, -1)
		s.taken.count(after, 1)
		s.invalidate()
	}
	if c.stored == nil && c.pending == nil {
		delete(s.claims, uid)
	} else {
		s.claims[uid] = c
	}
}

// effective returns the allocation that counts; nil if there is none.
func (c *claim) effective() *resourcev1.AllocationResult {
	if c.stored == nil && c.pending != nil {
		return c.pending.allocation
	}
	return c.stored
}

func (s *State) pendingOf(uid types.UID) *pending {
	if c := s.claims[uid]; c != nil && c.stored == nil {
		return c.pending
	}
	return nil
}

// reserve makes an allocation pending for a pod. c is the claim for which it was decided, which may be newer than its last event: what was
// known of it before then, such as an allocation that was taken away, is outdated, and must not hide the new one.
func (s *State) reserve(uid types.UID, c *resourcev1.ResourceClaim, allocation *resourcev1.AllocationResult, pod types.UID, gang framework.GangKey) {
	if c.UID == uid {
		s.ObserveClaim(c, false)
	}
	have := s.claims[uid]
	if have == nil {
		have = &claim{}
	}
	have.version = max(have.version, versionOf(c))
	if p := have.pending; p != nil { // that of a gang, or of an attempt whose outcome is not known
		p.users.Insert(pod)
		return
	}
	after := c.DeepCopy()
	after.Status.Allocation = allocation
	s.set(uid, have, have.stored, have.version, &pending{claim: after, allocation: allocation, users: sets.New(pod), gang: gang})
}

// drop ends a pod's part in a pending allocation, which was not stored, as far as the pod knows. now is the claim as it was last written,
// and unsure its version if a write with the allocation may still be carried out, else 0.
func (s *State) drop(uid, pod types.UID, now *resourcev1.ResourceClaim, unsure uint64) {
	current, exists := client.Get[*resourcev1.ResourceClaim](s.Client.View(), now.Namespace, now.Name)
	exists = exists && current.UID == now.UID
	if exists && current.Status.Allocation != nil {
		s.ObserveClaim(current, false) // its event may not have arrived yet
	}
	have := s.claims[uid]
	if have == nil || have.pending == nil {
		return
	}
	p := have.pending
	p.users.Delete(pod)
	if p.unsure = max(p.unsure, unsure); !exists || versionOf(current) > p.unsure {
		p.unsure = 0 // also of an earlier attempt: no event may follow that would say so
	}
	if p.users.Len() > 0 || p.unsure != 0 {
		return
	}
	s.made.Delete(now.UID)
	s.set(uid, have, have.stored, have.version, nil)
	s.free(p)
}

// Quietly does something without calling Freed.
func (s *State) Quietly(do func()) {
	freed := s.Freed
	defer func() { s.Freed = freed }()
	s.Freed = func(_, _ *resourcev1.ResourceClaim) {}
	do()
}

// ObserveSlice follows a slice.
func (s *State) ObserveSlice(slice *resourcev1.ResourceSlice, gone bool) {
	replace(s.slices, slice, gone)
	s.republish()
}

// ObserveRule follows a rule that taints devices.
func (s *State) ObserveRule(rule *resourcev1.DeviceTaintRule, gone bool) {
	replace(s.rules, rule, gone)
	s.republish()
}

// ObserveClass follows a class. It says whether the extended resources that classes provide have changed.
func (s *State) ObserveClass(class *resourcev1.DeviceClass, gone bool) bool {
	replace(s.classes, class, gone)
	s.invalidate()
	before := s.providers
	s.provide()
	return !maps.EqualFunc(before, s.providers, func(a, b *resourcev1.DeviceClass) bool { return a.Name == b.Name })
}

func replace[T client.Object](in map[string]T, obj T, gone bool) {
	if gone {
		delete(in, obj.GetName())
	} else {
		in[obj.GetName()] = obj
	}
}

// provide finds out which class provides an extended resource: of several the newest one, of equally old ones the first by name.
func (s *State) provide() {
	s.providers = map[corev1.ResourceName]*resourcev1.DeviceClass{}
	for _, class := range s.classes {
		s.providers[corev1.ResourceName(resourcev1.ResourceDeviceClassPrefix+class.Name)] = class
		if class.Spec.ExtendedResourceName == nil {
			continue
		}
		name := corev1.ResourceName(*class.Spec.ExtendedResourceName)
		other := s.providers[name]
		if other == nil || cmp.Or(class.CreationTimestamp.Compare(other.CreationTimestamp.Time), cmp.Compare(other.Name, class.Name)) > 0 {
			s.providers[name] = class
		}
	}
}

// Provides says whether a class of devices provides an extended resource. It can be called for a nil State, which provides none.
func (s *State) Provides(name corev1.ResourceName) bool { return s != nil && s.providers[name] != nil }

// Concerns says whether a pod may need devices.
func (s *State) Concerns(p *framework.PodInfo) bool {
	return len(p.Spec.ResourceClaims) > 0 || s.provides(p)
}

// provides says whether a class provides any of a pod's extended resources.
func (s *State) provides(p *framework.PodInfo) bool {
	for name := range p.Requests.Scalar {
		if isExtended(name) && s.Provides(name) {
			return true
		}
	}
	return false
}

func (s *State) invalidate() {
	s.revision++
	s.current = nil
}

func (s *State) republish() {
	s.published = nil
	s.invalidate()
}

// allocator returns an allocator for the present state. It reads the state, which does not change while it is used.
func (s *State) allocator() (structured.Allocator, error) {
	if s.current != nil {
		return s.current, nil
	}
	if s.published == nil {
		s.published = make([]*resourcev1.ResourceSlice, 0, len(s.slices))
		for _, name := range slices.Sorted(maps.Keys(s.slices)) {
			s.published = append(s.published, s.tainted(s.slices[name]))
		}
	}
	var err error
	s.current, err = structured.NewAllocator(context.Background(), features, s.taken.AllocatedState, lister{s}, s.published, s.selectors)
	return s.current, err
}

// tainted returns a slice with the taints that rules add to its devices.
func (s *State) tainted(slice *resourcev1.ResourceSlice) *resourcev1.ResourceSlice {
	out := slice
	for _, name := range slices.Sorted(maps.Keys(s.rules)) {
		rule := s.rules[name]
		selector := rule.Spec.DeviceSelector
		if selector == nil || selector.Driver != nil && *selector.Driver != slice.Spec.Driver || selector.Pool != nil && *selector.Pool != slice.Spec.Pool.Name {
			continue
		}
		for i := range slice.Spec.Devices {
			if selector.Device != nil && *selector.Device != slice.Spec.Devices[i].Name {
				continue
			}
			if out == slice {
				out = slice.DeepCopy()
			}
			out.Spec.Devices[i].Taints = append(out.Spec.Devices[i].Taints, rule.Spec.Taint)
		}
	}
	return out
}

// lister gives the allocator the classes.
type lister struct{ state *State }

func (l lister) List() ([]*resourcev1.DeviceClass, error) {
	return slices.Collect(maps.Values(l.state.classes)), nil
}

func (l lister) Get(name string) (*resourcev1.DeviceClass, error) {
	if class := l.state.classes[name]; class != nil {
		return class, nil
	}
	return nil, fmt.Errorf("deviceclass.resource.k8s.io %q not found", name)
}

// taken is what allocations take of devices.
type taken struct {
	structured.AllocatedState
	// times is how often a device is allocated. It is more than once only if somebody else than the scheduler allocates.
	times map[structured.DeviceID]int
}

func newTaken() taken {
	return taken{structured.AllocatedState{
		AllocatedDevices: sets.New[structured.DeviceID](), AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity: structured.NewConsumedCapacityCollection(),
	}, map[structured.DeviceID]int{}}
}

// count adds the devices of an allocation, or with -1 subtracts them. Administrative access takes nothing.
func (t *taken) count(a *resourcev1.AllocationResult, sign int) {
	if a == nil {
		return
	}
	for i := range a.Devices.Results {
		r := &a.Devices.Results[i]
		if r.AdminAccess != nil && *r.AdminAccess {
			continue
		}
		id := structured.MakeDeviceID(r.Driver, r.Pool, r.Device)
		if r.ShareID != nil {
			t.share(structured.MakeSharedDeviceID(id, r.ShareID), structured.NewDeviceConsumedCapacity(id, r.ConsumedCapacity), sign)
			continue
		}
		if t.times[id] += sign; t.times[id] > 0 {
			t.AllocatedDevices.Insert(id)
		} else {
			delete(t.times, id)
			t.AllocatedDevices.Delete(id)
		}
	}
}

// share counts a part of a device that several claims share.
func (t *taken) share(id structured.SharedDeviceID, consumed structured.DeviceConsumedCapacity, sign int) {
	if sign > 0 {
		t.AllocatedSharedDeviceIDs.Insert(id)
		t.AggregatedCapacity.Insert(consumed)
	} else {
		t.AllocatedSharedDeviceIDs.Delete(id)
		t.AggregatedCapacity.Remove(consumed)
	}
}
