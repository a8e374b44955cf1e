package network

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/netapi"
)

const (
	vxlanName     = "kontiki-vx"
	vxlanPort     = netapi.VXLANPort
	vxlanOverhead = 50 // outer IPv4, UDP and VXLAN headers, and the inner Ethernet header
	usualMTU      = 1500
)

// underlay is the device that carries packets between nodes.
type underlay struct {
	local bool // the node's address is on a device of this namespace
	mtu   int  // its MTU minus the overhead, for pods
}

// underlay looks up the device with the node's address. A node may be known by an address that is not its own (behind NAT): then
// the usual MTU is assumed.
func (n *Network) underlay(ip netip.Addr) (underlay, error) {
	u := underlay{mtu: usualMTU - vxlanOverhead}
	addrs, err := n.nl.AddrList(nil, unix.AF_INET)
	if err != nil {
		return u, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if !a.IP.Equal(net.IP(ip.AsSlice())) {
			continue
		}
		u.local = true
		l, err := n.nl.LinkByIndex(a.LinkIndex)
		if err != nil {
			return u, fmt.Errorf("find the device of %s: %w", ip, err)
		}
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			u.mtu = l.Attrs().MTU - vxlanOverhead
		}
	}
	return u, nil
}

// vtepMAC returns a node's VXLAN MAC: locally administered and derived from the node's address, so every node can compute all
// others'.
func vtepMAC(node netip.Addr) net.HardwareAddr {
	ip := node.As4()
	return net.HardwareAddr{0x0a, 0x58, ip[0], ip[1], ip[2], ip[3]}
}

// ensureVXLAN keeps the device if it is configured as required, and otherwise creates it again.
func (n *Network) ensureVXLAN(c netapi.NetworkConfig, under underlay) (netlink.Link, error) {
	want := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: vxlanName, MTU: under.mtu, HardwareAddr: vtepMAC(c.NodeIP), TxQLen: -1},
		VxlanId:   n.o.VNI, Port: vxlanPort, Learning: false,
	}
	if under.local {
		want.SrcAddr = c.NodeIP.AsSlice()
	}
	link, err := linkByName(n.nl, vxlanName)
	if err != nil {
		return nil, err
	}
	if link != nil && !sameVXLAN(link, want) {
		if err := n.deleteLink(vxlanName); err != nil {
			return nil, err
		}
		link = nil
	}
	if link == nil {
		if err := n.nl.LinkAdd(want); err != nil {
			return nil, fmt.Errorf("make device %s: %w", vxlanName, err)
		}
		if link, err = n.nl.LinkByName(vxlanName); err != nil {
			return nil, fmt.Errorf("find device %s: %w", vxlanName, err)
		}
	}
	if link.Attrs().MTU != under.mtu {
		if err := n.nl.LinkSetMTU(link, under.mtu); err != nil {
			return nil, fmt.Errorf("set MTU %d of %s: %w", under.mtu, vxlanName, err)
		}
	}
	own := &netlink.Addr{IPNet: hostNet(c.PodCIDR.Addr())}
	addrs, err := n.nl.AddrList(link, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", vxlanName, err)
	}
	for _, a := range addrs {
		if !a.IP.Equal(own.IP) {
			if err := n.nl.AddrDel(link, &a); err != nil {
				return nil, fmt.Errorf("remove address %s of %s: %w", a.IPNet, vxlanName, err)
			}
		}
	}
	if err := n.nl.AddrReplace(link, own); err != nil {
		return nil, fmt.Errorf("give %s its address: %w", vxlanName, err)
	}
	if err := n.nl.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set %s up: %w", vxlanName, err)
	}
	return link, nil
}

func sameVXLAN(link netlink.Link, want *netlink.Vxlan) bool {
	have, ok := link.(*netlink.Vxlan)
	return ok && have.VxlanId == want.VxlanId && have.Port == want.Port && !have.Learning && have.SrcAddr.Equal(want.SrcAddr) &&
		bytes.Equal(have.HardwareAddr, want.HardwareAddr)
}

// ensureRangeRoute makes pod addresses that no pod has unreachable, and removes the route of an earlier range.
func (n *Network) ensureRangeRoute(c netapi.NetworkConfig) error {
	if err := n.removeRangeRoutes(c.PodCIDR); err != nil {
		return err
	}
	if err := n.nl.RouteReplace(&netlink.Route{Dst: ipNet(c.PodCIDR), Type: unix.RTN_UNREACHABLE, Protocol: routeProtocol}); err != nil {
		return fmt.Errorf("make %s unreachable except for pods: %w", c.PodCIDR, err)
	}
	return nil
}

// routeProtocol marks those of our routes that are not removed together with a device.
const routeProtocol = 0x4b

