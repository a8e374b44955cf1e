package scheduler_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/resourceclaim"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/scheduler/config"
)

// unreliable is a store some of whose writes of the scheduler fail: before they are carried out, after it, or while they still may be.
type unreliable struct {
	objects.Store
	mu     sync.Mutex
	random *rand.Rand
	late   sync.WaitGroup
}

func (s *unreliable) Propose(ctx context.Context, c *kv.Command) (kv.Result, error) {
	claim, binding := false, false
	for i := range c.Ops {
		claim = claim || strings.Contains(c.Ops[i].Key, "/resourceclaims/") && bytes.Contains(c.Ops[i].Value, []byte("kube-scheduler"))
		binding = binding || strings.Contains(c.Ops[i].Key, "/pods/") && bytes.Contains(c.Ops[i].Value, []byte("Scheduled"))
	}
	s.mu.Lock()
	chance := s.random.Intn(12)
	s.mu.Unlock()
	switch {
	case !claim && !binding:
	case chance == 0:
		return kv.Result{}, kv.ErrNoLeader
	case chance == 1:
		if _, err := s.Store.Propose(ctx, c); err != nil {
			return kv.Result{}, err
		}
		return kv.Result{}, kv.ErrOutcomeUnknown
	case chance == 2 && claim:
		s.late.Go(func() {
			time.Sleep(time.Duration(chance) * time.Millisecond)  // a late write: any time is as good as another, and nothing awaits it
			_, _ = s.Store.Propose(context.WithoutCancel(ctx), c) // nobody learns what came of it
		})
		return kv.Result{}, kv.ErrOutcomeUnknown
	}
	return s.Store.Propose(ctx, c)
}

// Three drivers: of plain devices, of partitions of a card with 4 units, and of devices that claims share, with 4 units.
const plain, parts, shares = "plain.example.com", "parts.example.com", "shares.example.com"

// publish publishes what a node has: two plain devices, partitions of a card, and one shared device.
func (b *bed) publish(node string) {
	b.t.Helper()
	slice := func(driver string, part, count int64, change func(*resourcev1.ResourceSliceSpec)) {
		s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%s-%d", node, driver, part)}, Spec: resourcev1.ResourceSliceSpec{
			Driver: driver, NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, ResourceSliceCount: count, Generation: 1}}}
		change(&s.Spec)
		create(b, s)
	}
	units := func(n int64) map[string]resourcev1.Counter {
		return map[string]resourcev1.Counter{"units": {Value: *resource.NewQuantity(n, resource.DecimalSI)}}
	}
	slice(plain, 0, 1, func(s *resourcev1.ResourceSliceSpec) { s.Devices = []resourcev1.Device{{Name: "d0"}, {Name: "d1"}} })
	slice(parts, 0, 2, func(s *resourcev1.ResourceSliceSpec) {
		s.SharedCounters = []resourcev1.CounterSet{{Name: "card", Counters: units(4)}}
	})
	slice(parts, 1, 2, func(s *resourcev1.ResourceSliceSpec) {
		for name, n := range unitsOf {
			s.Devices = append(s.Devices, resourcev1.Device{Name: name, ConsumesCounters: []resourcev1.DeviceCounterConsumption{{CounterSet: "card", Counters: units(n)}}})
		}
	})
	slice(shares, 0, 1, func(s *resourcev1.ResourceSliceSpec) {
		yes := true
		s.Devices = []resourcev1.Device{{Name: "nic", AllowMultipleAllocations: &yes, Capacity: map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"units": {Value: resource.MustParse("4")}}}}
	})
}

// unitsOf are the partitions of a card.
var unitsOf = map[string]int64{"one-0": 1, "one-1": 1, "two": 2, "four": 4}

