package network

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/network/nettest"
)

// listenUDP receives datagrams in a machine.
func listenUDP(t *testing.T, m *nettest.Machine, address string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	if err := m.Do(func() (err error) {
		c, err = net.ListenPacket("udp", address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// receive reads one datagram and returns its first bytes.
func receive(t *testing.T, c net.PacketConn) string {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 64<<10)
	n, _, err := c.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(buf[:n]), "\n")
	return text
}

// sendUDP sends one datagram from a local address.
func sendUDP(t *testing.T, m *nettest.Machine, local, remote, text string, size int) {
	t.Helper()
	err := m.Do(func() error {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(local)}}
		c, err := d.Dial("udp", remote)
		if err != nil {
			return err
		}
		defer c.Close()
		b := make([]byte, max(size, len(text)+1))
		copy(b, text+"\n")
		_, err = c.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPodSendsOnlyFromItsAddress(t *testing.T) {
	a, b := twoNodes(t)
	p1, p2, p3 := a.pod("p1"), a.pod("p2"), b.pod("p3")
	p1.Sh("ip", "addr", "add", "10.244.1.77/32", "dev", "eth0")
	p1.Sh("ip", "addr", "add", "192.168.7.2/32", "dev", "eth0")
	p1.Sh("ip", "addr", "add", p2.IP+"/32", "dev", "lo")
	for _, to := range []struct {
		name    string
		machine *nettest.Machine
		ip      string
	}{{"a pod of another node", p3.Machine, p3.IP}, {"the node", a.Machine, "192.168.7.1"}} {
		c := listenUDP(t, to.machine, to.ip+":5000")
		for _, size := range []int{0, 4000} { // the second one in fragments
			for _, from := range []string{"10.244.1.77", "192.168.7.2", p2.IP, p1.IP} {
				sendUDP(t, p1.Machine, from, to.ip+":5000", from, size)
			}
			if got := receive(t, c); got != p1.IP {
				t.Errorf("%s got a datagram of %d bytes from %s, want only that from %s", to.name, size, got, p1.IP)
			}
		}
	}

	// IPv6, which pods do not have.
	link := vethName(p1.UID)
	p1.Sh("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=0")
	a.Sh("sysctl", "-qw", "net.ipv6.conf."+link+".disable_ipv6=0")
	p1.Sh("ip", "addr", "add", "fd00::2/64", "dev", "eth0", "nodad")
	a.Sh("ip", "addr", "add", "fd00::1/64", "dev", link, "nodad")
	p1.Sh("ip", "neigh", "add", "fd00::1", "dev", "eth0", "lladdr", hardware(t, a.Machine, link).String())
	c := listenUDP(t, a.Machine, "[::]:5001")
	sendUDP(t, p1.Machine, "fd00::2", "[fd00::1]:5001", "IPv6", 0)
	sendUDP(t, p1.Machine, p1.IP, "192.168.7.1:5001", "IPv4", 0)
	if got := receive(t, c); got != "IPv4" {
		t.Errorf("the node took %s of a pod", got)
	}

	// ARP: a sender that is not the pod must not fill the node's neighbour table.
	a.Serve("node", "192.168.7.1:5002")
	for _, sender := range []string{"10.9.9.9", p1.IP} {
		sendARP(t, p1, sender)
	}
	expect(t, p1.Machine, "192.168.7.1:5002", "node", "")
	if neighbours := a.Sh("ip", "neigh", "show", "dev", link); strings.Contains(neighbours, "10.9.9.9") || !strings.Contains(neighbours, p1.IP+" ") {
		t.Errorf("neighbours of the node on the pod's device:\n%s", neighbours)
	}

	// All of these again after a restart, and after somebody flushed the rules.
	for name, disturb := range map[string]func(){
		"restart": a.restart,
		"flush":   func() { a.Sh("nft", "flush", "ruleset"); a.restart() },
	} {
		disturb()
		c := listenUDP(t, a.Machine, "192.168.7.1:5003")
		sendUDP(t, p1.Machine, p2.IP, "192.168.7.1:5003", "forged", 0)
		sendUDP(t, p1.Machine, p1.IP, "192.168.7.1:5003", "honest", 0)
		if got := receive(t, c); got != "honest" {
			t.Errorf("after a %s: a %s datagram came", name, got)
		}
		c.Close()
	}
	a.Sh("nft", "flush", "ruleset")
	p4 := a.pod("p4") // the next change writes all again
	expect(t, p4.Machine, p2.IP+":80", "p2", p4.IP)
	if rules := a.Sh("nft", "list", "table", "inet", guardTable); !strings.Contains(rules, p1.IP) {
		t.Errorf("a pod is missing from the rules that were written again:\n%s", rules)
	}
}

func hardware(t *testing.T, m *nettest.Machine, link string) net.HardwareAddr {
	t.Helper()
	l, err := m.NL().LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().HardwareAddr
}

// sendARP sends an ARP request for the gateway, with the addresses of sender.
func sendARP(t *testing.T, p *pod, sender string) {
	t.Helper()
	eth, err := p.NL().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	mac := eth.Attrs().HardwareAddr
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	frame = append(frame, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	frame = append(append(frame, mac...), netip.MustParseAddr(sender).AsSlice()...)
	frame = append(append(frame, 0, 0, 0, 0, 0, 0), gateway.Addr().AsSlice()...)
	err = p.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: eth.Attrs().Index})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// vxlanPacket is a UDP datagram to port 5000 inside a frame to node's VXLAN device.
func vxlanPacket(node, from, to, text string, tagged bool) []byte {
	text += "\n"
	udp := binary.BigEndian.AppendUint16(nil, 4000)
	udp = binary.BigEndian.AppendUint16(udp, 5000)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(text)))
	udp = append(append(udp, 0, 0), text...)
	ip := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	ip = append(append(ip, netip.MustParseAddr(from).AsSlice()...), netip.MustParseAddr(to).AsSlice()...)
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(udp)))
	var sum uint32
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	b := []byte{8, 0, 0, 0, 0, 0, 1, 0} // VNI 1
	b = append(b, vtepMAC(netip.MustParseAddr(node))...)
	b = append(b, 2, 0, 0, 0, 0, 1)
	if tagged {
		b = append(b, 0x81, 0, 0, 0) // a priority tag, which the kernel takes off
	}
	b = append(b, 8, 0)
	return append(append(b, ip...), udp...)
}

