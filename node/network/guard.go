package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"sync"

	"sigs.k8s.io/knftables"

	"github.com/kontiki/kontiki/node/netapi"
)

const (
	guardTable = "kontiki-guard"
	podSet     = "pods"         // device . address: what each pod's device may send from
	nodeSet    = "nodes"        // addresses of the other nodes
	innerSet   = "inner-source" // address of another node . inner source address that its frames may have
)

// guard keeps the nftables tables that check who sends: a pod only from its own address, and VXLAN frames only from the
// other nodes and only with addresses of their own ranges. The tables are written as a whole once in a life and when the
// node's own address changes; after that pods and nodes come and go as elements of sets. A device of a pod that is in no
// set may send nothing.
type guard struct {
	nft knftables.Interface
	do  func(func() error) error // runs in the network's namespace

	mu      sync.Mutex
	self    netip.Addr // accepts VXLAN; invalid while it is not known, or is not of this namespace
	known   bool       // self is what Configure said
	want    map[string]*knftables.Element
	pending map[string]*knftables.Element // changed since the last write

	writing sync.Mutex      // one nft at a time; what came in the meantime goes into the next write
	whole   bool            // the tables are ours, under writing
	have    map[string]bool // elements in the kernel, under writing
}

func newGuard(do func(func() error) error, pods []record) (*guard, error) {
	nft, err := knftables.New("", "")
	if err != nil {
		return nil, err
	}
	g := &guard{nft: nft, do: do, want: map[string]*knftables.Element{}, pending: map[string]*knftables.Element{}, have: map[string]bool{}}
	for _, r := range pods {
		for _, e := range podElements(r) {
			g.want[elementID(e)] = e
		}
	}
	return g, nil
}

func elementID(e *knftables.Element) string { return fmt.Sprint(e.Family, e.Set, e.Key) }

func podElements(r record) []*knftables.Element {
	key := []string{strconv.Quote(vethName(r.UID)), r.Address.String()}
	return []*knftables.Element{
		{Family: knftables.InetFamily, Table: guardTable, Set: podSet, Key: key},
		{Family: knftables.ARPFamily, Table: guardTable, Set: podSet, Key: key},
	}
}

// admit lets a pod send from its address. It returns when that is in the kernel.
func (g *guard) admit(ctx context.Context, r record) error {
	g.mu.Lock()
	for _, e := range podElements(r) {
		g.put(e)
	}
	g.mu.Unlock()
	return g.write(ctx)
}

// forget ends that. Call it when the pod's device is gone, and before its address may be another's.
func (g *guard) forget(ctx context.Context, r record) error {
	g.mu.Lock()
	for _, e := range podElements(r) {
		g.drop(e)
	}
	g.mu.Unlock()
	return g.write(ctx)
}

// configure takes the other nodes, and the address that this node receives VXLAN at (invalid when it is not its own).
func (g *guard) configure(ctx context.Context, c netapi.NetworkConfig, local bool) error {
	self := c.NodeIP
	if !local {
		self = netip.Addr{}
	}
	elements := map[string]*knftables.Element{}
	for _, e := range peerElements(c) {
		elements[elementID(e)] = e
	}
	g.writing.Lock()
	g.mu.Lock()
	if !g.known || g.self != self {
		g.self, g.known, g.whole = self, true, false
	}
	for id, e := range g.want {
		if e.Set != podSet && elements[id] == nil {
			g.drop(e)
		}
	}
	for _, e := range elements {
		g.put(e)
	}
	g.mu.Unlock()
	g.writing.Unlock()
	return g.write(ctx)
}

// put and drop are called with mu held.
func (g *guard) put(e *knftables.Element) {
	if id := elementID(e); g.want[id] == nil {
		g.want[id], g.pending[id] = e, e
	}
}

func (g *guard) drop(e *knftables.Element) {
	if id := elementID(e); g.want[id] != nil {
		delete(g.want, id)
		g.pending[id] = e
	}
}

// peerElements are the other nodes. A frame of theirs comes from their pods, or from the node itself.
func peerElements(c netapi.NetworkConfig) []*knftables.Element {
	var out []*knftables.Element
	ranges := map[netip.Addr][]netip.Prefix{}
	allow := func(node netip.Addr, p netip.Prefix) {
		for _, other := range ranges[node] {
			if other.Overlaps(p) {
				return // the set takes no overlapping intervals
			}
		}
		ranges[node] = append(ranges[node], p)
		first := binary.BigEndian.Uint32(p.Addr().AsSlice())
		last := first | uint32(1<<(32-p.Bits())-1)
		interval := fmt.Sprintf("0x%08x-0x%08x", first, last)
		if first == last {
			interval = fmt.Sprintf("0x%08x", first)
		}
		out = append(out, &knftables.Element{Family: knftables.InetFamily, Table: guardTable, Set: innerSet, Key: []string{node.String(), interval}})
	}
	for _, p := range peersOf(c) {
		if ranges[p.IP] == nil {
			out = append(out, &knftables.Element{Family: knftables.InetFamily, Table: guardTable, Set: nodeSet, Key: []string{p.IP.String()}})
		}
		allow(p.IP, p.PodCIDR.Masked())
		allow(p.IP, netip.PrefixFrom(p.IP, 32))
	}
	return out
}

