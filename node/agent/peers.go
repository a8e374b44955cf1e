package agent

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// manyPeers is how many nodes must have changed at once for all peers to be computed anew.
const manyPeers = 32

// peers are the other nodes to which the network routes, sorted by name. They are brought up to date when they are asked for, so that many
// changes cost one copy.
type peers struct {
	sorted  []Peer // never changed once it is given away
	changed map[string]struct{}
	all     bool // so many nodes have changed that all peers are computed anew
}

// note notes the change of a node.
func (p *peers) note(name string) {
	if p.all {
		return
	}
	if p.changed == nil {
		p.changed = map[string]struct{}{}
	}
	if p.changed[name] = struct{}{}; len(p.changed) > manyPeers {
		p.changed, p.all = nil, true
	}
}

// Peers returns the other nodes to which the network routes, sorted by name. The slice is read-only.
func (a *Agent) Peers() []Peer { return a.store.allPeers() }

// allPeers returns the peers, sorted by name. The slice is read-only.
func (s *store) allPeers() []Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.peers
	switch {
	case p.all:
		p.sorted = make([]Peer, 0, len(p.sorted)+manyPeers)
		for k, e := range s.objects {
			if k.resource != "nodes" {
				continue
			}
			if peer, ok := s.peer(e); ok {
				p.sorted = append(p.sorted, peer)
			}
		}
		slices.SortFunc(p.sorted, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
	case len(p.changed) > 0:
		s.updatePeers()
	}
	p.all, p.changed = false, nil
	return p.sorted
}

// updatePeers takes over the nodes that have changed. The caller holds mu.
func (s *store) updatePeers() {
	p, copied := &s.peers, false
	for name := range p.changed {
		at, found := slices.BinarySearchFunc(p.sorted, name, func(p Peer, name string) int { return strings.Compare(p.Name, name) })
		peer, ok := s.peer(s.objects[key{"nodes", "", name}])
		if !found && !ok || found && ok && p.sorted[at] == peer {
			continue
		}
		if !copied {
			p.sorted, copied = append(make([]Peer, 0, len(p.sorted)+len(p.changed)), p.sorted...), true
		}
		switch {
		case found && ok:
			p.sorted[at] = peer
		case found:
			p.sorted = slices.Delete(p.sorted, at, at+1)
		default:
			p.sorted = slices.Insert(p.sorted, at, peer)
		}
	}
}

// peer returns what the network needs to know of a node; ok is false if it cannot be routed to, or is this node.
func (s *store) peer(e *entry) (peer Peer, ok bool) {
	if e == nil || e.key.name == s.node {
		return peer, false
	}
	n, isNode := e.object.(*corev1.Node)
	if !isNode {
		return peer, false
	}
	peer = Peer{Name: e.key.name}
	peer.PodCIDR, _ = netip.ParsePrefix(n.Spec.PodCIDR)
	for _, addr := range n.Status.Addresses {
		if addr.Type == corev1.NodeInternalIP && !peer.IP.IsValid() {
			peer.IP, _ = netip.ParseAddr(addr.Address)
		}
	}
	return peer, peer.IP.IsValid() && peer.PodCIDR.IsValid()
}