func sendRaw(t *testing.T, m *nettest.Machine, remote string, b []byte) {
	t.Helper()
	c, err := m.Dial("udp4", remote)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func TestVXLANOnlyFromOtherNodes(t *testing.T) {
	hosts := nettest.Hosts(t, "192.168.7.1/24", "192.168.7.2/24", "192.168.7.3/24")
	peers := []netapi.Peer{
		{Name: "a", IP: netip.MustParseAddr("192.168.7.1"), PodCIDR: netip.MustParsePrefix("10.244.1.0/24")},
		{Name: "b", IP: netip.MustParseAddr("192.168.7.2"), PodCIDR: netip.MustParsePrefix("10.244.2.0/24")},
	}
	var nodes []*node
	for i, p := range peers {
		n := &node{Machine: hosts[i], t: t, dir: t.TempDir(), config: netapi.NetworkConfig{
			NodeName: p.Name, NodeIP: p.IP, PodCIDR: p.PodCIDR, Peers: []netapi.Peer{peers[1-i]},
			ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
		}}
		n.restart()
		t.Cleanup(func() { n.Network.Close() })
		nodes = append(nodes, n)
	}
	a, b, stranger := nodes[0], nodes[1], hosts[2]
	// Another pod's host port must not intercept the nodes' packets.
	b.pod("thief", netapi.HostPort{HostPort: vxlanPort, ContainerPort: 80, Protocol: "UDP"})
	p1, p2 := a.pod("p1"), b.pod("p2")
	expect(t, p1.Machine, p2.IP+":80", "p2", p1.IP)
	a.Sh("ip", "addr", "add", "192.168.7.11/24", "dev", "eth0")
	c := listenUDP(t, p1.Machine, "0.0.0.0:5000")
	packet := func(from, text string) []byte { return vxlanPacket("192.168.7.1", from, p1.IP, text, false) }

	sendRaw(t, stranger, "192.168.7.1:8472", packet(p2.IP, "of a host that is no node"))
	sendRaw(t, p2.Machine, "192.168.7.1:8472", packet(p2.IP, "of a pod of another node, which sends with its node's address"))
	sendRaw(t, p1.Machine, "192.168.7.1:8472", packet(p2.IP, "of a pod of the same node"))
	sendRaw(t, p2.Machine, "192.168.7.11:8472", packet(p2.IP, "of a pod to another address of the node"))
	sendRaw(t, b.Machine, "192.168.7.1:8472", packet("10.244.1.99", "from the receiver's own range"))
	sendRaw(t, b.Machine, "192.168.7.1:8472", packet("10.244.3.1", "from a third range"))
	sendRaw(t, b.Machine, "192.168.7.1:8472", vxlanPacket("192.168.7.1", "10.244.3.1", p1.IP, "from a third range behind a tag", true))
	sendRaw(t, b.Machine, "192.168.7.1:8472", packet("10.244.2.99", "true"))
	if got := receive(t, c); got != "true" {
		t.Errorf("the pod got a packet %s", got)
	}
	sendRaw(t, b.Machine, "192.168.7.1:8472", packet("192.168.7.2", "true"))
	if got := receive(t, c); got != "true" {
		t.Errorf("the pod got a packet %s", got)
	}

	// A node that has left is treated as any other host.
	a.config.Peers = nil
	if err := a.Configure(ctx, a.config); err != nil {
		t.Fatal(err)
	}
	sendRaw(t, b.Machine, "192.168.7.1:8472", packet("10.244.2.99", "of a node that has left"))
	sendUDP(t, a.Machine, "192.168.7.1", p1.IP+":5000", "true", 0)
	if got := receive(t, c); got != "true" {
		t.Errorf("the pod got a packet %s", got)
	}
}