// write brings the kernel to what is wanted. Several callers' changes go in one transaction.
func (g *guard) write(ctx context.Context) error {
	g.writing.Lock()
	defer g.writing.Unlock()
	g.mu.Lock()
	known, changed := g.known, g.pending
	wanted := make(map[string]bool, len(changed))
	for id := range changed {
		wanted[id] = g.want[id] != nil
	}
	if known {
		g.pending = map[string]*knftables.Element{}
	}
	g.mu.Unlock()
	switch {
	case !known:
		return nil // nothing in the kernel is ours yet; configure writes all
	case !g.whole:
		return g.replace(ctx)
	}
	tx := g.nft.NewTransaction()
	for id, e := range changed {
		if wanted[id] && !g.have[id] {
			tx.Add(e)
		} else if !wanted[id] && g.have[id] {
			tx.Delete(e)
		}
	}
	if tx.NumOperations() == 0 {
		return nil
	}
	if err := g.do(func() error { return g.nft.Run(ctx, tx) }); err != nil {
		// Somebody else may have flushed the rules, as firewall services do when they reload.
		return g.replace(ctx)
	}
	for id := range changed {
		if wanted[id] {
			g.have[id] = true
		} else {
			delete(g.have, id)
		}
	}
	return nil
}

// replace writes the tables as a whole. It is called with writing held.
func (g *guard) replace(ctx context.Context) error {
	tx := g.nft.NewTransaction()
	have := map[string]bool{}
	g.mu.Lock()
	g.renderTables(tx)
	for id, e := range g.want {
		tx.Add(e)
		have[id] = true
	}
	g.pending = map[string]*knftables.Element{}
	g.mu.Unlock()
	err := g.do(func() error { return g.nft.Run(ctx, tx) })
	if g.whole = err == nil; err != nil {
		return fmt.Errorf("write nftables table %s: %w", guardTable, err)
	}
	g.have = have
	return nil
}

// remove deletes the tables.
func (g *guard) remove(ctx context.Context) error {
	g.writing.Lock()
	defer g.writing.Unlock()
	tx := g.nft.NewTransaction()
	for _, family := range guardFamilies {
		tx.Add(&knftables.Table{Family: family, Name: guardTable}) // so that the deletion finds one
		tx.Delete(&knftables.Table{Family: family, Name: guardTable})
	}
	g.mu.Lock()
	g.known = false
	g.mu.Unlock()
	g.whole, g.have = false, map[string]bool{}
	if err := g.do(func() error { return g.nft.Run(ctx, tx) }); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", guardTable, err)
	}
	return nil
}

var guardFamilies = []knftables.Family{knftables.InetFamily, knftables.ARPFamily}

// renderTables writes the tables without elements. It is called with mu held.
func (g *guard) renderTables(tx *knftables.Transaction) {
	for _, family := range guardFamilies {
		table := &knftables.Table{Family: family, Name: guardTable, Comment: knftables.PtrTo("what pods and other nodes may send")}
		tx.Add(table)
		tx.Delete(&knftables.Table{Family: family, Name: guardTable})
		tx.Add(table)
		tx.Add(&knftables.Set{Family: family, Table: guardTable, Name: podSet, Type: "ifname . ipv4_addr"})
	}
	tx.Add(&knftables.Set{Family: knftables.InetFamily, Table: guardTable, Name: nodeSet, Type: "ipv4_addr"})
	tx.Add(&knftables.Set{Family: knftables.InetFamily, Table: guardTable, Name: innerSet, TypeOf: "ip saddr . " + innerSource,
		Flags: []knftables.SetFlag{knftables.IntervalFlag}})

	chain := func(family knftables.Family, hook knftables.BaseChainHook, priority knftables.BaseChainPriority, rules ...string) {
		tx.Add(&knftables.Chain{Family: family, Table: guardTable, Name: string(hook),
			Type: knftables.PtrTo(knftables.FilterType), Hook: &hook, Priority: &priority})
		for _, r := range rules {
			tx.Add(&knftables.Rule{Family: family, Table: guardTable, Chain: string(hook), Rule: r})
		}
	}
	const fromPod = `iifname "` + vethPrefix + `*" `
	// Before fragments are put together, so that every fragment is looked at. Pods have no IPv6 addresses.
	chain(knftables.InetFamily, knftables.PreroutingHook, "-450",
		fromPod+"iifname . ip saddr != @"+podSet+" drop",
		fromPod+"meta nfproto ipv6 drop")
	// A sender that an ARP packet names takes a place in the neighbour table, which all devices share.
	chain(knftables.ARPFamily, knftables.InputHook, "0",
		fromPod+"iifname . arp saddr ip != @"+podSet+" drop")

	vxlan := "udp dport " + strconv.Itoa(vxlanPort) + " "
	var input []string
	if g.self.IsValid() {
		input = append(input, vxlan+"ip daddr != "+g.self.String()+" drop")
	}
	chain(knftables.InetFamily, knftables.InputHook, "filter - 10", append(input,
		vxlan+innerIPv4+" ip saddr . "+innerSource+" @"+innerSet+" accept",
		vxlan+"drop")...)
	// What is forwarded may get this node's address on its way out, which the others trust.
	chain(knftables.InetFamily, knftables.ForwardHook, "filter - 10",
		"ip saddr != @"+nodeSet+" ip daddr @"+nodeSet+" "+vxlan+"drop")
}

// The places of the inner Ethernet type and the inner IPv4 source in a VXLAN packet, in bits from the UDP header: behind 8
// bytes of UDP and 8 of VXLAN.
const (
	innerIPv4   = "@th,224,16 0x0800"
	innerSource = "@th,336,32"
)
