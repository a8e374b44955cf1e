package allocate_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/allocate"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/registry/builtin"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

var catalog = registry.NewCatalog(builtin.Kinds())

func service(name string, kind corev1.ServiceType) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.ServiceSpec{Type: kind, Ports: []corev1.ServicePort{{Name: "a", Port: 80}, {Name: "b", Port: 81}}}}
}

func count(view kv.View, prefix string) int { return view.Count(prefix, kv.PrefixEnd(prefix)) }

// TestNothingIsHandedOutTwice: services that are created, changed and deleted concurrently never share an address or a port, and in
// the end exactly their addresses and ports are allocated.
func TestNothingIsHandedOutTwice(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 12 {
				s, err := client.Create(ctx, h.Client, service(fmt.Sprintf("s%d-%d", i, j), corev1.ServiceTypeNodePort))
				if err != nil {
					t.Error(err)
					return
				}
				switch j % 3 {
				case 1:
					s.Spec.Type = corev1.ServiceTypeClusterIP
					if _, err := client.Update(ctx, h.Client, s); err != nil {
						t.Error(err)
					}
				case 2:
					if err := h.Client.Delete(ctx, s); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	addresses, ports := map[string]string{}, map[int32]string{}
	services := client.List[*corev1.Service](h.Client.View(), "default", nil)
	if len(services) != 16*8 {
		t.Errorf("%d services", len(services))
	}
	for _, s := range services {
		if other := addresses[s.Spec.ClusterIP]; other != "" || s.Spec.ClusterIP == "" {
			t.Errorf("%s and %s have the address %q", s.Name, other, s.Spec.ClusterIP)
		}
		addresses[s.Spec.ClusterIP] = s.Name
		for _, p := range s.Spec.Ports {
			if (p.NodePort == 0) != (s.Spec.Type == corev1.ServiceTypeClusterIP) {
				t.Errorf("%s of type %s has the node port %d", s.Name, s.Spec.Type, p.NodePort)
			}
			if p.NodePort == 0 {
				continue
			}
			if other := ports[p.NodePort]; other != "" {
				t.Errorf("%s and %s have the port %d", s.Name, other, p.NodePort)
			}
			ports[p.NodePort] = s.Name
		}
	}
	view := h.Store.View()
	if a, p := count(view, "/networking.k8s.io/ipaddresses/"), count(view, "/allocated/nodeports/"); a != len(addresses) || p != len(ports) {
		t.Errorf("%d addresses and %d ports are taken, %d and %d are held", a, p, len(addresses), len(ports))
	}
}

func newID() (id kv.CommandID) {
	rand.Read(id[:]) // never fails (crypto/rand)
	return id
}

// table runs an allocator over a bare store, as the object service does.
type table struct {
	store *fsm.Local
}

func (b table) run(t *testing.T, a interface {
	Allocate(view kv.View, obj, old registry.Object, dryRun bool) ([]kv.Op, error)
}, obj, old registry.Object) error {
	t.Helper()
	if filler, ok := a.(objects.Filler); ok && obj != nil {
		if err := filler.Fill(b.store.View(), obj, old); err != nil {
			return err
		}
	}
	ops, err := a.Allocate(b.store.View(), obj, old, false)
	if err != nil || len(ops) == 0 {
		return err
	}
	result, err := b.store.Propose(context.Background(), &kv.Command{Ops: ops, ID: newID()})
	if err == nil && result.Failed != nil {
		t.Fatal(result.Failed)
	}
	return err
}

func TestAddressRangesFillUpToTheLast(t *testing.T) {
	for bits, most := range map[int]int{28: 13, 27: 29, 24: 253} { // all but the network's, the API's and the broadcast address
		t.Run(fmt.Sprint("/", bits), func(t *testing.T) {
			b := table{fsm.NewLocal(fsm.Options{})}
			a := &allocate.Services{Range: netip.PrefixFrom(netip.MustParseAddr("10.9.0.0"), bits), Catalog: catalog}
			seen := map[string]bool{}
			var made []*corev1.Service
			for i := range most {
				s := service(fmt.Sprint("s", i), corev1.ServiceTypeClusterIP)
				if err := b.run(t, a, s, nil); err != nil {
					t.Fatalf("service %d of %d: %v", i, most, err)
				}
				address := netip.MustParseAddr(s.Spec.ClusterIP)
				if seen[s.Spec.ClusterIP] || !a.Range.Contains(address) || address == a.First() || address == a.Range.Addr() || len(s.Spec.ClusterIPs) != 1 {
					t.Fatalf("address %s", address)
				}
				seen[s.Spec.ClusterIP] = true
				made = append(made, s)
			}
			if err := b.run(t, a, service("more", corev1.ServiceTypeClusterIP), nil); err == nil || !strings.Contains(err.Error(), "range is full") {
				t.Fatalf("one too many: %v", err)
			}
			if err := b.run(t, a, nil, made[3]); err != nil {
				t.Fatal(err)
			}
			again := service("again", corev1.ServiceTypeClusterIP)
			if err := b.run(t, a, again, nil); err != nil || again.Spec.ClusterIP != made[3].Spec.ClusterIP {
				t.Fatalf("what was given back is not handed out: %s, %v", again.Spec.ClusterIP, err)
			}
		})
	}
}

func TestWhatServicesMayAskFor(t *testing.T) {
	b := table{fsm.NewLocal(fsm.Options{})}
	a := &allocate.Services{Range: netip.MustParsePrefix("10.9.0.0/24"), Catalog: catalog}
	dual, single := corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack
	for _, c := range []struct {
		name   string
		change func(*corev1.Service)
		says   string
		check  func(*corev1.Service) bool
	}{
		{"an address of its own", func(s *corev1.Service) { s.Spec.ClusterIP = "10.9.0.77" }, "", func(s *corev1.Service) bool { return s.Spec.ClusterIPs[0] == "10.9.0.77" }},
		{"that address again", func(s *corev1.Service) { s.Spec.ClusterIP = "10.9.0.77" }, "provided IP is already allocated", nil},
		{"an address elsewhere", func(s *corev1.Service) { s.Spec.ClusterIP = "10.8.0.1" }, "is not in the valid range", nil},
		{"no address", func(s *corev1.Service) { s.Spec.ClusterIP = "None" }, "", func(s *corev1.Service) bool { return s.Spec.ClusterIPs[0] == "None" }},
		{"IPv6", func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }, "not configured on this cluster", nil},
		{"both families", func(s *corev1.Service) { s.Spec.IPFamilyPolicy = &dual }, "not configured for dual-stack", nil},
		{"an external name", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }, "", func(s *corev1.Service) bool { return s.Spec.ClusterIP == "" }},
		{"a port out of range", func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 80 }, "30000-32767", nil},
		{"a port", func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30001 }, "", func(s *corev1.Service) bool {
			return s.Spec.Ports[0].NodePort == 30001 && s.Spec.Ports[1].NodePort >= 30000
		}},
		{"that port again", func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[1].NodePort = corev1.ServiceTypeNodePort, 30001 }, "provided port is already allocated", nil},
		{"one port for two protocols", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort = corev1.ServiceTypeNodePort, 30002, 30002
		}, "", func(s *corev1.Service) bool { return s.Spec.Ports[1].NodePort == 30002 }},
		{"a health check port", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
		}, "", func(s *corev1.Service) bool {
			return s.Spec.HealthCheckNodePort >= 30000 && s.Spec.HealthCheckNodePort != s.Spec.Ports[0].NodePort && s.Spec.HealthCheckNodePort != s.Spec.Ports[1].NodePort
		}},
		{"a health check port out of range", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal, 80
		}, "30000-32767", nil},
		{"a health check port that is a node port", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal, 30005
			s.Spec.Ports[1].NodePort = 30005
		}, "provided port is already allocated", nil},
		{"no address and a selector", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.Selector = "None", map[string]string{"a": "b"} }, "", func(s *corev1.Service) bool {
			return *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack && len(s.Spec.IPFamilies) == 1
		}},
		{"no address and no selector", func(s *corev1.Service) { s.Spec.ClusterIP = "None" }, "", func(s *corev1.Service) bool {
			return *s.Spec.IPFamilyPolicy == dual && slices.Equal(s.Spec.IPFamilies, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol})
		}},
		{"no address, no selector and one family", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.IPFamilyPolicy = "None", &single }, "", func(s *corev1.Service) bool {
			return *s.Spec.IPFamilyPolicy == single && len(s.Spec.IPFamilies) == 1
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := b.store.View().Revision()
			s := service(strings.ReplaceAll(c.name, " ", "-"), corev1.ServiceTypeClusterIP)
			c.change(s)
			err := b.run(t, a, s, nil)
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) || b.store.View().Revision() != before {
					t.Fatal(err)
				}
				return
			}
			if err != nil || !c.check(s) {
				t.Fatalf("%+v, %v", s.Spec, err)
			}
			// A write without changes keeps the allocation.
			same := s.DeepCopy()
			if err := b.run(t, a, same, s); err != nil || b.store.View().Revision() < before {
				t.Fatal(err)
			}
		})
	}
}

