package dra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"

	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/runtime"
)

// Config has what a Manager needs.
type Config struct {
	// File has the claims that are prepared.
	File string
	// BootID identifies the machine's present run: what was prepared in an earlier one is prepared again.
	BootID string
	// Claim returns a claim of a pod of this node; it is read-only.
	Claim func(namespace, name string) (*resourcev1.ResourceClaim, bool)
	// Connect returns a connection to the socket of a driver, which is connected when it is first used.
	// Its messages have at most limit bytes.
	Connect func(socket string, limit int, options ...grpc.DialOption) (*grpc.ClientConn, error)
	// RemoveSlices removes a driver's ResourceSlices of this node, "" means those of all drivers but the ones in keep. It is tried again
	// after an error; nil if there is nobody to ask.
	RemoveSlices func(ctx context.Context, driver string, keep []string) error
	// WipeAfter is how long a driver may be gone before its slices are removed; 0 means 30 s, as with the kubelet.
	WipeAfter time.Duration
	// Changed is called when a driver has registered, or the health of devices has changed; nil for nothing. It must not block.
	Changed func()
}

// Manager knows the drivers and the claims. Its methods are safe for concurrent use.
type Manager struct {
	c Config

	mu      sync.Mutex
	drivers map[string][]*driver
	claims  map[key]*claim
	health  map[string]map[deviceName]health // by driver
	watches sync.WaitGroup
	wipes   map[string]time.Time // when a driver went away
	wake    chan struct{}
	saving  sync.Mutex
}

type key struct{ namespace, name string }

// claim is a claim that is prepared, or may be.
type claim struct {
	uid types.UID
	// drivers to call, and the devices that they have returned.
	drivers map[string]*driverState
	pods    map[types.UID]bool
	// prepared means that all drivers have succeeded since the machine has started.
	prepared bool
	// unpreparing means that drivers are being told, or were, that nobody uses the claim: no pod may join it.
	unpreparing bool
}

type driverState struct {
	SkipPrepare   bool     `json:"skipPrepare,omitempty"`
	SkipUnprepare bool     `json:"skipUnprepare,omitempty"`
	Devices       []device `json:"devices,omitempty"`
}

// device is a device of a claim, as its driver has described it.
type device struct {
	Pool     string   `json:"pool"`
	Name     string   `json:"name"`
	Requests []string `json:"requests,omitempty"` // none means all
	CDI      []string `json:"cdi,omitempty"`
}

// New returns a manager that knows what the previous one has prepared. Errors: the file cannot be read.
func New(c Config) (*Manager, error) {
	if c.WipeAfter == 0 {
		c.WipeAfter = 30 * time.Second
	}
	m := &Manager{c: c, drivers: map[string][]*driver{}, claims: map[key]*claim{}, health: map[string]map[deviceName]health{}, wipes: map[string]time.Time{}, wake: make(chan struct{}, 1)}
	if err := m.load(); err != nil {
		return nil, err
	}
	return m, nil
}

// awaited is an error for something that others are about to do.
type awaited struct{ error }

func (awaited) Awaited() bool { return true }

// wanted is a claim of a pod, to be prepared.
type wanted struct {
	key   key
	state *claim
	calls []*driver
}

// Prepare makes the devices of a pod's claims usable. It is idempotent, and needs no driver for what is prepared already.
func (m *Manager) Prepare(ctx context.Context, pod *corev1.Pod) error {
	list, err := m.wanted(pod)
	if err != nil || len(list) == 0 {
		return err
	}
	todo, err := m.join(pod, list)
	if err != nil {
		return err
	}
	batches := map[*driver][]*drav1.Claim{}
	for _, w := range todo {
		for _, d := range w.calls {
			batches[d] = append(batches[d], &drav1.Claim{Namespace: w.key.namespace, Name: w.key.name, Uid: string(w.state.uid)})
		}
	}
	for d, claims := range batches {
		if err := m.prepareWith(ctx, d, claims); err != nil {
			return err
		}
	}
	if len(todo) == 0 {
		return nil
	}
	m.mu.Lock()
	for _, w := range todo {
		if c := m.claims[w.key]; c != nil && c.uid == w.state.uid {
			c.prepared = true
		}
	}
	m.mu.Unlock()
	return m.save()
}