// wrong returns what is allocated more than once, or more of than there is.
func wrong(v client.View) string {
	devices, units := map[string]string{}, map[string]int64{}
	problem := ""
	client.Each(v, "", func(c *resourcev1.ResourceClaim) bool {
		if c.Status.Allocation == nil {
			return true
		}
		for _, r := range c.Status.Allocation.Devices.Results {
			id := r.Driver + "/" + r.Pool + "/" + r.Device
			switch r.Driver {
			case shares:
				used := r.ConsumedCapacity["units"]
				units[id] += used.Value()
			case parts:
				units[r.Driver+"/"+r.Pool] += unitsOf[r.Device]
				fallthrough
			default:
				if other, ok := devices[id]; ok {
					problem = fmt.Sprintf("%s is allocated to %s and %s", id, other, c.Name)
				}
				devices[id] = c.Name
			}
		}
		return true
	})
	for id, n := range units {
		if n > 4 {
			problem = fmt.Sprintf("of %s, %d units are allocated, there are 4", id, n)
		}
	}
	// A pod that is bound has all its devices.
	client.Each(v, "", func(p *corev1.Pod) bool {
		for _, ref := range p.Spec.ResourceClaims {
			c, ok := client.Get[*resourcev1.ResourceClaim](v, p.Namespace, *ref.ResourceClaimName)
			if p.Spec.NodeName == "" || !ok || p.DeletionTimestamp != nil {
				continue
			}
			if c.Status.Allocation == nil || c.Status.Allocation.Devices.Results[0].Pool != p.Spec.NodeName {
				problem = fmt.Sprintf("pod %s is on node %s, its claim %s has %+v", p.Name, p.Spec.NodeName, c.Name, c.Status.Allocation)
			}
		}
		return true
	})
	return problem
}

// anyClaim makes a claim that an empty node can satisfy.
func anyClaim(random *rand.Rand) resourcev1.DeviceClaim {
	exactly := func(name, class string, count int64, change ...func(*resourcev1.ExactDeviceRequest)) resourcev1.DeviceRequest {
		r := want(name, count, change...)
		r.Exactly.DeviceClassName = class
		return r
	}
	capacity := func(n int64) func(*resourcev1.ExactDeviceRequest) {
		return func(r *resourcev1.ExactDeviceRequest) {
			r.Capacity = &resourcev1.CapacityRequirements{Requests: map[resourcev1.QualifiedName]resource.Quantity{"units": *resource.NewQuantity(n, resource.DecimalSI)}}
		}
	}
	sub := func(name, class string, count int64) resourcev1.DeviceSubRequest {
		return resourcev1.DeviceSubRequest{Name: name, DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count}
	}
	switch random.Intn(6) {
	case 0:
		return requests(exactly("r", "plain", int64(1+random.Intn(2))))
	case 1:
		return requests(exactly("r", "parts", int64(1+random.Intn(2))))
	case 2:
		return requests(exactly("r", "shares", 1, capacity(int64(1+random.Intn(4)))))
	case 3:
		return requests(exactly("p", "plain", 1), exactly("s", "shares", 1, capacity(2)))
	case 4:
		return requests(resourcev1.DeviceRequest{Name: "r", FirstAvailable: []resourcev1.DeviceSubRequest{sub("plain", "plain", 2), sub("part", "parts", 1)}})
	default:
		return requests(exactly("r", "parts", 0, func(r *resourcev1.ExactDeviceRequest) {
			r.AllocationMode, r.Count = resourcev1.DeviceAllocationModeExactCount, 1
			selecting(`device.driver == "parts.example.com"`)(r)
		}))
	}
}

// TestNoDeviceIsAllocatedTwice: pods with claims come and go, writes fail, and schedulers follow one another. At no time is a device
// allocated twice, or more of a card or a shared device than it has; and every pod gets its devices once others have gone.
func TestNoDeviceIsAllocatedTwice(t *testing.T) {
	for seed := range int64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { noDeviceTwice(t, seed) })
	}
}

