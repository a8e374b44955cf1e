package network

import (
	"context"
	"fmt"
	"net/netip"
	"sort"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"github.com/kontiki/kontiki/node/netapi"
)

const (
	tableName    = "kontiki-node"
	publishChain = "publish"
	anyHostMap   = "host-ports"          // protocol . port -> address . port
	oneHostMap   = "host-ports-by-addr"  // address . protocol . port -> address . port
	hairpinSet   = "published-addresses" // address . address of every published pod
	insideSet    = "inside"              // ranges to which pods send with their own address
)

// applyRules writes the table for the configuration and the host ports, in one transaction, unless it is already right.
func (n *Network) applyRules(ctx context.Context) error {
	n.ruling.Lock()
	defer n.ruling.Unlock()
	c, _, _ := n.settings()
	if !c.PodCIDR.IsValid() {
		return nil
	}
	tx := n.nft.NewTransaction()
	n.render(tx, c, n.store.published())
	text := tx.String()
	if text == n.ruled {
		return nil
	}
	if err := n.space.Do(func() error { return n.nft.Run(ctx, tx) }); err != nil {
		n.ruled = ""
		return fmt.Errorf("write nftables table %s: %w", tableName, err)
	}
	n.ruled = text
	return nil
}

// render writes the whole table. It is small (its size depends on the host ports of one node), so it is always replaced as a whole;
// existing connections are in conntrack and are not affected.
func (n *Network) render(tx *knftables.Transaction, c netapi.NetworkConfig, published []record) {
	tx.Add(&knftables.Table{Comment: knftables.PtrTo("pods of this node: masquerading and host ports")})
	tx.Delete(&knftables.Table{})
	tx.Add(&knftables.Table{Comment: knftables.PtrTo("pods of this node: masquerading and host ports")})

	tx.Add(&knftables.Set{Name: insideSet, Type: "ipv4_addr", Flags: []knftables.SetFlag{knftables.IntervalFlag}})
	for _, p := range insideRanges(c) {
		tx.Add(&knftables.Element{Set: insideSet, Key: []string{p.String()}})
	}
	tx.Add(&knftables.Set{Name: hairpinSet, Type: "ipv4_addr . ipv4_addr"})
	tx.Add(&knftables.Map{Name: anyHostMap, Type: "inet_proto . inet_service : ipv4_addr . inet_service"})
	tx.Add(&knftables.Map{Name: oneHostMap, Type: "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service"})
	n.renderPorts(tx, published)

	base := func(name string, kind knftables.BaseChainType, hook knftables.BaseChainHook, prio knftables.BaseChainPriority) {
		tx.Add(&knftables.Chain{Name: name, Type: &kind, Hook: &hook, Priority: &prio})
	}
	rule := func(chain string, parts ...any) {
		tx.Add(&knftables.Rule{Chain: chain, Rule: knftables.Concat(parts...)})
	}
	tx.Add(&knftables.Chain{Name: publishChain})
	rule(publishChain, "dnat ip to ip daddr . meta l4proto . th dport map", "@", oneHostMap)
	rule(publishChain, "dnat ip to meta l4proto . th dport map", "@", anyHostMap)

	// Just after the service addresses (node/proxy, at dstnat), which therefore take precedence over a host port.
	base("prerouting", knftables.NATType, knftables.PreroutingHook, knftables.DNATPriority+" + 1")
	rule("prerouting", "meta l4proto { tcp, udp, sctp } fib daddr type local jump", publishChain)
	base("output", knftables.NATType, knftables.OutputHook, "-99")
	rule("output", "meta l4proto { tcp, udp, sctp } fib daddr type local jump", publishChain)

	base("input", knftables.FilterType, knftables.InputHook, "filter - 10")
	// Devices of published pods accept packets with loopback addresses (route_localnet): only replies may use that.
	rule("input", `iifname "`+vethPrefix+`*" ip daddr 127.0.0.0/8 ct status & dnat == 0 drop`)

	base("postrouting", knftables.NATType, knftables.PostroutingHook, knftables.SNATPriority)
	rule("postrouting", "ct status dnat ip saddr . ip daddr @"+hairpinSet+" masquerade")
	rule("postrouting", `ct status dnat ip saddr 127.0.0.0/8 oifname "`+vethPrefix+`*" masquerade`)
	rule("postrouting", "ip saddr", c.PodCIDR.String(), "ip daddr != @"+insideSet, "ip daddr != 224.0.0.0/4 masquerade fully-random")
}