// wanted returns the claims of a pod, after checking without any change that they can be prepared: a pod that cannot start must not be kept
// from ending because a driver is missing.
func (m *Manager) wanted(pod *corev1.Pod) ([]wanted, error) {
	var out []wanted
	claims, err := claimsOf(pod)
	if err != nil {
		return nil, err
	}
	for name, mustOwn := range claims {
		object, ok := m.c.Claim(pod.Namespace, name)
		if !ok {
			return nil, awaited{fmt.Errorf("ResourceClaim %s is not known to the node", name)}
		}
		if mustOwn {
			if err := resourceclaim.IsForPod(pod, object, true); err != nil {
				return nil, err
			}
		}
		if object.Status.Allocation == nil {
			return nil, awaited{fmt.Errorf("ResourceClaim %s: not allocated", name)}
		}
		if !resourceclaim.IsReservedForPod(pod, object, true) {
			return nil, awaited{fmt.Errorf("pod %s (%s) is not allowed to use ResourceClaim %s (%s)", pod.Name, pod.UID, name, object.UID)}
		}
		w := wanted{key: key{pod.Namespace, name}, state: newClaim(object)}
		m.mu.Lock()
		have := m.claims[w.key]
		done := have != nil && have.uid == object.UID && have.prepared && !have.unpreparing
		m.mu.Unlock()
		if !done {
			for name, s := range w.state.drivers {
				if s.SkipPrepare {
					continue
				}
				d, err := m.driver(name)
				if err != nil {
					return nil, err
				}
				w.calls = append(w.calls, d)
			}
		}
		out = append(out, w)
	}
	return out, nil
}

// claimsOf returns the names of a pod's claims, that for its extended resources included, and whether the pod must own the claim.
func claimsOf(pod *corev1.Pod) (map[string]bool, error) {
	out := map[string]bool{}
	for i := range pod.Spec.ResourceClaims {
		name, mustOwn, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, awaited{err} // it was not made from its template yet
		}
		if name != nil {
			out[*name] = mustOwn
		}
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		out[s.ResourceClaimName] = true
	}
	return out, nil
}

// newClaim returns what is to be known of an allocated claim.
func newClaim(object *resourcev1.ResourceClaim) *claim {
	c := &claim{uid: object.UID, drivers: map[string]*driverState{}, pods: map[types.UID]bool{}}
	for _, r := range object.Status.Allocation.Devices.Results {
		skips := func(op resourcev1.SkipNodeOperation) bool {
			return slices.Contains(r.SkipNodeOperations, op) || slices.Contains(r.SkipNodeOperations, resourcev1.SkipNodeOperationAll)
		}
		prepare, unprepare := skips(resourcev1.SkipNodeOperationNodePrepareResources), skips(resourcev1.SkipNodeOperationNodeUnprepareResources)
		s := c.drivers[r.Driver]
		if s == nil { // a call is made unless all devices of the driver can do without
			c.drivers[r.Driver] = &driverState{SkipPrepare: prepare, SkipUnprepare: unprepare}
			continue
		}
		s.SkipPrepare, s.SkipUnprepare = s.SkipPrepare && prepare, s.SkipUnprepare && unprepare
	}
	return c
}