func noDeviceTwice(t *testing.T, seed int64) {
	store := &unreliable{random: rand.New(rand.NewSource(seed))}
	soon := config.Default()
	soon.FirstBackoff, soon.LongestBackoff = 10*time.Millisecond, 50*time.Millisecond
	b := startWith(t, soon, func(inner objects.Store) objects.Store {
		store.Store = inner
		return store
	})
	random := rand.New(rand.NewSource(seed))
	for class, driver := range map[string]string{"plain": plain, "parts": parts, "shares": shares} {
		b.deviceClass(class, fmt.Sprintf("device.driver == %q", driver))
	}
	for i := range 3 {
		b.node(fmt.Sprint("n", i), "100")
		b.publish(fmt.Sprint("n", i))
	}
	controllertest.Run(t, b.Client, resourceclaim.New(b.Client, controllertest.NewRecorder())...)
	var problem atomic.Value
	var trace strings.Builder
	stopWatching := controllertest.Follow(t, b.Client, []client.Object{&resourcev1.ResourceClaim{}, &corev1.Pod{}}, func(client.View) {}, func(events []client.Event) {
		for _, e := range events {
			describe(&trace, e)
		}
		if p := wrong(b.Client.View()); p != "" {
			problem.CompareAndSwap(nil, p+trace.String())
		}
	})
	const pods = 40
	for i := range pods {
		var claims []string
		for k := range 1 + random.Intn(2) {
			if k == 1 && i > 0 && random.Intn(2) == 0 {
				continue // one claim
			}
			name := fmt.Sprintf("c%d-%d", i, k)
			b.deviceClaimOf(name, anyClaim(random))
			claims = append(claims, name)
			if k == 0 && random.Intn(3) > 0 {
				break
			}
		}
		if i > 0 && random.Intn(6) == 0 { // several pods share a claim
			claims = []string{"c" + fmt.Sprint(i-1) + "-0"}
		}
		b.pod(fmt.Sprint("p", i), "10m", using(claims...))
		switch random.Intn(5) {
		case 0:
			b.stop()
			b.run()
		case 1:
			b.tryKill(fmt.Sprint("p", random.Intn(i+1)))
		}
	}
	// What is placed ends, until all have been placed.
	controllertest.AwaitView(t, b.Client, []client.Object{&corev1.Pod{}}, func(v client.View) string {
		left := 0
		client.Each(v, "default", func(p *corev1.Pod) bool {
			left++
			if p.Spec.NodeName != "" {
				b.tryKill(p.Name)
			}
			return true
		})
		if left > 0 {
			return fmt.Sprintf("%d pods are left: %s", left, waiting(v))
		}
		return ""
	})
	store.late.Wait()
	stopWatching()
	if p := problem.Load(); p != nil {
		t.Error(p)
	}
}

// describe writes what an event changed.
func describe(to *strings.Builder, e client.Event) {
	obj := e.Object()
	if e.New == nil {
		fmt.Fprintf(to, "\n%s %T %s is gone", obj.GetResourceVersion(), obj, obj.GetName())
		return
	}
	switch obj := obj.(type) {
	case *resourcev1.ResourceClaim:
		fmt.Fprintf(to, "\n%s claim %s:", obj.ResourceVersion, obj.Name)
		if obj.Status.Allocation != nil {
			for _, r := range obj.Status.Allocation.Devices.Results {
				fmt.Fprintf(to, " %s/%s/%s", r.Driver, r.Pool, r.Device)
			}
		}
		for _, ref := range obj.Status.ReservedFor {
			fmt.Fprintf(to, " for %s", ref.Name)
		}
	case *corev1.Pod:
		fmt.Fprintf(to, "\n%s pod %s on %q", obj.ResourceVersion, obj.Name, obj.Spec.NodeName)
		for _, ref := range obj.Spec.ResourceClaims {
			fmt.Fprintf(to, " with %s", *ref.ResourceClaimName)
		}
	}
}

// waiting describes the pods and claims that are left.
func waiting(v client.View) string {
	var out strings.Builder
	client.Each(v, "default", func(p *corev1.Pod) bool {
		fmt.Fprintf(&out, "\npod %s on %q", p.Name, p.Spec.NodeName)
		for _, ref := range p.Spec.ResourceClaims {
			fmt.Fprintf(&out, " with %s", *ref.ResourceClaimName)
		}
		for _, c := range p.Status.Conditions {
			fmt.Fprintf(&out, ": %s %s %s", c.Type, c.Reason, c.Message)
		}
		return true
	})
	client.Each(v, "default", func(c *resourcev1.ResourceClaim) bool {
		if c.Status.Allocation == nil {
			return true
		}
		fmt.Fprintf(&out, "\nclaim %s has", c.Name)
		for _, r := range c.Status.Allocation.Devices.Results {
			fmt.Fprintf(&out, " %s/%s/%s", r.Driver, r.Pool, r.Device)
		}
		for _, ref := range c.Status.ReservedFor {
			fmt.Fprintf(&out, ", reserved for %s", ref.Name)
		}
		return true
	})
	return out.String()
}

// tryKill deletes a pod if it is there.
func (b *bed) tryKill(name string) {
	p, ok := client.Get[*corev1.Pod](b.Client.View(), "default", name)
	if !ok {
		return
	}
	if err := b.Client.Delete(context.Background(), p, client.Grace(0)); err != nil && !apierrors.IsNotFound(err) {
		b.t.Error(err)
	}
}
