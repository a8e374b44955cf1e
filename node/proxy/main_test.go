package proxy

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/network"
	"github.com/kontiki/kontiki/node/network/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

var ctx = context.Background()

func ptr[T any](v T) *T { return &v }

// world is a cluster's services as a test changes them. Every change creates new objects with new versions.
type world struct {
	version  int
	services map[string]*corev1.Service
	slices   map[string]*discoveryv1.EndpointSlice
}

func newWorld() *world {
	return &world{services: map[string]*corev1.Service{}, slices: map[string]*discoveryv1.EndpointSlice{}}
}

// service puts a service with ports 80/TCP and 80/UDP; edit may change it.
func (w *world) service(name, ip string, edit func(*corev1.ServiceSpec)) *corev1.Service {
	w.version++
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), ResourceVersion: fmt.Sprint(w.version)},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, Ports: []corev1.ServicePort{
			{Name: "t", Protocol: corev1.ProtocolTCP, Port: 80}, {Name: "u", Protocol: corev1.ProtocolUDP, Port: 80},
		}},
	}
	if edit != nil {
		edit(&s.Spec)
	}
	w.services[name] = s
	return s
}

// endpoint describes one endpoint: an IP, where it is, and its conditions ("" for ready).
type ep struct{ ip, node, state string }

const (
	notReady = "not ready"
	draining = "draining" // terminating, still serving
)

func (w *world) endpoints(service string, eps ...ep) {
	w.version++
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: service + "-1", UID: types.UID(service + "-1"), ResourceVersion: fmt.Sprint(w.version),
			Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr("t"), Protocol: ptr(corev1.ProtocolTCP), Port: ptr(int32(80))},
			{Name: ptr("u"), Protocol: ptr(corev1.ProtocolUDP), Port: ptr(int32(80))},
		},
	}
	for _, e := range eps {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{e.ip}, NodeName: ptr(e.node),
			Conditions: discoveryv1.EndpointConditions{Ready: ptr(e.state == ""), Serving: ptr(e.state != notReady), Terminating: ptr(e.state == draining)},
		})
	}
	w.slices[service] = s
}

func (w *world) remove(service string) {
	delete(w.services, service)
	delete(w.slices, service)
}

func (w *world) lists() (services []*corev1.Service, slices []*discoveryv1.EndpointSlice) {
	for _, s := range w.services {
		services = append(services, s)
	}
	for _, s := range w.slices {
		slices = append(slices, s)
	}
	return services, slices
}

func (w *world) apply(t testing.TB, proxies ...*Proxy) {
	t.Helper()
	for _, p := range proxies {
		p.SetServices(w.lists())
		if err := p.Sync(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// node is a machine with network and proxy; out is a machine outside the cluster.
type node struct {
	*nettest.Machine
	*Proxy
	net    *network.Network
	config netapi.NetworkConfig
	t      testing.TB
}

func (n *node) restartProxy() {
	n.t.Helper()
	if n.Proxy != nil {
		n.Proxy.Close()
	}
	err := n.Do(func() (err error) {
		n.Proxy, err = New(Options{NodeName: n.config.NodeName})
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.Proxy.Configure(ctx, n.config)
}

func twoNodes(t testing.TB) (a, b *node, out *nettest.Machine) {
	t.Helper()
	hosts := nettest.Hosts(t, "192.168.7.1/24", "192.168.7.2/24", "192.168.7.100/24")
	peers := []netapi.Peer{
		{Name: "a", IP: netip.MustParseAddr("192.168.7.1"), PodCIDR: netip.MustParsePrefix("10.244.1.0/24")},
		{Name: "b", IP: netip.MustParseAddr("192.168.7.2"), PodCIDR: netip.MustParsePrefix("10.244.2.0/24")},
	}
	var nodes []*node
	for i, h := range hosts[:2] {
		n := &node{Machine: h, t: t, config: netapi.NetworkConfig{
			NodeName: peers[i].Name, NodeIP: peers[i].IP, PodCIDR: peers[i].PodCIDR, Peers: []netapi.Peer{peers[1-i]},
			ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
		}}
		n.restartProxy()
		err := h.Do(func() (err error) {
			n.net, err = network.New(network.Options{StateDir: t.TempDir(), Followers: []network.Follower{n.Proxy}})
			return err
		})
		if err == nil {
			err = n.net.Configure(ctx, n.config)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.net.Close(); n.Proxy.Close() })
		nodes = append(nodes, n)
	}
	return nodes[0], nodes[1], hosts[2]
}

type pod struct {
	*nettest.Machine
	IP string
}

// pod creates a pod on the node that responds with its name on port 80.
func (n *node) pod(name string) *pod {
	n.t.Helper()
	p := &pod{Machine: nettest.New(n.t)}
	ip, err := n.net.AddPod(ctx, netapi.PodNetwork{UID: name, Namespace: "default", Name: name, NetNS: p.Path})
	if err != nil {
		n.t.Fatal(err)
	}
	p.IP = ip.String()
	p.Serve(name, "0.0.0.0:80")
	return p
}

// ready returns the pod as a ready endpoint.
func (p *pod) ready(n *node) ep { return ep{ip: p.IP, node: n.config.NodeName} }

// expect connects by TCP and UDP and checks who responded; client may be "" for any.
func expect(t testing.TB, from *nettest.Machine, address, name, client string) {
	t.Helper()
	for _, proto := range []string{"tcp4", "udp4"} {
		gotName, gotClient, err := from.Ask(proto, address)
		if err != nil || gotName != name || client != "" && gotClient != client {
			t.Errorf("%s %s: answer %q to client %q, %v; want %q to %q", proto, address, gotName, gotClient, err, name, client)
		}
	}
}

// answers connects by TCP n times and counts who responded; errors are counted by their text.
func answers(from *nettest.Machine, address string, n int) map[string]int {
	got := map[string]int{}
	for range n {
		name, _, err := from.Ask("tcp4", address)
		if err != nil {
			name = err.Error()
		}
		got[name]++
	}
	return got
}