// join makes a pod a user of claims, on disk too, and returns those that are to be prepared.
func (m *Manager) join(pod *corev1.Pod, list []wanted) ([]wanted, error) {
	m.mu.Lock()
	for _, w := range list {
		have := m.claims[w.key]
		var err error
		switch {
		case have != nil && have.uid != w.state.uid:
			err = awaited{fmt.Errorf("old ResourceClaim with same name %s and different UID %s still exists (previous pod force-deleted?!)", w.key.name, have.uid)}
		case have != nil && have.unpreparing:
			err = awaited{fmt.Errorf("ResourceClaim %s is being unprepared", w.key.name)}
		}
		if err != nil {
			m.mu.Unlock()
			return nil, err
		}
	}
	var todo []wanted
	changed := false
	for _, w := range list {
		have := m.claims[w.key]
		if have == nil {
			have = w.state
			m.claims[w.key] = have
		}
		if !have.pods[pod.UID] {
			have.pods[pod.UID], changed = true, true
		}
		if !have.prepared {
			todo = append(todo, w)
		}
	}
	m.mu.Unlock()
	if !changed {
		return todo, nil
	}
	return todo, m.save()
}

// prepareWith has a driver prepare claims, and keeps what it returns.
func (m *Manager) prepareWith(ctx context.Context, d *driver, claims []*drav1.Claim) error {
	response, err := d.prepare(ctx, &drav1.NodePrepareResourcesRequest{Claims: claims})
	if err != nil {
		return fmt.Errorf("NodePrepareResources: %w", err)
	}
	answers := map[string]*drav1.NodePrepareResourceResponse{}
	for _, c := range claims {
		answer := response.Claims[c.Uid]
		switch {
		case answer == nil:
			return fmt.Errorf("NodePrepareResources skipped ResourceClaim %s", c.Name)
		case answer.Error != "":
			return fmt.Errorf("NodePrepareResources failed for ResourceClaim %s: %s", c.Name, clip(answer.Error))
		}
		if err := checkDevices(answer.Devices); err != nil {
			return fmt.Errorf("NodePrepareResources of driver %s for ResourceClaim %s: %w", d.name, c.Name, err)
		}
		answers[c.Uid] = answer
	}
	if len(response.Claims) != len(claims) {
		return errors.New("NodePrepareResources returned a result for an unknown claim")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range claims {
		have := m.claims[key{c.Namespace, c.Name}]
		if have == nil || string(have.uid) != c.Uid || have.drivers[d.name] == nil {
			return fmt.Errorf("ResourceClaim %s is not wanted any more", c.Name)
		}
		s := have.drivers[d.name]
		s.Devices = nil
		for _, v := range answers[c.Uid].Devices {
			s.Devices = append(s.Devices, device{v.PoolName, v.DeviceName, v.RequestNames, v.CdiDeviceIds})
		}
	}
	return nil
}

// Limits for what a driver returns for one claim.
const maxDevices, maxNames, maxName = 1000, 1000, 1024

func checkDevices(list []*drav1.Device) error {
	if len(list) > maxDevices {
		return fmt.Errorf("it has %d devices, and at most %d are supported", len(list), maxDevices)
	}
	for _, d := range list {
		if len(d.GetRequestNames()) > maxNames || len(d.GetCdiDeviceIds()) > maxNames || len(d.GetDeviceName()) > maxName || len(d.GetPoolName()) > maxName {
			return fmt.Errorf("a device has more than %d requests or CDI devices, or a name of more than %d characters", maxNames, maxName)
		}
		for _, n := range slices.Concat(d.GetRequestNames(), d.GetCdiDeviceIds()) {
			if len(n) > maxName {
				return fmt.Errorf("a device has a name of more than %d characters", maxName)
			}
		}
	}
	return nil
}

// clip returns the beginning of a driver's text.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 1000)], "") }

// Container returns the CDI devices of those claims that a container requests. They are prepared.
func (m *Manager) Container(pod *corev1.Pod, container string) (runtime.Edits, error) {
	c, _ := podspec.Container(pod, container)
	if c == nil {
		return runtime.Edits{}, nil
	}
	var e runtime.Edits
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range requestsOf(pod, c) {
		have := m.claims[key{pod.Namespace, r.claim}]
		if have == nil || !have.prepared || !have.pods[pod.UID] {
			return e, fmt.Errorf("ResourceClaim %s is not prepared", r.claim)
		}
		for _, name := range slices.Sorted(maps.Keys(have.drivers)) {
			for _, d := range have.drivers[name].Devices {
				if !d.of(r.request) {
					continue
				}
				for _, id := range d.CDI {
					if !slices.Contains(e.CDIDevices, id) {
						e.CDIDevices = append(e.CDIDevices, id)
					}
				}
			}
		}
	}
	return e, nil
}

// of says whether a device was allocated to a request; "" means any.
func (d device) of(request string) bool {
	return request == "" || len(d.Requests) == 0 || slices.ContainsFunc(d.Requests, func(n string) bool {
		return n == request || resourceclaim.BaseRequestRef(n) == request
	})
}

// request is a request of a claim, or with request "" the whole claim.
type request struct{ claim, request string }

// requestsOf returns what a container requests of its pod's claims.
func requestsOf(pod *corev1.Pod, c *corev1.Container) []request {
	var out []request
	for _, used := range c.Resources.Claims {
		for i := range pod.Spec.ResourceClaims {
			if pod.Spec.ResourceClaims[i].Name != used.Name {
				continue
			}
			if name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i]); err == nil && name != nil {
				out = append(out, request{*name, used.Request})
			}
		}
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		for _, r := range s.RequestMappings {
			if q := c.Resources.Requests[corev1.ResourceName(r.ResourceName)]; r.ContainerName == c.Name && !q.IsZero() {
				out = append(out, request{s.ResourceClaimName, r.RequestName})
			}
		}
	}
	return out
}

