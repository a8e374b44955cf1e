package proxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/knftables"

	"github.com/kontiki/kontiki/node/netapi"
)

// recorder is the fake nft, which checks every transaction, and records what was sent.
type recorder struct {
	*knftables.Fake
	sent []string
	fail int // so many transactions fail
}

func (r *recorder) Run(ctx context.Context, tx *knftables.Transaction) error {
	if r.fail > 0 {
		r.fail--
		return errors.New("made to fail")
	}
	r.sent = append(r.sent, tx.String())
	return r.Fake.Run(ctx, tx)
}

// last returns what was sent since the last call.
func (r *recorder) last() string {
	s := strings.Join(r.sent, "")
	r.sent = nil
	return s
}

func fakeProxy(t testing.TB, o Options) (*Proxy, *recorder) {
	t.Helper()
	r := &recorder{Fake: knftables.NewFake(knftables.IPv4Family, tableName)}
	o.NodeName, o.NFT = "a", r
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	p.Configure(ctx, netapi.NetworkConfig{ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16")})
	return p, r
}

func TestOneChangeTouchesOneService(t *testing.T) {
	p, nft := fakeProxy(t, Options{})
	w := newWorld()
	for i := range 50 {
		w.service(fmt.Sprintf("s%d", i), fmt.Sprintf("10.96.1.%d", i), nil)
		w.endpoints(fmt.Sprintf("s%d", i), ep{fmt.Sprintf("10.244.1.%d", i), "a", ""}, ep{fmt.Sprintf("10.244.2.%d", i), "b", ""})
	}
	w.apply(t, p)
	if all := nft.last(); !strings.Contains(all, "default/s7/tcp/80") || !strings.Contains(all, "default/s49/udp/80") {
		t.Fatalf("full sync:\n%s", all)
	}

	w.endpoints("s7", ep{"10.244.1.7", "a", ""}, ep{"10.244.2.7", "b", notReady}, ep{"10.244.2.8", "b", ""})
	w.apply(t, p)
	got := nft.last()
	if n := strings.Count(got, "\n"); n != 8 { // two ports: a chain, its flush, two rules
		t.Errorf("one endpoint's change took %d operations:\n%s", n, got)
	}
	for _, line := range strings.Split(strings.TrimSpace(got), "\n") {
		if !strings.Contains(line, "default/s7/") {
			t.Errorf("not about the changed service: %s", line)
		}
	}
	if !strings.Contains(got, "tcp dnat ip to numgen random mod 2 map { 0 : 10.244.1.7 . 80 , 1 : 10.244.2.8 . 80 }") {
		t.Errorf("rules:\n%s", got)
	}

	w.apply(t, p)
	w.services["s3"].DeepCopy().DeepCopyInto(w.services["s3"])
	w.services["s4"] = w.services["s4"].DeepCopy() // another pointer, the same version
	w.services["s5"] = w.services["s5"].DeepCopy() // a change that no rule shows
	w.services["s5"].ResourceVersion = "another"
	w.services["s5"].Annotations = map[string]string{"note": "x"}
	w.apply(t, p)
	if got := nft.last(); got != "" {
		t.Errorf("nothing changed, but this was sent:\n%s", got)
	}

	w.remove("s9")
	w.apply(t, p)
	got = nft.last()
	if strings.Contains(got, "default/s8/") || strings.Count(got, "delete element") != 3 || strings.Count(got, "flush chain") != 2 {
		t.Errorf("a service's removal:\n%s", got)
	}
}

func TestFailureIsFollowedByFullSync(t *testing.T) {
	p, nft := fakeProxy(t, Options{})
	w := newWorld()
	w.service("s1", "10.96.0.1", nil)
	w.endpoints("s1", ep{"10.244.1.1", "a", ""})
	w.apply(t, p)
	w.service("s2", "10.96.0.2", nil)
	w.endpoints("s2", ep{"10.244.1.2", "a", ""})
	nft.last()
	nft.fail = 1
	p.SetServices(w.lists())
	if err := p.Sync(ctx); err == nil || !strings.Contains(err.Error(), "made to fail") {
		t.Fatalf("error %v", err)
	}
	if err := p.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	got := nft.last()
	if !strings.Contains(got, "flush table") || !strings.Contains(got, "default/s1/") || !strings.Contains(got, "default/s2/") {
		t.Errorf("not a full sync:\n%s", got)
	}
	w.apply(t, p)
	if got := nft.last(); got != "" {
		t.Errorf("sent twice:\n%s", got)
	}
}

func TestEqualStateAfterChangesAndAfterRestart(t *testing.T) {
	p, nft := fakeProxy(t, Options{})
	w := newWorld()
	check := func(step string) {
		t.Helper()
		w.apply(t, p)
		fresh, other := fakeProxy(t, Options{})
		w.apply(t, fresh)
		if got, want := settled(nft), settled(other); got != want {
			t.Errorf("%s: incremental state\n%s\nwant\n%s", step, got, want)
		}
	}
	np := func(s *corev1.ServiceSpec) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30001 }
	w.service("x", "10.96.0.1", np)
	check("no endpoints")
	w.endpoints("x", ep{"10.244.1.1", "a", ""}, ep{"10.244.2.1", "b", ""})
	check("endpoints")
	w.service("x", "10.96.0.1", func(s *corev1.ServiceSpec) {
		np(s)
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.ExternalIPs = []string{"1.2.3.4"}
	})
	check("local")
	w.service("y", "10.96.0.2", func(s *corev1.ServiceSpec) { s.ExternalIPs = []string{"1.2.3.4"} })
	w.endpoints("y", ep{"10.244.1.1", "a", ""})
	check("a second service claims the same external IP")
	w.remove("x")
	check("the first one goes")
	w.service("y", "10.96.0.2", func(s *corev1.ServiceSpec) { s.SessionAffinity = corev1.ServiceAffinityClientIP })
	check("affinity")
	w.service("y", "10.96.0.3", func(s *corev1.ServiceSpec) { s.Ports = s.Ports[:1] })
	check("another address, one port less")
	w.endpoints("y")
	check("no endpoints again")
	w.remove("y")
	check("nothing")

	// A restarted proxy adopts the rules of the previous one, also if services were deleted in between.
	w.service("z", "10.96.0.4", nil)
	w.endpoints("z", ep{"10.244.1.9", "a", ""})
	w.service("gone", "10.96.0.5", func(s *corev1.ServiceSpec) { s.SessionAffinity = corev1.ServiceAffinityClientIP })
	w.endpoints("gone", ep{"10.244.1.9", "a", ""})
	w.apply(t, p)
	w.remove("gone")
	next, err := New(Options{NodeName: "a", NFT: nft})
	if err != nil {
		t.Fatal(err)
	}
	next.Configure(ctx, netapi.NetworkConfig{ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16")})
	p = next
	check("restart")
}

// TestRandomHistories compares the incremental state with a newly built one after every step of random histories, in which some
// transactions fail and some steps are restarts.
func TestRandomHistories(t *testing.T) {
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		p, nft := fakeProxy(t, Options{})
		w := newWorld()
		for step := range 60 {
			name := fmt.Sprintf("s%d", rnd.IntN(4))
			switch rnd.IntN(6) {
			case 0:
				w.remove(name)
			case 1, 2:
				w.service(name, fmt.Sprintf("10.96.0.%d", 1+rnd.IntN(4)), func(s *corev1.ServiceSpec) { // clashes on purpose
					if rnd.IntN(2) == 0 {
						s.SessionAffinity = corev1.ServiceAffinityClientIP
					}
					if rnd.IntN(2) == 0 {
						s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, int32(30000+rnd.IntN(3))
						s.ExternalTrafficPolicy = []corev1.ServiceExternalTrafficPolicy{"Local", "Cluster"}[rnd.IntN(2)]
					}
					if rnd.IntN(3) == 0 {
						s.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
					}
					if rnd.IntN(3) == 0 {
						s.ExternalIPs = []string{"1.2.3.4"}
					}
					s.Ports = s.Ports[:1+rnd.IntN(2)]
				})
			case 5:
				next, err := New(Options{NodeName: "a", NFT: nft})
				if err != nil {
					t.Fatal(err)
				}
				next.ranges = p.ranges
				p = next
			default:
				var eps []ep
				for range rnd.IntN(4) {
					eps = append(eps, ep{fmt.Sprintf("10.244.1.%d", rnd.IntN(5)), []string{"a", "b"}[rnd.IntN(2)], []string{"", notReady, draining}[rnd.IntN(3)]})
				}
				w.endpoints(name, eps...)
			}
			if rnd.IntN(8) == 0 {
				nft.fail = 1
				p.SetServices(w.lists())
				p.Sync(ctx) // its failure shows in what follows
				nft.fail = 0
			}
			w.apply(t, p)
			fresh, other := fakeProxy(t, Options{})
			w.apply(t, fresh)
			if got, want := settled(nft), settled(other); got != want {
				t.Fatalf("seed %d, step %d: incremental state\n%s\nwant\n%s", seed, step, got, want)
			}
		}
	}
}

// settled returns the table without emptied chains that are still to be deleted.
func settled(r *recorder) string {
	var out []string
	dump := r.Dump()
	for _, line := range strings.Split(dump, "\n") {
		if f := strings.Fields(line); len(f) == 5 && f[1] == "chain" && isServiceChain(f[4]) && !strings.Contains(dump, "rule ip kontiki "+f[4]+" ") {
			continue
		}
		out = append(out, line)
	}
	slices.Sort(out) // elements and rules of different chains have no order among each other
	return strings.Join(out, "\n")
}

func TestEndpointChoice(t *testing.T) {
	port := corev1.ServicePort{Name: "t", Port: 80}
	for _, c := range []struct {
		name           string
		eps            []ep
		cluster, local string
	}{
		{"ready only", []ep{{"10.0.0.2", "b", ""}, {"10.0.0.1", "a", ""}, {"10.0.0.3", "a", notReady}, {"10.0.0.4", "a", draining}}, "10.0.0.1 10.0.0.2", "10.0.0.1"},
		{"none ready: those that drain", []ep{{"10.0.0.3", "a", notReady}, {"10.0.0.4", "b", draining}}, "10.0.0.4", ""},
		{"local ones drain", []ep{{"10.0.0.1", "b", ""}, {"10.0.0.4", "a", draining}}, "10.0.0.1", "10.0.0.4"},
		{"none", []ep{{"10.0.0.3", "a", notReady}}, "", ""},
		{"not IPv4", []ep{{"fd00::1", "a", ""}}, "", ""},
		{"twice", []ep{{"10.0.0.1", "a", ""}, {"10.0.0.1", "a", ""}}, "10.0.0.1", "10.0.0.1"},
	} {
		w := newWorld()
		w.endpoints("s", c.eps...)
		_, of := w.lists()
		got := choose(port, of, place{node: "a"})
		if list(got.cluster) != c.cluster || list(got.local) != c.local {
			t.Errorf("%s: cluster %q, local %q; want %q and %q", c.name, list(got.cluster), list(got.local), c.cluster, c.local)
		}
	}
}

func list(es []endpoint) string {
	var out []string
	for _, e := range es {
		out = append(out, e.addr.String())
	}
	return strings.Join(out, " ")
}

func TestServicesWithoutRules(t *testing.T) {
	p, nft := fakeProxy(t, Options{LocalAddresses: []netip.Addr{netip.MustParseAddr("10.96.0.10")}})
	w := newWorld()
	w.service("headless", corev1.ClusterIPNone, nil)
	w.service("name", "", func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "example.com" })
	w.service("pending", "", nil)
	w.service("other-proxy", "10.96.0.9", nil).Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "x"}
	w.service("dns", "10.96.0.10", nil)
	for name := range w.services {
		w.endpoints(name, ep{"10.244.1.1", "a", ""})
	}
	w.apply(t, p)
	if dump := nft.Dump(); strings.Contains(dump, "add element ip kontiki services") || strings.Contains(dump, "10.96.0.9") || strings.Contains(dump, "10.96.0.10") {
		t.Errorf("rules for services that have none:\n%s", dump)
	}
}

