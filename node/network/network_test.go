package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/network/nettest"
)

func TestPodsReachEachOther(t *testing.T) {
	a, b := twoNodes(t)
	p1, p2, p3 := a.pod("p1"), a.pod("p2"), b.pod("p3")
	expect(t, p1.Machine, p2.IP+":80", "p2", p1.IP)
	expect(t, p1.Machine, p1.IP+":80", "p1", p1.IP)
	expect(t, p1.Machine, p3.IP+":80", "p3", p1.IP)
	expect(t, p3.Machine, p1.IP+":80", "p1", p3.IP)
	expect(t, p1.Machine, "127.0.0.1:80", "p1", "127.0.0.1")

	a.Serve("host-a", "0.0.0.0:8080")
	expect(t, a.Machine, p1.IP+":80", "p1", "192.168.7.1")
	expect(t, a.Machine, p3.IP+":80", "p3", "10.244.1.0") // through the tunnel, with the tunnel's address
	expect(t, p1.Machine, "192.168.7.1:8080", "host-a", p1.IP)
	expect(t, p3.Machine, "10.244.1.0:8080", "host-a", p3.IP)

	b.Serve("host-b", "0.0.0.0:8080")
	expect(t, p1.Machine, "192.168.7.2:8080", "host-b", "192.168.7.1") // out of the cluster's ranges: masqueraded

	c, err := p1.Dial("tcp4", "10.244.1.200:80")
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("connect to an address that no pod has: %v, want %v", err, unix.EHOSTUNREACH)
	}
}

func TestLargePacketsCross(t *testing.T) {
	a, b := twoNodes(t)
	p1, p2 := a.pod("p1"), b.pod("p2")
	eth, err := p1.NL().LinkByName("eth0")
	if err != nil || eth.Attrs().MTU != 1450 {
		t.Errorf("MTU %d, %v; want 1450", eth.Attrs().MTU, err)
	}
	c, err := p1.Dial("udp4", p2.IP+":80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, 1450-28)); err != nil {
		t.Fatal(err)
	}
	if name, _, err := nettest.AskOn(c); err != nil || name != "p2" {
		t.Errorf("answer %q, %v", name, err)
	}
}

func TestAddPodIsIdempotentAcrossRestarts(t *testing.T) {
	a, b := twoNodes(t)
	p1, p2 := a.pod("p1"), b.pod("p2")
	c, err := p2.Dial("tcp4", p1.IP+":80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := nettest.AskOn(c); err != nil {
		t.Fatal(err)
	}
	before := a.Sh("ip", "-o", "link") + a.Sh("ip", "route") + a.Sh("bridge", "fdb")
	a.restart()
	if after := a.Sh("ip", "-o", "link") + a.Sh("ip", "route") + a.Sh("bridge", "fdb"); after != before {
		t.Errorf("a restart changed the kernel's state from\n%s\nto\n%s", before, after)
	}
	if name, _, err := nettest.AskOn(c); err != nil || name != "p1" {
		t.Errorf("connection over a restart: answer %q, %v", name, err)
	}
	for range 2 {
		ip, err := a.AddPod(ctx, p1.PodNetwork)
		if err != nil || ip.String() != p1.IP {
			t.Fatalf("added again: %s, %v; want %s", ip, err, p1.IP)
		}
	}
	if name, _, err := nettest.AskOn(c); err != nil || name != "p1" {
		t.Errorf("connection over adding again: answer %q, %v", name, err)
	}
	if p3 := a.pod("p3"); p3.IP == p1.IP {
		t.Errorf("address %s given out twice", p3.IP)
	}
}

func TestSandboxMadeAgainKeepsAddress(t *testing.T) {
	a, _ := twoNodes(t)
	p := a.pod("p")
	again := nettest.New(t)
	p.PodNetwork.NetNS = again.Path
	ip, err := a.AddPod(ctx, p.PodNetwork)
	if err != nil || ip.String() != p.IP {
		t.Fatalf("address %s, %v; want %s", ip, err, p.IP)
	}
	again.Serve("again", "0.0.0.0:80")
	expect(t, a.Machine, p.IP+":80", "again", "")
}

