package proxy

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/network/nettest"
)

func TestClusterIP(t *testing.T) {
	a, b, _ := twoNodes(t)
	p1, p2 := a.pod("p1"), b.pod("p2")
	w := newWorld()
	w.service("both", "10.96.0.1", nil)
	w.endpoints("both", p1.ready(a), p2.ready(b))
	w.service("here", "10.96.0.2", nil)
	w.endpoints("here", p1.ready(a))
	w.service("there", "10.96.0.3", nil)
	w.endpoints("there", p2.ready(b))
	w.apply(t, a.Proxy, b.Proxy)

	expect(t, p1.Machine, "10.96.0.3:80", "p2", p1.IP) // pods keep their address
	expect(t, p2.Machine, "10.96.0.2:80", "p1", p2.IP)
	expect(t, p1.Machine, "10.96.0.2:80", "p1", "") // itself: hairpin
	expect(t, a.Machine, "10.96.0.2:80", "p1", "")  // hosts, which have no default route
	expect(t, a.Machine, "10.96.0.3:80", "p2", "10.244.1.0")
	for _, from := range []*nettest.Machine{p1.Machine, a.Machine} {
		if got := answers(from, "10.96.0.1:80", 60); got["p1"] == 0 || got["p2"] == 0 || got["p1"]+got["p2"] != 60 {
			t.Errorf("answers %v, want both pods", got)
		}
	}
}

func TestEndpointOnTheHostsNetwork(t *testing.T) {
	a, b, _ := twoNodes(t)
	p1, p2 := a.pod("p1"), b.pod("p2")
	for _, n := range []*node{a, b} { // as a careful distribution sets it
		n.Sh("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1")
	}
	a.Serve("host-a", "192.168.7.1:80")
	w := newWorld()
	w.service("api", "10.96.0.1", nil)
	w.endpoints("api", ep{"192.168.7.1", "a", ""})
	for i := range w.slices["api"].Endpoints { // as the API's own slice, which names no node
		w.slices["api"].Endpoints[i].NodeName = nil
	}
	w.apply(t, a.Proxy, b.Proxy)
	for _, from := range []*nettest.Machine{a.Machine, b.Machine, p1.Machine, p2.Machine} {
		expect(t, from, "10.96.0.1:80", "host-a", "")
	}
}

func TestRefused(t *testing.T) {
	a, _, out := twoNodes(t)
	p1 := a.pod("p1")
	w := newWorld()
	w.service("empty", "10.96.0.1", func(s *corev1.ServiceSpec) {
		s.Type = corev1.ServiceTypeNodePort
		s.Ports[0].NodePort, s.Ports[1].NodePort = 30080, 30080
	})
	w.endpoints("empty", ep{p1.IP, "a", notReady})
	w.apply(t, a.Proxy)
	for _, c := range []struct {
		name, address string
		from          *nettest.Machine
	}{
		{"pod, service without endpoints", "10.96.0.1:80", p1.Machine},
		{"host, service without endpoints", "10.96.0.1:80", a.Machine},
		{"pod, no such port", "10.96.0.1:81", p1.Machine},
		{"pod, no such service", "10.96.0.99:80", p1.Machine},
		{"host, no such service", "10.96.0.99:80", a.Machine},
		{"outside, node port", "192.168.7.1:30080", out},
		{"pod, node port", "192.168.7.1:30080", p1.Machine},
	} {
		for _, proto := range []string{"tcp4", "udp4"} {
			name, _, err := c.from.Ask(proto, c.address)
			if c.from == a.Machine && proto == "udp4" && errors.Is(err, unix.EPERM) {
				continue // how the kernel tells a local sender that its packet was rejected
			}
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s, %s: answer %q, error %v; want %v", c.name, proto, name, err, unix.ECONNREFUSED)
			}
		}
	}
	w.endpoints("empty", p1.ready(a))
	w.apply(t, a.Proxy)
	expect(t, a.Machine, "10.96.0.1:80", "p1", "")
	expect(t, out, "192.168.7.1:30080", "p1", "")
}

