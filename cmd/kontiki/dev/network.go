package dev

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// makeNetwork creates the switch and the hosts' namespaces, or uses those that an earlier run left.
func (s *State) makeNetwork() error {
	if err := makeNamespace(s.switchNamespace()); err != nil {
		return err
	}
	if err := within(s.switchNamespace(), func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}
		if err := netlink.LinkAdd(bridge); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("bridge: %w", err)
		}
		if err := addAddress("switch", 1); err != nil {
			return err
		}
		return up("lo")
	}); err != nil {
		return err
	}
	for i, h := range s.Hosts {
		if err := s.makeHost(h, fmt.Sprintf("host%d", i)); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	return s.routeHollow()
}

// routeHollow routes the addresses of hollow workers to their hosts, which accept all of them.
func (s *State) routeHollow() error {
	for _, at := range s.Hosts {
		if err := within(s.namespace(at), func() error {
			for _, h := range s.of(hollow) {
				if err := routeTo(h, at.Name == h.Name); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return fmt.Errorf("routes of host %s: %w", at.Name, err)
		}
	}
	return nil
}

func routeTo(h Host, local bool) error {
	device := "eth0"
	if local {
		device = "lo"
	}
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	p := h.Hollow.Addresses
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}}
	if local {
		route.Type, route.Table, route.Scope = unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, netlink.SCOPE_HOST
	} else {
		route.Gw = h.Address.AsSlice()
	}
	return netlink.RouteReplace(route)
}

// makeHost creates a host's namespace and the veth pair to the switch.
func (s *State) makeHost(h Host, port string) error {
	if err := makeNamespace(s.namespace(h)); err != nil {
		return err
	}
	target, err := netns.GetFromName(s.namespace(h))
	if err != nil {
		return err
	}
	defer target.Close()
	if err := within(s.switchNamespace(), func() error {
		if _, err := netlink.LinkByName(port); err == nil {
			return nil // already connected
		}
		bridge, err := netlink.LinkByName("switch")
		if err != nil {
			return err
		}
		cable := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: bridge.Attrs().Index},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(int(target)),
		}
		if err := netlink.LinkAdd(cable); err != nil {
			return fmt.Errorf("cable: %w", err)
		}
		return up(port)
	}); err != nil {
		return err
	}
	return within(s.namespace(h), func() error {
		if err := up("lo"); err != nil {
			return err
		}
		b := h.Address.As4()
		return addAddress("eth0", int(b[3]))
	})
}

func makeNamespace(name string) error {
	if handle, err := netns.GetFromName(name); err == nil {
		return handle.Close()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // NewNamed enters the namespace; the thread ends with the goroutine
		handle, err := netns.NewNamed(name)
		if err == nil {
			err = handle.Close()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("make network namespace %s: %w", name, err)
	}
	return nil
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// addAddress adds the subnet's address with the given last byte to a device, and brings it up.
func addAddress(name string, last int) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	ip := address(last)
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(subnet.Bits(), 32)}}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("address %s on %s: %w", ip, name, err)
	}
	return netlink.LinkSetUp(link)
}

// removeNetwork removes the namespaces and everything in them.
func (s *State) removeNetwork() error {
	var errs []error
	for _, name := range append([]string{s.switchNamespace()}, s.namespaces()...) {
		if err := removeNamespace(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove network namespace %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// namedDir is the directory of named network namespaces, which iproute2 uses too.
const namedDir = "/run/netns"

func removeNamespace(name string) error {
	err := netns.DeleteNamed(name)
	if errors.Is(err, unix.EINVAL) { // a name without a namespace: its creator was killed in between
		return os.Remove(filepath.Join(namedDir, name))
	}
	return err
}

func (s *State) namespaces() (out []string) {
	for _, h := range s.Hosts {
		out = append(out, s.namespace(h))
	}
	return out
}