func TestDelPodFreesEverything(t *testing.T) {
	a, _ := twoNodes(t)
	before := a.Sh("ip", "-o", "-4", "addr") + a.Sh("ip", "route") + a.Sh("nft", "list", "ruleset")
	p := a.pod("p", netapi.HostPort{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"})
	for range 2 {
		if err := a.DelPod(ctx, p.UID); err != nil {
			t.Fatal(err)
		}
	}
	if after := a.Sh("ip", "-o", "-4", "addr") + a.Sh("ip", "route") + a.Sh("nft", "list", "ruleset"); after != before {
		t.Errorf("left behind: before\n%s\nafter\n%s", before, after)
	}
	if files, _ := os.ReadDir(a.dir); len(files) != 0 {
		t.Errorf("records left: %v", files)
	}
	if err := a.DelPod(ctx, "never-heard-of"); err != nil {
		t.Errorf("unknown pod: %v", err)
	}
}

func TestHalfMadePodIsFreed(t *testing.T) {
	a, _ := twoNodes(t)
	broken := netapi.PodNetwork{UID: "u", Namespace: "default", Name: "broken", NetNS: filepath.Join(t.TempDir(), "missing")}
	if _, err := a.AddPod(ctx, broken); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "default/broken") {
		t.Fatalf("no namespace: %v", err)
	}
	plain := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	broken.NetNS = plain
	if _, err := a.AddPod(ctx, broken); err == nil || !strings.Contains(err.Error(), "not a namespace") {
		t.Errorf("a plain file as namespace: %v", err)
	}
	if err := a.DelPod(ctx, "u"); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(a.dir); len(files) != 0 {
		t.Errorf("records left: %v", files)
	}
}

func TestSweep(t *testing.T) {
	a, _ := twoNodes(t)
	stay, gone := a.pod("stay"), a.pod("gone", netapi.HostPort{HostPort: 9090, ContainerPort: 80})
	// A device whose record is lost, as by a damaged disk.
	lost := a.pod("lost")
	if err := os.Remove(a.store.path(lost.UID)); err != nil {
		t.Fatal(err)
	}
	a.restart()
	fresh := a.pod("fresh") // added beside the sweep, by somebody who did not know of it
	if err := a.Sweep(ctx, []string{stay.UID}); err != nil {
		t.Fatal(err)
	}
	links := a.Sh("ip", "-o", "link")
	if strings.Contains(links, vethName(gone.UID)) || strings.Contains(links, vethName(lost.UID)) {
		t.Errorf("devices left:\n%s", links)
	}
	expect(t, a.Machine, stay.IP+":80", "stay", "")
	expect(t, fresh.Machine, stay.IP+":80", "stay", "")
	if rules := a.Sh("nft", "list", "ruleset"); strings.Contains(rules, vethName(gone.UID)) || strings.Contains(rules, vethName(lost.UID)) || strings.Contains(rules, "9090") {
		t.Errorf("rules left:\n%s", rules)
	}
	if _, _, err := a.Ask("tcp4", "192.168.7.1:9090"); err == nil {
		t.Error("the host port of a swept pod still answers")
	}
}

func TestHostPorts(t *testing.T) {
	a, b := twoNodes(t)
	p := a.pod("p",
		netapi.HostPort{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"}, netapi.HostPort{HostPort: 8080, ContainerPort: 80, Protocol: "UDP"})
	q := a.pod("q",
		netapi.HostPort{HostIP: "127.0.0.1", HostPort: 8081, ContainerPort: 80, Protocol: "TCP"},
		netapi.HostPort{HostIP: "127.0.0.1", HostPort: 8081, ContainerPort: 80, Protocol: "UDP"})
	for _, from := range []*nettest.Machine{b.Machine, a.Machine, p.Machine, q.Machine} {
		expect(t, from, "192.168.7.1:8080", "p", "")
	}
	expect(t, b.Machine, "192.168.7.1:8080", "p", "192.168.7.2") // the client's address stays
	expect(t, a.Machine, "127.0.0.1:8080", "p", "")
	expect(t, a.Machine, "127.0.0.1:8081", "q", "")
	if _, _, err := b.Ask("tcp4", "192.168.7.1:8081"); err == nil {
		t.Error("a port that is published on the loopback answers elsewhere")
	}

	// Loopback routing must not open the host's loopback to the pod.
	a.Serve("secret", "127.0.0.1:7777")
	p.Sh("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
	p.Sh("ip", "route", "add", "127.0.0.1/32", "via", "169.254.1.1", "dev", "eth0")
	p.Sh("sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1")
	if name, _, err := p.Ask("udp4", "127.0.0.1:7777"); err == nil {
		t.Errorf("pod reached %s on the host's loopback", name)
	}

	// Another pod's host port does not cut connections.
	c, err := b.Dial("tcp4", "192.168.7.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 {
		if name, _, err := nettest.AskOn(c); err != nil || name != "p" {
			t.Errorf("open connection: answer %q, %v", name, err)
		}
		a.pod("other", netapi.HostPort{HostPort: 8082, ContainerPort: 80})
		if err := a.DelPod(ctx, "uid-other"); err != nil {
			t.Fatal(err)
		}
	}

	// A port moves to another pod.
	if err := a.DelPod(ctx, p.UID); err != nil {
		t.Fatal(err)
	}
	a.pod("r", netapi.HostPort{HostPort: 8080, ContainerPort: 80, Protocol: "UDP"}, netapi.HostPort{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"})
	expect(t, b.Machine, "192.168.7.1:8080", "r", "192.168.7.2")
}

func TestStrictReversePathFilter(t *testing.T) {
	a, b := twoNodes(t)
	for _, n := range []*node{a, b} {
		n.Sh("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1")
	}
	p1, p2 := a.pod("p1", netapi.HostPort{HostPort: 8080, ContainerPort: 80}, netapi.HostPort{HostPort: 8080, ContainerPort: 80, Protocol: "UDP"}), b.pod("p2")
	expect(t, p1.Machine, p2.IP+":80", "p2", p1.IP)
	expect(t, a.Machine, p2.IP+":80", "p2", "")
	expect(t, a.Machine, p1.IP+":80", "p1", "")
	expect(t, p2.Machine, "192.168.7.1:8080", "p1", "192.168.7.2")
}

func TestManyPodsAtOnceBesideConfigure(t *testing.T) {
	a, _ := twoNodes(t)
	const pods = 20
	var machines []*nettest.Machine
	for range pods {
		machines = append(machines, nettest.New(t))
	}
	stop := make(chan struct{})
	var configuring, adding sync.WaitGroup
	configuring.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := a.Configure(ctx, a.config); err != nil {
				t.Error(err)
				return
			}
		}
	})
	var mu sync.Mutex
	seen := map[netip.Addr]bool{}
	for i, m := range machines {
		adding.Go(func() {
			p := netapi.PodNetwork{UID: fmt.Sprint(i), NetNS: m.Path, HostPorts: []netapi.HostPort{{HostPort: int32(9000 + i), ContainerPort: 80, Protocol: "UDP"}}}
			for range 2 { // again, as a caller does that lost the answer
				ip, err := a.AddPod(ctx, p)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				seen[ip] = true
				mu.Unlock()
			}
		})
	}
	adding.Wait()
	close(stop)
	configuring.Wait()
	if len(seen) != pods {
		t.Errorf("%d addresses for %d pods", len(seen), pods)
	}
	for i := range pods {
		if err := a.DelPod(ctx, fmt.Sprint(i)); err != nil {
			t.Error(err)
		}
	}
	if left := a.Sh("ip", "-o", "link", "show", "type", "veth"); strings.Contains(left, " kt") {
		t.Errorf("devices left:\n%s", left)
	}
}

func TestRangeChanges(t *testing.T) {
	a, _ := twoNodes(t)
	old := a.pod("old")
	a.config.PodCIDR = netip.MustParsePrefix("10.244.9.0/24")
	a.restart()
	fresh := a.pod("fresh")
	if !a.config.PodCIDR.Contains(netip.MustParseAddr(fresh.IP)) {
		t.Errorf("new pod got %s", fresh.IP)
	}
	expect(t, fresh.Machine, old.IP+":80", "old", "") // pods that run keep their address
	if r := a.Sh("ip", "route"); strings.Contains(r, "unreachable 10.244.1.0/24") || !strings.Contains(r, "unreachable 10.244.9.0/24") {
		t.Errorf("routes:\n%s", r)
	}
}

func TestPeersComeAndGo(t *testing.T) {
	a, b := twoNodes(t)
	p1, p2 := a.pod("p1"), b.pod("p2")
	peers := a.config.Peers
	third := netapi.Peer{Name: "c", IP: netip.MustParseAddr("192.168.7.3"), PodCIDR: netip.MustParsePrefix("10.244.3.0/24")}
	a.config.Peers = append([]netapi.Peer{third}, peers...)
	if err := a.Configure(ctx, a.config); err != nil {
		t.Fatal(err)
	}
	if r := a.Sh("ip", "route"); !strings.Contains(r, "10.244.3.0/24 via 10.244.3.0 dev kontiki-vx src 10.244.1.0 onlink") {
		t.Errorf("no route to the third node:\n%s", r)
	}
	expect(t, p1.Machine, p2.IP+":80", "p2", p1.IP)

	// The second node returns with another address, the third is deleted.
	b.Sh("ip", "addr", "add", "192.168.7.22/24", "dev", "eth0")
	b.config.NodeIP = netip.MustParseAddr("192.168.7.22")
	a.config.Peers = []netapi.Peer{{Name: "b", IP: b.config.NodeIP, PodCIDR: b.config.PodCIDR}}
	for _, n := range []*node{a, b} {
		if err := n.Configure(ctx, n.config); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, p1.Machine, p2.IP+":80", "p2", p1.IP)
	state := a.Sh("ip", "route") + a.Sh("bridge", "fdb") + a.Sh("ip", "neigh", "show", "dev", vxlanName)
	for _, stale := range []string{"10.244.3.0", "192.168.7.3", "192.168.7.2 "} {
		if strings.Contains(strings.ReplaceAll(state, "\n", " \n"), stale) {
			t.Errorf("%s is left in\n%s", stale, state)
		}
	}
}

func TestTeardownLeavesNothing(t *testing.T) {
	h := nettest.Hosts(t, "192.168.7.1/24")[0]
	before := h.Sh("ip", "-o", "-4", "addr") + h.Sh("ip", "route") + h.Sh("nft", "list", "ruleset")
	n := &node{Machine: h, t: t, dir: t.TempDir(), config: netapi.NetworkConfig{
		NodeName: "a", NodeIP: netip.MustParseAddr("192.168.7.1"), PodCIDR: netip.MustParsePrefix("10.244.1.0/24"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
	}}
	n.restart()
	defer n.Network.Close()
	n.pod("p", netapi.HostPort{HostPort: 80, ContainerPort: 80})
	if err := n.Do(func() error { return Cleanup(ctx, n.dir) }); err != nil {
		t.Fatal(err)
	}
	if after := h.Sh("ip", "-o", "-4", "addr") + h.Sh("ip", "route") + h.Sh("nft", "list", "ruleset"); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if _, err := os.Stat(n.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state directory: %v", err)
	}
}

func TestNotConfigured(t *testing.T) {
	h := nettest.New(t)
	err := h.Do(func() error {
		n, err := New(Options{StateDir: t.TempDir()})
		if err != nil {
			return err
		}
		defer n.Close()
		if err := n.Configure(ctx, netapi.NetworkConfig{NodeName: "a"}); err != nil {
			return err
		}
		_, err = n.AddPod(ctx, netapi.PodNetwork{UID: "u", NetNS: h.Path})
		return err
	})
	if !errors.Is(err, ErrNotConfigured) {
		t.Errorf("error %v, want %v", err, ErrNotConfigured)
	}
	// Otherwise each start of an agent would warn of all pods that run.
	var awaited interface{ Awaited() bool }
	if !errors.As(err, &awaited) || !awaited.Awaited() {
		t.Errorf("error %v is not said to be one that ends by itself", err)
	}
}

func BenchmarkPodSetup(b *testing.B) {
	a, _ := twoNodes(b)
	m := nettest.New(b)
	for b.Loop() {
		p := netapi.PodNetwork{UID: "u", Namespace: "default", Name: "p", NetNS: m.Path}
		if _, err := a.AddPod(ctx, p); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := a.DelPod(ctx, "u"); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