func TestFromOutside(t *testing.T) {
	a, b, out := twoNodes(t)
	p1, p2 := a.pod("p1"), b.pod("p2")
	w := newWorld()
	ports := func(s *corev1.ServiceSpec, node int32) {
		s.Type = corev1.ServiceTypeLoadBalancer
		s.Ports[0].NodePort, s.Ports[1].NodePort = node, node
	}
	w.service("there", "10.96.0.1", func(s *corev1.ServiceSpec) {
		ports(s, 30001)
		s.ExternalIPs = []string{"172.20.0.1"}
	})
	w.endpoints("there", p2.ready(b))
	w.service("local", "10.96.0.2", func(s *corev1.ServiceSpec) {
		ports(s, 30002)
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}).Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "172.20.0.2"}}
	w.endpoints("local", p2.ready(b))
	w.service("guarded", "10.96.0.3", func(s *corev1.ServiceSpec) {
		ports(s, 30003)
		s.LoadBalancerSourceRanges = []string{"192.168.7.0/25"}
	}).Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "172.20.0.3"}}
	w.endpoints("guarded", p1.ready(a))
	w.apply(t, a.Proxy, b.Proxy)
	out.Sh("ip", "route", "add", "172.20.0.0/24", "via", "192.168.7.1")

	// By node a to the pod on b: the response must come back by a.
	expect(t, out, "192.168.7.1:30001", "p2", "10.244.1.0")
	expect(t, out, "172.20.0.1:80", "p2", "")
	expect(t, p1.Machine, "192.168.7.2:30001", "p2", "")
	expect(t, p1.Machine, "192.168.7.1:30001", "p2", "")
	expect(t, a.Machine, "192.168.7.1:30001", "p2", "")

	// externalTrafficPolicy Local keeps the client's address, and uses only the node's own endpoints.
	expect(t, out, "192.168.7.2:30002", "p2", "192.168.7.100")
	if name, _, err := out.Ask("udp4", "192.168.7.1:30002"); err == nil {
		t.Errorf("node without endpoint: answer %q", name)
	}
	expect(t, p1.Machine, "172.20.0.2:80", "p2", "") // from inside, the cluster's endpoints
	expect(t, a.Machine, "192.168.7.1:30002", "p2", "")

	expect(t, out, "172.20.0.3:80", "p1", "")
	out.Sh("ip", "addr", "add", "192.168.7.200/24", "dev", "eth0")
	out.Sh("ip", "route", "replace", "172.20.0.3", "via", "192.168.7.1", "src", "192.168.7.200")
	if name, _, err := out.Ask("udp4", "172.20.0.3:80"); err == nil {
		t.Errorf("source outside loadBalancerSourceRanges: answer %q", name)
	}
}

func TestInternalTrafficPolicyLocal(t *testing.T) {
	a, b, _ := twoNodes(t)
	p1, p2 := a.pod("p1"), b.pod("p2")
	w := newWorld()
	w.service("local", "10.96.0.1", func(s *corev1.ServiceSpec) {
		s.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
	})
	w.endpoints("local", p1.ready(a), p2.ready(b))
	w.apply(t, a.Proxy, b.Proxy)
	for range 10 {
		expect(t, a.Machine, "10.96.0.1:80", "p1", "")
		expect(t, p1.Machine, "10.96.0.1:80", "p1", "")
		expect(t, p2.Machine, "10.96.0.1:80", "p2", "")
	}
}

