package proxy

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forgetFlows deletes conntrack's UDP flows to the given addresses whose endpoint does not belong to the address any more, or which
// have no endpoint although there is one. The client's next packet then gets a new endpoint. Failures are only logged: idle flows
// expire by themselves.
func (p *Proxy) forgetFlows(changed []flows) {
	if len(changed) == 0 || p.space == nil {
		return
	}
	f := flowFilter{addrs: map[netip.AddrPort]map[netip.AddrPort]bool{}, nodePorts: map[uint16]map[netip.AddrPort]bool{}}
	for _, c := range changed {
		if c.addr.IsValid() {
			f.addrs[netip.AddrPortFrom(c.addr, c.port)] = c.targets
		} else {
			f.nodePorts[c.port] = c.targets
		}
	}
	err := p.space.Do(func() error {
		n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f)
		if n > 0 {
			p.log.Debug("forgot UDP flows to endpoints that are gone", "flows", n)
		}
		return err
	})
	if err != nil {
		p.log.Warn("forget UDP flows to endpoints that are gone", "err", err)
	}
}

type flowFilter struct {
	addrs     map[netip.AddrPort]map[netip.AddrPort]bool
	nodePorts map[uint16]map[netip.AddrPort]bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter: it returns true for flows to delete.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	asked := addrPort(flow.Forward.DstIP, flow.Forward.DstPort)
	answering := addrPort(flow.Reverse.SrcIP, flow.Reverse.SrcPort)
	targets, ours := f.addrs[asked]
	if !ours {
		// A node port may be used at any address of the node; flows that only pass through to another host's port are not
		// rewritten.
		if targets, ours = f.nodePorts[asked.Port()]; !ours || asked == answering {
			return false
		}
	}
	if asked == answering {
		return len(targets) > 0
	}
	return !targets[answering]
}

func addrPort(ip []byte, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

func sameFlows(a, b []flows) bool {
	return slices.EqualFunc(a, b, func(a, b flows) bool {
		return a.addr == b.addr && a.port == b.port && maps.Equal(a.targets, b.targets)
	})
}