// removeRangeRoutes removes the routes that ensureRangeRoute created, except for one range (an invalid one keeps none).
func (n *Network) removeRangeRoutes(keep netip.Prefix) error {
	filter := &netlink.Route{Type: unix.RTN_UNREACHABLE, Protocol: routeProtocol}
	routes, err := n.nl.RouteListFiltered(unix.AF_INET, filter, netlink.RT_FILTER_TYPE|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if keep.IsValid() && r.Dst.String() == keep.String() {
			continue
		}
		if err := ignoreGone(n.nl.RouteDel(&r)); err != nil {
			return fmt.Errorf("remove route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

// peersOf returns the other nodes that packets can go to and come from.
func peersOf(c netapi.NetworkConfig) []netapi.Peer {
	peers := make([]netapi.Peer, 0, len(c.Peers))
	for _, p := range c.Peers {
		if p.IP.Is4() && p.PodCIDR.IsValid() && p.PodCIDR.Addr().Is4() && p.IP != c.NodeIP && !p.PodCIDR.Overlaps(c.PodCIDR) {
			peers = append(peers, p)
		}
	}
	return peers
}

// ensurePeers updates the device's forwarding entries, neighbours and routes to those of the peers; entries that are right are not
// touched, so traffic to other nodes is not interrupted.
func (n *Network) ensurePeers(link netlink.Link, c netapi.NetworkConfig) error {
	index := link.Attrs().Index
	fdb := map[string]*netlink.Neigh{}
	neighbours := map[string]*netlink.Neigh{}
	routes := map[string]*netlink.Route{}
	for _, p := range peersOf(c) {
		mac, vtep := vtepMAC(p.IP), p.PodCIDR.Masked().Addr()
		f := &netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, HardwareAddr: mac, IP: p.IP.AsSlice()}
		fdb[neighKey(f)] = f
		nb := &netlink.Neigh{LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, HardwareAddr: mac, IP: vtep.AsSlice()}
		neighbours[neighKey(nb)] = nb
		r := &netlink.Route{LinkIndex: index, Dst: ipNet(p.PodCIDR.Masked()), Gw: vtep.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Src: c.PodCIDR.Addr().AsSlice()}
		routes[routeKey(r)] = r
	}
	if c.ServiceCIDR.IsValid() && c.ServiceCIDR.Addr().Is4() {
		r := &netlink.Route{LinkIndex: index, Dst: ipNet(c.ServiceCIDR.Masked()), Scope: unix.RT_SCOPE_LINK}
		if _, local, _ := n.settings(); local {
			r.Src = c.NodeIP.AsSlice()
		}
		routes[routeKey(r)] = r
	}
	for _, table := range []struct {
		family int
		want   map[string]*netlink.Neigh
	}{{unix.AF_BRIDGE, fdb}, {unix.AF_INET, neighbours}} {
		if err := n.reconcileNeighbours(index, table.family, table.want); err != nil {
			return err
		}
	}
	return n.reconcileRoutes(index, routes)
}

func (n *Network) reconcileNeighbours(index, family int, want map[string]*netlink.Neigh) error {
	have, err := n.nl.NeighList(index, family)
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, e := range have {
		if _, ok := want[neighKey(&e)]; ok && e.State&netlink.NUD_PERMANENT != 0 {
			delete(want, neighKey(&e))
			continue
		}
		if family == unix.AF_INET && e.State&netlink.NUD_PERMANENT == 0 {
			continue // the kernel's own entries, such as multicast
		}
		if e.Family = family; family == unix.AF_BRIDGE {
			e.Flags = netlink.NTF_SELF
		}
		if err := ignoreGone(n.nl.NeighDel(&e)); err != nil {
			return fmt.Errorf("remove neighbour %s: %w", e.IP, err)
		}
	}
	for _, e := range want {
		if err := n.nl.NeighSet(e); err != nil {
			return fmt.Errorf("add neighbour %s: %w", e.IP, err)
		}
	}
	return nil
}

func (n *Network) reconcileRoutes(index int, want map[string]*netlink.Route) error {
	have, err := n.nl.RouteListFiltered(unix.AF_INET, &netlink.Route{LinkIndex: index}, netlink.RT_FILTER_OIF)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var old []netlink.Route
	for _, r := range have {
		if _, ok := want[routeKey(&r)]; ok {
			delete(want, routeKey(&r))
			continue
		}
		old = append(old, r)
	}
	for _, r := range want { // the new ones first: a range that changes its gateway is replaced without an interruption
		if err := n.nl.RouteReplace(r); err != nil {
			return fmt.Errorf("add route to %s: %w", r.Dst, err)
		}
	}
	for _, r := range old {
		if err := ignoreGone(n.nl.RouteDel(&r)); err != nil {
			return fmt.Errorf("remove route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

func neighKey(e *netlink.Neigh) string { return e.HardwareAddr.String() + " " + e.IP.String() }

func routeKey(r *netlink.Route) string {
	return fmt.Sprintf("%s via %s src %s", r.Dst, r.Gw, r.Src)
}