// renderPorts writes the maps. The scheduler avoids conflicts of host ports; if two pods have the same one anyway, the first by UID
// gets it, so that not every later change fails.
func (n *Network) renderPorts(tx *knftables.Transaction, published []record) {
	owner := map[string]string{}
	for _, r := range published {
		hairpin := false
		for _, p := range r.HostPorts {
			proto := strings.ToLower(p.Protocol)
			if proto == "" {
				proto = "tcp"
			}
			if n.o.Reserved[uint16(p.HostPort)] {
				n.log.Warn("host port is not published: the cluster's own traffic uses it", "pod", r.Namespace+"/"+r.Name, "port", p.HostPort, "protocol", proto)
				continue
			}
			e := &knftables.Element{
				Map: anyHostMap, Key: []string{proto, strconv.Itoa(int(p.HostPort))},
				Value: []string{r.Address.String(), strconv.Itoa(int(p.ContainerPort))},
			}
			if ip, err := netip.ParseAddr(p.HostIP); p.HostIP != "" && p.HostIP != "0.0.0.0" {
				if err != nil || !ip.Is4() {
					n.log.Warn("host port is not published: its address is not IPv4", "pod", r.Namespace+"/"+r.Name, "hostIP", p.HostIP)
					continue
				}
				e.Map, e.Key = oneHostMap, append([]string{ip.String()}, e.Key...)
			}
			key := e.Map + " " + strings.Join(e.Key, " ")
			if first, taken := owner[key]; taken {
				n.log.Warn("host port is used by another pod", "pod", r.Namespace+"/"+r.Name, "port", p.HostPort, "protocol", proto, "owner", first)
				continue
			}
			owner[key] = r.Namespace + "/" + r.Name
			tx.Add(e)
			hairpin = true
		}
		if hairpin {
			tx.Add(&knftables.Element{Set: hairpinSet, Key: []string{r.Address.String(), r.Address.String()}})
		}
	}
}

// insideRanges returns the cluster's ranges, without those contained in another.
func insideRanges(c netapi.NetworkConfig) []netip.Prefix {
	all := []netip.Prefix{c.ClusterCIDR, c.ServiceCIDR, c.PodCIDR}
	for _, p := range c.Peers {
		all = append(all, p.PodCIDR)
	}
	var valid []netip.Prefix
	for _, p := range all {
		if p.IsValid() && p.Addr().Is4() {
			valid = append(valid, p.Masked())
		}
	}
	sort.Slice(valid, func(i, j int) bool {
		if valid[i].Bits() != valid[j].Bits() {
			return valid[i].Bits() < valid[j].Bits()
		}
		return valid[i].Addr().Less(valid[j].Addr())
	})
	var out []netip.Prefix
next:
	for _, p := range valid {
		for _, o := range out {
			if o.Overlaps(p) {
				continue next
			}
		}
		out = append(out, p)
	}
	return out
}

// forgetFlows deletes conntrack's UDP flows to the pod's host ports: otherwise they would use the previous destination as long as
// the client keeps sending.
func (n *Network) forgetFlows(r record) {
	ports := map[uint16]bool{}
	for _, p := range r.HostPorts {
		if strings.EqualFold(p.Protocol, "UDP") {
			ports[uint16(p.HostPort)] = true
		}
	}
	if len(ports) == 0 {
		return
	}
	err := n.space.Do(func() error {
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, hostPortFlows(ports))
		return err
	})
	if err != nil {
		n.log.Warn("forget UDP flows", "pod", r.Namespace+"/"+r.Name, "err", err)
	}
}

type hostPortFlows map[uint16]bool

func (f hostPortFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.Protocol == unix.IPPROTO_UDP && f[flow.Forward.DstPort]
}