func TestSessionAffinity(t *testing.T) {
	a, b, _ := twoNodes(t)
	p1, p2 := a.pod("p1"), b.pod("p2")
	w := newWorld()
	w.service("sticky", "10.96.0.1", func(s *corev1.ServiceSpec) {
		s.SessionAffinity = corev1.ServiceAffinityClientIP
		s.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(600))}}
	})
	w.endpoints("sticky", p1.ready(a), p2.ready(b))
	w.apply(t, a.Proxy)
	first := answers(p1.Machine, "10.96.0.1:80", 20)
	if len(first) != 1 || first["p1"]+first["p2"] != 20 {
		t.Fatalf("answers %v, want one pod", first)
	}
	a.restartProxy()
	w.apply(t, a.Proxy)
	for name := range first {
		if again := answers(p1.Machine, "10.96.0.1:80", 20); again[name] != 20 {
			t.Errorf("after a restart answers %v, want %s", again, name)
		}
	}
	for name := range first { // its endpoint goes, and comes back: the client has a new one
		rest := map[string]ep{"p1": p2.ready(b), "p2": p1.ready(a)}[name]
		w.endpoints("sticky", rest)
		w.apply(t, a.Proxy)
		if after := answers(p1.Machine, "10.96.0.1:80", 20); len(after) != 1 || after[name] != 0 {
			t.Errorf("after %s went: %v", name, after)
		}
		w.endpoints("sticky", p1.ready(a), p2.ready(b))
		w.apply(t, a.Proxy)
		if after := answers(p1.Machine, "10.96.0.1:80", 20); len(after) != 1 || after[name] != 0 {
			t.Errorf("after %s came back: %v", name, after)
		}
	}
}

func TestOpenConnectionSurvivesRestartAndUpdates(t *testing.T) {
	a, b, _ := twoNodes(t)
	p1, p2 := a.pod("p1"), b.pod("p2")
	w := newWorld()
	w.service("s", "10.96.0.1", nil)
	w.endpoints("s", p2.ready(b))
	w.apply(t, a.Proxy)
	c, err := p1.Dial("tcp4", "10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	alive := func(when string) {
		t.Helper()
		if name, _, err := nettest.AskOn(c); err != nil || name != "p2" {
			t.Errorf("%s: answer %q, %v", when, name, err)
		}
	}
	alive("at first")
	rules := func() string { return a.Sh("nft", "list", "table", "ip", "kontiki") }
	before := rules()
	a.restartProxy()
	if rules() != before {
		t.Error("a new proxy touched the rules before it knew the services")
	}
	expect(t, p1.Machine, "10.96.0.1:80", "p2", "")
	w.apply(t, a.Proxy)
	alive("after the proxy's restart")
	if now := rules(); now != before {
		t.Errorf("the rules changed over a restart from\n%s\nto\n%s", before, now)
	}
	w.endpoints("s", p1.ready(a)) // its endpoint is taken out of the service: connections end by themselves
	w.apply(t, a.Proxy)
	alive("after its endpoint left the service")
	expect(t, p1.Machine, "10.96.0.1:80", "p1", "")
}

func TestUDPFlowsFollowEndpoints(t *testing.T) {
	a, b, _ := twoNodes(t)
	p1, p2 := a.pod("p1"), b.pod("p2")
	w := newWorld()
	w.service("s", "10.96.0.1", nil)
	w.endpoints("s", p2.ready(b))
	w.apply(t, a.Proxy)
	c, err := p1.Dial("udp4", "10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i, step := range []struct {
		eps  []ep
		want string
	}{{nil, "p2"}, {[]ep{p1.ready(a)}, "p1"}, {[]ep{p2.ready(b)}, "p2"}} {
		if step.eps != nil {
			w.endpoints("s", step.eps...)
			w.apply(t, a.Proxy)
		}
		if name, _, err := nettest.AskOn(c); err != nil || name != step.want {
			t.Errorf("step %d: answer %q, %v; want %q", i, name, err, step.want)
		}
	}
}