// Pods returns the pods with claims that are prepared or may be.
func (m *Manager) Pods() []types.UID {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[types.UID]bool{}
	for _, c := range m.claims {
		maps.Copy(all, c.pods)
	}
	return slices.Collect(maps.Keys(all))
}

// Unprepare ends a pod's use of its claims. Those that no other pod of the node uses are unprepared. It is idempotent, and returns an error
// until all drivers have succeeded.
func (m *Manager) Unprepare(ctx context.Context, uid types.UID) error {
	batches := map[string][]*drav1.Claim{}
	var ending []key
	m.mu.Lock()
	left := false
	for k, c := range m.claims {
		if !c.pods[uid] {
			continue
		}
		if len(c.pods) > 1 {
			delete(c.pods, uid)
			left = true
			continue
		}
		c.unpreparing, c.prepared = true, false
		ending = append(ending, k)
		for name, s := range c.drivers {
			if !s.SkipUnprepare {
				batches[name] = append(batches[name], &drav1.Claim{Namespace: k.namespace, Name: k.name, Uid: string(c.uid)})
			}
		}
	}
	m.mu.Unlock()
	if !left && len(ending) == 0 {
		return nil
	}
	// An agent that starts again must not take for prepared what a driver has unprepared before the previous one could note it.
	if err := m.save(); err != nil {
		return err
	}
	if len(ending) == 0 {
		return nil
	}
	for name, claims := range batches {
		if err := m.unprepareWith(ctx, name, claims); err != nil {
			return fmt.Errorf("unprepare dynamic resources: %w", err)
		}
	}
	m.mu.Lock()
	for _, k := range ending {
		delete(m.claims, k)
	}
	m.mu.Unlock()
	return m.save()
}

func (m *Manager) unprepareWith(ctx context.Context, name string, claims []*drav1.Claim) error {
	d, err := m.driver(name)
	if err != nil {
		return err
	}
	response, err := d.unprepare(ctx, &drav1.NodeUnprepareResourcesRequest{Claims: claims})
	if err != nil {
		return fmt.Errorf("NodeUnprepareResources: %w", err)
	}
	for _, c := range claims {
		switch answer := response.Claims[c.Uid]; {
		case answer == nil:
			return fmt.Errorf("NodeUnprepareResources skipped ResourceClaim %s", c.Name)
		case answer.Error != "":
			return fmt.Errorf("NodeUnprepareResources failed for ResourceClaim %s: %s", c.Name, clip(answer.Error))
		}
	}
	return nil
}
