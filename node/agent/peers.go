package agent

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// manyPeers is how many nodes must have changed at once for all peers to be computed anew.
const manyPeers = 32

// peers are the other nodes to which the network routes, sorted by name. A change of one node costs no more than moving those after it.
type peers struct {
	sorted []Peer
	shared bool // sorted has been given away: it must not be changed
}

// followPeers takes over changes of nodes. The caller holds mu, or the store is not shared yet.
func (s *store) followPeers(changed []key) {
	if len(changed) == 0 {
		return
	}
	p := &s.peers
	if len(changed) > manyPeers {
		p.sorted, p.shared = nil, false
		for k, e := range s.objects {
			if k.resource != "nodes" {
				continue
			}
			if peer, ok := s.peer(e); ok {
				p.sorted = append(p.sorted, peer)
			}
		}
		slices.SortFunc(p.sorted, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
		return
	}
	for _, k := range changed {
		at, found := slices.BinarySearchFunc(p.sorted, k.name, func(p Peer, name string) int { return strings.Compare(p.Name, name) })
		peer, ok := s.peer(s.objects[k])
		if !found && !ok || found && ok && p.sorted[at] == peer {
			continue
		}
		if p.shared {
			p.sorted, p.shared = slices.Clone(p.sorted), false
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

// allPeers returns the peers, sorted by name. The slice is read-only.
func (s *store) allPeers() []Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers.shared = true
	return s.peers.sorted
}
