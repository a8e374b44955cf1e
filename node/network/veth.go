package network

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/network/ns"
)

const (
	vethPrefix = "kt"
	podDevice  = "eth0"
)

// gateway is the address to which every pod sends its packets: an address on each host-side device, with link scope.
var gateway = netip.MustParsePrefix("169.254.1.1/32")

// vethName returns the name of the host's end of a pod's veth pair: derived from the UID, within the 15 bytes of a device name.
func vethName(uid string) string {
	h := sha256.Sum256([]byte(uid))
	return vethPrefix + hex.EncodeToString(h[:])[:13]
}

func isPodLink(l netlink.Link) bool {
	name := l.Attrs().Name
	if l.Type() != "veth" || len(name) != 15 || !strings.HasPrefix(name, vethPrefix) {
		return false
	}
	return strings.Trim(name[len(vethPrefix):], "0123456789abcdef") == ""
}

// wire describes one pod's connection.
type wire struct {
	link      string // the host's end
	netns     string
	addr      netip.Addr
	source    netip.Addr // the host's source address; zero lets the kernel choose
	mtu       int
	localhost bool // the pod is published on the host's loopback
}

// connect establishes w, whatever part of it already exists.
func (n *Network) connect(w wire) error {
	pod, err := ns.Open(w.netns)
	if err != nil {
		return err
	}
	defer pod.Close()
	pl, err := pod.Handle()
	if err != nil {
		return err
	}
	host, inner, err := n.findPair(pl, w.link)
	if err != nil {
		return err
	}
	if host == nil {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: w.link, MTU: w.mtu, TxQLen: -1},
			PeerName:  podDevice, PeerMTU: uint32(w.mtu), PeerNamespace: netlink.NsFd(pod.FD()), PeerTxQLen: -1,
		}
		if err := n.nl.LinkAdd(veth); err != nil {
			return fmt.Errorf("make device %s: %w", w.link, err)
		}
		if host, inner, err = n.findPair(pl, w.link); err != nil {
			return err
		}
		if host == nil {
			return fmt.Errorf("device %s vanished", w.link)
		}
	}
	for _, side := range []struct {
		nl   *netlink.Handle
		link netlink.Link
	}{{n.nl, host}, {pl, inner}} {
		if side.link.Attrs().MTU != w.mtu {
			if err := side.nl.LinkSetMTU(side.link, w.mtu); err != nil {
				return fmt.Errorf("set MTU %d: %w", w.mtu, err)
			}
		}
	}
	if err := connectInside(pl, inner, w); err != nil {
		return fmt.Errorf("in the pod's namespace: %w", err)
	}
	if err := n.nl.AddrReplace(host, &netlink.Addr{IPNet: ipNet(gateway), Scope: unix.RT_SCOPE_LINK}); err != nil {
		return fmt.Errorf("give %s the gateway's address: %w", w.link, err)
	}
	if err := n.nl.LinkSetUp(host); err != nil {
		return fmt.Errorf("set %s up: %w", w.link, err)
	}
	route := &netlink.Route{LinkIndex: host.Attrs().Index, Dst: hostNet(w.addr), Scope: unix.RT_SCOPE_LINK}
	if w.source.IsValid() {
		route.Src = w.source.AsSlice()
	}
	if err := n.nl.RouteReplace(route); err != nil {
		return fmt.Errorf("route %s to %s: %w", w.addr, w.link, err)
	}
	n.awaitCarrier(pl, host, inner)
	if w.localhost {
		// Packets from the host's loopback may go to this pod; rules.go prevents the pod from sending to the loopback.
		return n.space.Do(func() error { return setSysctl("net/ipv4/conf/"+w.link+"/route_localnet", "1") })
	}
	return nil
}

// awaitCarrier waits briefly until both ends can send. The kernel starts the transmit queue of the end that was up first in a work
// item; a packet before that is lost, and an ARP request is repeated only a second later.
func (n *Network) awaitCarrier(pl *netlink.Handle, host, inner netlink.Link) {
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(500 * time.Microsecond) {
		h, err := n.nl.LinkByIndex(host.Attrs().Index)
		if err != nil || h.Attrs().OperState != netlink.OperUp {
			continue
		}
		if i, err := pl.LinkByIndex(inner.Attrs().Index); err == nil && i.Attrs().OperState == netlink.OperUp {
			return
		}
	}
	n.log.Warn("a pod's device has no carrier yet", "device", host.Attrs().Name)
}

func connectInside(pl *netlink.Handle, dev netlink.Link, w wire) error {
	lo, err := pl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := pl.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	addrs, err := pl.AddrList(dev, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if !a.IPNet.IP.Equal(net.IP(w.addr.AsSlice())) {
			if err := pl.AddrDel(dev, &a); err != nil {
				return fmt.Errorf("remove address %s: %w", a.IPNet, err)
			}
		}
	}
	if err := pl.AddrReplace(dev, &netlink.Addr{IPNet: hostNet(w.addr)}); err != nil {
		return fmt.Errorf("add address %s: %w", w.addr, err)
	}
	if err := pl.LinkSetUp(dev); err != nil {
		return fmt.Errorf("set %s up: %w", podDevice, err)
	}
	i := dev.Attrs().Index
	if err := pl.RouteReplace(&netlink.Route{LinkIndex: i, Dst: ipNet(gateway), Scope: unix.RT_SCOPE_LINK}); err != nil {
		return fmt.Errorf("route to the gateway: %w", err)
	}
	if err := pl.RouteReplace(&netlink.Route{LinkIndex: i, Dst: anywhere(), Gw: gateway.Addr().AsSlice()}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return nil
}

// findPair returns both ends if they are one pair. An end that belongs to another pair (of a replaced sandbox, or a failed attempt)
// is removed, and nil returned.
func (n *Network) findPair(pl *netlink.Handle, name string) (host, inner netlink.Link, err error) {
	if host, err = linkByName(n.nl, name); err != nil {
		return nil, nil, err
	}
	if inner, err = linkByName(pl, podDevice); err != nil {
		return nil, nil, err
	}
	if host != nil && inner != nil && host.Attrs().ParentIndex == inner.Attrs().Index && inner.Attrs().ParentIndex == host.Attrs().Index {
		return host, inner, nil
	}
	if inner != nil {
		if err := ignoreGone(pl.LinkDel(inner)); err != nil {
			return nil, nil, fmt.Errorf("remove a foreign %s from the pod: %w", podDevice, err)
		}
	}
	if host != nil {
		if err := n.deleteLink(name); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, nil
}

// deleteLink removes a device with its routes; it is not an error if the device does not exist.
func (n *Network) deleteLink(name string) error {
	l, err := linkByName(n.nl, name)
	if err != nil || l == nil {
		return err
	}
	if err := ignoreGone(n.nl.LinkDel(l)); err != nil {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	return nil
}

func linkByName(nl *netlink.Handle, name string) (netlink.Link, error) {
	l, err := nl.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find device %s: %w", name, err)
	}
	return l, nil
}

func ignoreGone(err error) error {
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

func hostNet(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, 32)) }

func anywhere() *net.IPNet { return ipNet(netip.MustParsePrefix("0.0.0.0/0")) }
