package proxy

import (
	"net/netip"
	"slices"
	"sort"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// endpoint is one address and port behind a service port.
type endpoint struct {
	addr  netip.Addr
	port  int32
	local bool // on this node
	may   bool // its node is unknown, so it may be this one
	hints *discoveryv1.EndpointHints
}

// place is the proxy's location.
type place struct {
	node, zone string
	// holder is where connections go that wait for an endpoint; invalid if there is no such place.
	holder netip.AddrPort
}

func (e endpoint) forNode(p place) bool {
	return e.hints != nil && slices.ContainsFunc(e.hints.ForNodes, func(n discoveryv1.ForNode) bool { return n.Name == p.node })
}

func (e endpoint) forZone(p place) bool {
	return e.hints != nil && slices.ContainsFunc(e.hints.ForZones, func(z discoveryv1.ForZone) bool { return z.Name == p.zone })
}

func (e endpoint) target() netip.AddrPort { return netip.AddrPortFrom(e.addr, uint16(e.port)) }

// chosen are the endpoints to which a service port sends, sorted.
type chosen struct {
	cluster []endpoint // ready ones anywhere, or nearby ones by their hints, or else terminating ones that still serve
	local   []endpoint // the same rule for this node's endpoints, without hints
}

// choose selects the endpoints of one service port.
func choose(port corev1.ServicePort, slices []*discoveryv1.EndpointSlice, at place) chosen {
	ready, draining := map[netip.AddrPort]endpoint{}, map[netip.AddrPort]endpoint{}
	for _, s := range slices {
		number, ok := slicePort(s, port)
		if !ok {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			isReady := e.Conditions.Ready == nil || *e.Conditions.Ready
			serving := isReady
			if e.Conditions.Serving != nil {
				serving = *e.Conditions.Serving
			}
			terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
			into := ready
			if !isReady {
				if !serving || !terminating {
					continue
				}
				into = draining
			}
			for _, a := range e.Addresses {
				ip, err := netip.ParseAddr(a)
				if err != nil || !ip.Is4() {
					continue
				}
				x := endpoint{addr: ip, port: number, local: e.NodeName != nil && *e.NodeName == at.node, may: e.NodeName == nil, hints: e.Hints}
				into[x.target()] = x
			}
		}
	}
	c := chosen{cluster: near(sorted(ready, false), at), local: sorted(ready, true)}
	if len(c.cluster) == 0 {
		c.cluster = sorted(draining, false)
	}
	if len(c.local) == 0 {
		c.local = sorted(draining, true)
	}
	return c
}

// near selects by hints, as kube-proxy: if all endpoints have hints for nodes, and some for this node, these; else the same with
// zones; else all.
func near(ready []endpoint, at place) []endpoint {
	nodes := func(e endpoint) bool { return e.hints != nil && len(e.hints.ForNodes) > 0 }
	zones := func(e endpoint) bool { return e.hints != nil && len(e.hints.ForZones) > 0 }
	if picked := pick(ready, nodes, func(e endpoint) bool { return e.forNode(at) }); len(picked) > 0 {
		return picked
	}
	if picked := pick(ready, zones, func(e endpoint) bool { return e.forZone(at) }); len(picked) > 0 {
		return picked
	}
	return ready
}

// pick returns the endpoints for which mine returns true, or none if an endpoint in all has no hint.
func pick(all []endpoint, hinted, mine func(endpoint) bool) (picked []endpoint) {
	for _, e := range all {
		if !hinted(e) {
			return nil
		}
		if mine(e) {
			picked = append(picked, e)
		}
	}
	return picked
}

// slicePort returns the number of a service port in a slice: ports are matched by name, as target ports may differ between pods.
func slicePort(s *discoveryv1.EndpointSlice, port corev1.ServicePort) (int32, bool) {
	for _, p := range s.Ports {
		name, proto := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		if name == port.Name && proto == protocol(port) && p.Port != nil {
			return *p.Port, true
		}
	}
	return 0, false
}

func protocol(p corev1.ServicePort) corev1.Protocol {
	if p.Protocol == "" {
		return corev1.ProtocolTCP
	}
	return p.Protocol
}

func sorted(m map[netip.AddrPort]endpoint, localOnly bool) []endpoint {
	var es []endpoint
	for _, e := range m {
		if e.local || !localOnly {
			es = append(es, e)
		}
	}
	sort.Slice(es, func(i, j int) bool { return es[i].target().Compare(es[j].target()) < 0 })
	return es
}