// TestExternalAddressesLeaveTheClustersPorts: whoever may create a service must not redirect what workers and masters send to masters.
func TestExternalAddressesLeaveTheClustersPorts(t *testing.T) {
	p, nft := fakeProxy(t, Options{Reserved: netapi.PortsOf(6444)})
	w := newWorld()
	ports := func(s *corev1.ServiceSpec, protocol corev1.Protocol, numbers ...int32) {
		s.ExternalIPs, s.Ports = []string{"192.168.7.1"}, nil
		for _, n := range numbers {
			s.Ports = append(s.Ports, corev1.ServicePort{Name: fmt.Sprint("p", n), Port: n, Protocol: protocol, TargetPort: intstr.FromInt32(80)})
		}
	}
	w.service("thief", "10.96.0.9", func(s *corev1.ServiceSpec) { ports(s, corev1.ProtocolTCP, 6444, 8080) })
	w.service("vxlan", "10.96.0.8", func(s *corev1.ServiceSpec) { ports(s, corev1.ProtocolUDP, 8472) })
	w.apply(t, p)
	dump := nft.Dump()
	for _, taken := range []string{"192.168.7.1 . tcp . 6444", "192.168.7.1 . udp . 8472"} {
		if strings.Contains(dump, taken) {
			t.Errorf("%s is redirected:\n%s", taken, dump)
		}
	}
	for _, served := range []string{"192.168.7.1 . tcp . 8080", "10.96.0.9 . tcp . 6444"} {
		if !strings.Contains(dump, served) {
			t.Errorf("%s is not served:\n%s", served, dump)
		}
	}
}