func TestNodesGetRangesOfTheirOwn(t *testing.T) {
	b := table{fsm.NewLocal(fsm.Options{})}
	a := &allocate.Nodes{Range: netip.MustParsePrefix("10.244.0.0/22"), Bits: 24}
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	var nodes []*corev1.Node
	for i := range 4 {
		n := node(fmt.Sprint("n", i))
		if err := b.run(t, a, n, nil); err != nil || n.Spec.PodCIDR != fmt.Sprintf("10.244.%d.0/24", i) || len(n.Spec.PodCIDRs) != 1 {
			t.Fatalf("%+v, %v", n.Spec, err)
		}
		nodes = append(nodes, n)
	}
	if err := b.run(t, a, node("more"), nil); err == nil || !strings.Contains(err.Error(), "4 nodes with a /24 each") {
		t.Fatal(err)
	}
	if err := b.run(t, a, nodes[2].DeepCopy(), nodes[2]); err != nil {
		t.Fatal(err)
	}
	if err := b.run(t, a, nil, nodes[1]); err != nil {
		t.Fatal(err)
	}
	again := node("again")
	if err := b.run(t, a, again, nil); err != nil || again.Spec.PodCIDR != "10.244.1.0/24" {
		t.Fatalf("%+v, %v", again.Spec, err)
	}
}
