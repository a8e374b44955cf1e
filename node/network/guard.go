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

// guard manages the nftables tables that check senders: a pod may send only from its own address, and VXLAN frames are accepted
// only from the other nodes and only with addresses of their own ranges. The tables are written as a whole once per process and
// when the node's own address changes; otherwise pods and nodes are added and removed as elements of sets. A pod's device without
// an element may send nothing.
type guard struct {
	nft knftables.Interface
	do  func(func() error) error // runs in the network's namespace

	mu      sync.Mutex
	self    netip.Addr // accepts VXLAN; invalid if it is unknown or not in this namespace
	known   bool       // self is from Configure
	want    map[string]*knftables.Element
	pending map[string]*knftables.Element // changed since the last write

	writing sync.Mutex      // one nft process at a time; later changes are written together
	whole   bool            // the kernel's tables are from this process; guarded by writing
	have    map[string]bool // elements in the kernel; guarded by writing
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

// admit allows a pod to send from its address. It returns when the kernel's rules allow it.
func (g *guard) admit(ctx context.Context, r record) error {
	g.mu.Lock()
	for _, e := range podElements(r) {
		g.put(e)
	}
	g.mu.Unlock()
	return g.write(ctx)
}

// forget undoes admit. Call it when the pod's device is gone, and before its address is given to another pod.
func (g *guard) forget(ctx context.Context, r record) error {
	g.mu.Lock()
	for _, e := range podElements(r) {
		g.drop(e)
	}
	g.mu.Unlock()
	return g.write(ctx)
}

// configure sets the other nodes, and the address at which this node receives VXLAN (invalid if it is not in this namespace).
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

// put and drop change an element. The caller holds mu.
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

// peerElements returns the elements for the other nodes. A node's frames come from its pods or from the node itself.
func peerElements(c netapi.NetworkConfig) []*knftables.Element {
	var out []*knftables.Element
	ranges := map[netip.Addr][]netip.Prefix{}
	allow := func(node netip.Addr, p netip.Prefix) {
		for _, other := range ranges[node] {
			if other.Overlaps(p) {
				return // the set does not allow overlapping intervals
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

// write updates the kernel's elements. Changes of several callers are written in one transaction.
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
		return nil // nothing in the kernel is from this process yet; configure will write everything
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
		// Another program may have flushed the rules, as firewall services do when they reload.
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

// replace writes the tables as a whole. The caller holds writing.
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
		tx.Add(&knftables.Table{Family: family, Name: guardTable}) // so that there is one to delete
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

// renderTables writes the tables without elements. The caller holds mu.
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
	// Before defragmentation, so that every fragment is checked. Pods have no IPv6 addresses.
	chain(knftables.InetFamily, knftables.PreroutingHook, "-450",
		fromPod+"iifname . ip saddr != @"+podSet+" drop",
		fromPod+"meta nfproto ipv6 drop")
	// The sender in an ARP packet gets an entry in the neighbour table, which all devices share.
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
	// Forwarded packets may get this node's source address on the way out, which the other nodes accept.
	chain(knftables.InetFamily, knftables.ForwardHook, "filter - 10",
		"ip saddr != @"+nodeSet+" ip daddr @"+nodeSet+" "+vxlan+"drop")
}

// The offsets of the inner Ethernet type and the inner IPv4 source in a VXLAN packet, in bits from the UDP header: after 8 bytes of
// UDP and 8 of VXLAN.
const (
	innerIPv4   = "@th,224,16 0x0800"
	innerSource = "@th,336,32"
)