// TestRollingUpdateUnderTraffic opens connections all the time, so that some of them coincide with the commit of every change.
func TestRollingUpdateUnderTraffic(t *testing.T) {
	a, b, _ := twoNodes(t)
	client := a.pod("client")
	w := newWorld()
	w.service("s", "10.96.0.1", nil)
	pods := []*pod{a.pod("p0"), b.pod("p1"), a.pod("p2"), b.pod("p3")}
	on := []*node{a, b, a, b}
	w.endpoints("s", pods[0].ready(a), pods[1].ready(b))
	w.apply(t, a.Proxy)

	runCtx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var asked, failed atomic.Int64
	var last atomic.Value
	for range 4 {
		wg.Go(func() {
			for runCtx.Err() == nil {
				asked.Add(1)
				if _, _, err := client.Ask("tcp4", "10.96.0.1:80"); err != nil {
					failed.Add(1)
					last.Store(err)
				}
			}
		})
	}
	for round := range 24 {
		var eps []ep
		for i := range pods {
			e := pods[i].ready(on[i])
			if (i+round)%4 >= 2 {
				e.state = draining
			}
			if round%12 == 5 {
				e.state = draining // none is ready: those that terminate go on serving
			}
			eps = append(eps, e)
		}
		w.endpoints("s", eps...)
		w.apply(t, a.Proxy)
	}
	stop()
	wg.Wait()
	if failed.Load() > 0 || asked.Load() < 24 {
		t.Errorf("%d of %d requests failed, the last with %v", failed.Load(), asked.Load(), last.Load())
	}
}

// TestPacketsThatMissAnEndpointGetAnotherChance makes packets leave the first chains without an endpoint, as happens during a
// commit.
func TestPacketsThatMissAnEndpointGetAnotherChance(t *testing.T) {
	a, b, _ := twoNodes(t)
	p1, p2 := a.pod("p1"), b.pod("p2")
	w := newWorld()
	w.service("s", "10.96.0.1", nil)
	w.endpoints("s", p2.ready(b))
	w.apply(t, a.Proxy)
	for _, chain := range []string{"prerouting", "output"} {
		a.Sh("nft", "insert", "rule", "ip", "kontiki", chain, "ip", "daddr", "10.96.0.1", "accept")
	}
	expect(t, p1.Machine, "10.96.0.1:80", "p2", "")
	expect(t, a.Machine, "10.96.0.1:80", "p2", "")
}

func TestRunAppliesCleansUpAndRepairs(t *testing.T) {
	a, _, _ := twoNodes(t)
	p1 := a.pod("p1")
	a.Proxy.o.CheckPeriod = 50 * time.Millisecond
	runCtx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- a.Proxy.Run(runCtx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	await := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("timed out: %s", what)
			}
		}
	}
	table := func() string { return a.Sh("nft", "list", "ruleset") }
	w := newWorld()
	w.service("s", "10.96.0.1", nil)
	w.endpoints("s", p1.ready(a))
	a.SetServices(w.lists())
	await("the service's rules", func() bool { return strings.Contains(table(), "default/s/tcp/80") })
	expect(t, p1.Machine, "10.96.0.1:80", "p1", "")

	a.Sh("nft", "flush", "ruleset")
	await("the rules after somebody flushed them", func() bool { return strings.Contains(table(), "default/s/tcp/80") })
	expect(t, a.Machine, "10.96.0.1:80", "p1", "")

	w.remove("s")
	a.SetServices(w.lists())
	await("the end of the service's chains", func() bool { return !strings.Contains(table(), "default/s/") })
}

func TestForeignTableShapeIsReplaced(t *testing.T) {
	a, _, _ := twoNodes(t)
	p1 := a.pod("p1")
	// An older version that used other hooks, types and priorities under the same names.
	a.Sh("nft", "add table ip kontiki; add chain ip kontiki prerouting { type filter hook prerouting priority 7; };"+
		" add map ip kontiki services { type ipv4_addr : verdict; }; add chain ip kontiki svc-OLD; add rule ip kontiki svc-OLD drop")
	w := newWorld()
	w.service("s", "10.96.0.1", nil)
	w.endpoints("s", p1.ready(a))
	w.apply(t, a.Proxy)
	expect(t, a.Machine, "10.96.0.1:80", "p1", "")
	if err := a.Do(func() error { return Cleanup(ctx) }); err != nil {
		t.Fatal(err)
	}
	if r := a.Sh("nft", "list", "tables"); strings.Contains(r, "table ip kontiki\n") {
		t.Errorf("left after Cleanup: %s", r)
	}
}
