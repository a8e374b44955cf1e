package network

import (
	"context"
	"net/netip"
	"os"
	"testing"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/network/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

var ctx = context.Background()

// node is a machine with a network in it.
type node struct {
	*nettest.Machine
	*Network
	t      testing.TB
	config netapi.NetworkConfig
	dir    string
}

func (n *node) restart() {
	n.t.Helper()
	if n.Network != nil {
		n.Network.Close()
	}
	err := n.Do(func() (err error) {
		n.Network, err = New(Options{StateDir: n.dir})
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.Configure(ctx, n.config); err != nil {
		n.t.Fatal(err)
	}
}

// twoNodes makes nodes a (192.168.7.1, pods 10.244.1.0/24) and b (192.168.7.2, pods 10.244.2.0/24).
func twoNodes(t testing.TB) (a, b *node) {
	t.Helper()
	hosts := nettest.Hosts(t, "192.168.7.1/24", "192.168.7.2/24")
	peers := []netapi.Peer{
		{Name: "a", IP: netip.MustParseAddr("192.168.7.1"), PodCIDR: netip.MustParsePrefix("10.244.1.0/24")},
		{Name: "b", IP: netip.MustParseAddr("192.168.7.2"), PodCIDR: netip.MustParsePrefix("10.244.2.0/24")},
	}
	var nodes []*node
	for i, h := range hosts {
		n := &node{Machine: h, t: t, dir: t.TempDir(), config: netapi.NetworkConfig{
			NodeName: peers[i].Name, NodeIP: peers[i].IP, PodCIDR: peers[i].PodCIDR, Peers: []netapi.Peer{peers[1-i]},
			ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
		}}
		n.restart()
		t.Cleanup(func() { n.Network.Close() })
		nodes = append(nodes, n)
	}
	return nodes[0], nodes[1]
}

type pod struct {
	*nettest.Machine
	netapi.PodNetwork
	IP string
}

// pod creates a pod on the node that responds with its name on port 80.
func (n *node) pod(name string, ports ...netapi.HostPort) *pod {
	n.t.Helper()
	p := &pod{Machine: nettest.New(n.t)}
	p.PodNetwork = netapi.PodNetwork{UID: "uid-" + name, Namespace: "default", Name: name, NetNS: p.Path, HostPorts: ports}
	ip, err := n.AddPod(ctx, p.PodNetwork)
	if err != nil {
		n.t.Fatal(err)
	}
	p.IP = ip.String()
	p.Serve(name, "0.0.0.0:80")
	return p
}

// expect connects to an address from a machine, by TCP and UDP, and checks who responded and which client address they saw.
func expect(t testing.TB, from *nettest.Machine, address, name, client string) {
	t.Helper()
	for _, proto := range []string{"tcp4", "udp4"} {
		gotName, gotClient, err := from.Ask(proto, address)
		if err != nil || gotName != name || client != "" && gotClient != client {
			t.Errorf("%s %s: answer %q to client %q, %v; want %q to %q", proto, address, gotName, gotClient, err, name, client)
		}
	}
}
