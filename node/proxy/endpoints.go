package proxy

import (
	"net/netip"
	"sort"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// endpoint is one address and port behind a service port.
type endpoint struct {
	addr  netip.Addr
	port  int32
	local bool // on this node
	may   bool // it may be on this node: its node is unknown
}

func (e endpoint) target() netip.AddrPort { return netip.AddrPortFrom(e.addr, uint16(e.port)) }

// chosen are the endpoints that a service port sends to, sorted.
type chosen struct {
	cluster []endpoint // ready anywhere, or else serving while they terminate
	local   []endpoint // the same rule among this node's
}

// choose picks the endpoints of one service port.
func choose(port corev1.ServicePort, slices []*discoveryv1.EndpointSlice, node string) chosen {
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
				x := endpoint{addr: ip, port: number, local: e.NodeName != nil && *e.NodeName == node, may: e.NodeName == nil}
				into[x.target()] = x
			}
		}
	}
	c := chosen{cluster: sorted(ready, false), local: sorted(ready, true)}
	if len(c.cluster) == 0 {
		c.cluster = sorted(draining, false)
	}
	if len(c.local) == 0 {
		c.local = sorted(draining, true)
	}
	return c
}

// slicePort answers the number that a service port has in a slice: ports are matched by name, as target ports may differ
// between pods.
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
