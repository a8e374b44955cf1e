package dns

import (
	"net/netip"
	"slices"
	"sort"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// zone has the DNS data of the cluster's services. It is safe for concurrent use. The cost of a change depends on what changed,
// plus one pass over the pointers of all services.
type zone struct {
	mu         sync.RWMutex
	known      bool
	entries    map[string]*entry                      // by service.namespace
	namespaces map[string]int                         // to the number of services
	reverse    map[netip.Addr]map[string]reverseEntry // by service.namespace
}

// reverseEntry is the name that one service gives to an address.
type reverseEntry struct {
	host string // "" for the service itself
}

// entry is one service in the zone; it never changes.
type entry struct {
	service *corev1.Service
	slices  []*discoveryv1.EndpointSlice

	cname string                  // of an ExternalName service
	addrs []netip.Addr            // of the service's name
	hosts map[string][]netip.Addr // of endpoints, by label
	ports []port
}

// port is one port of the service; target is the endpoint's label, or "" for the service itself.
type port struct {
	name, protocol string // name may be ""
	number         uint16
	target         string
}

func newZone() *zone {
	return &zone{entries: map[string]*entry{}, namespaces: map[string]int{}, reverse: map[netip.Addr]map[string]reverseEntry{}}
}

func (z *zone) set(services []*corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) {
	bySvc := map[string][]*discoveryv1.EndpointSlice{}
	for _, s := range endpointSlices {
		if name := s.Labels[discoveryv1.LabelServiceName]; name != "" && s.AddressType == discoveryv1.AddressTypeIPv4 {
			key := name + "." + s.Namespace
			bySvc[key] = append(bySvc[key], s)
		}
	}
	seen := make(map[string]bool, len(services))
	z.mu.RLock() // only one goroutine calls SetServices at a time, so no other one changes the maps
	var fresh []*entry
	for _, s := range services {
		key := s.Name + "." + s.Namespace
		seen[key] = true
		if old := z.entries[key]; old != nil && old.service == s && slices.Equal(old.slices, bySvc[key]) {
			continue
		}
		fresh = append(fresh, newEntry(s, bySvc[key]))
	}
	var gone []string
	for key := range z.entries {
		if !seen[key] {
			gone = append(gone, key)
		}
	}
	z.mu.RUnlock()

	z.mu.Lock()
	defer z.mu.Unlock()
	z.known = true
	for _, key := range gone {
		z.remove(key)
	}
	for _, e := range fresh {
		key := e.service.Name + "." + e.service.Namespace
		z.remove(key)
		z.entries[key] = e
		z.namespaces[e.service.Namespace]++
		e.eachReverse(func(a netip.Addr, host string) {
			if z.reverse[a] == nil {
				z.reverse[a] = map[string]reverseEntry{}
			}
			z.reverse[a][key] = reverseEntry{host}
		})
	}
}

func (z *zone) remove(key string) {
	e := z.entries[key]
	if e == nil {
		return
	}
	delete(z.entries, key)
	if z.namespaces[e.service.Namespace]--; z.namespaces[e.service.Namespace] == 0 {
		delete(z.namespaces, e.service.Namespace)
	}
	e.eachReverse(func(a netip.Addr, _ string) {
		if delete(z.reverse[a], key); len(z.reverse[a]) == 0 {
			delete(z.reverse, a)
		}
	})
}

// eachReverse calls f for the addresses for which this service has names.
func (e *entry) eachReverse(f func(a netip.Addr, host string)) {
	if !e.headless() {
		for _, a := range e.addrs {
			f(a, "")
		}
		return
	}
	for host, addrs := range e.hosts {
		for _, a := range addrs {
			f(a, host)
		}
	}
}

func (e *entry) headless() bool { return e.service.Spec.ClusterIP == corev1.ClusterIPNone }

func newEntry(s *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) *entry {
	e := &entry{service: s, slices: endpointSlices, hosts: map[string][]netip.Addr{}}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		e.cname = s.Spec.ExternalName
		return e
	}
	e.addEndpoints()
	if e.headless() {
		return e
	}
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{s.Spec.ClusterIP}
	}
	e.addrs = nil
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip); err == nil && a.Is4() {
			e.addrs = append(e.addrs, a)
		}
	}
	e.ports = nil
	for _, p := range s.Spec.Ports {
		e.ports = append(e.ports, port{name: p.Name, protocol: protocolLabel(&p.Protocol), number: uint16(p.Port)})
	}
	return e
}

// addEndpoints fills hosts and, for a headless service, addrs and ports.
func (e *entry) addEndpoints() {
	addrs := map[netip.Addr]bool{}
	ports := map[port]bool{}
	for _, s := range e.slices {
		for i := range s.Endpoints {
			ep := &s.Endpoints[i]
			ready := ep.Conditions.Ready == nil || *ep.Conditions.Ready || e.service.Spec.PublishNotReadyAddresses
			if !ready {
				continue
			}
			for _, text := range ep.Addresses {
				a, err := netip.ParseAddr(text)
				if err != nil || !a.Is4() {
					continue
				}
				label := strings.ReplaceAll(text, ".", "-")
				if ep.Hostname != nil && *ep.Hostname != "" {
					label = strings.ToLower(*ep.Hostname)
				}
				addrs[a] = true
				if !slices.Contains(e.hosts[label], a) {
					e.hosts[label] = append(e.hosts[label], a)
				}
				for _, p := range s.Ports {
					if p.Port == nil {
						continue
					}
					x := port{protocol: protocolLabel(p.Protocol), number: uint16(*p.Port), target: label}
					if p.Name != nil {
						x.name = *p.Name
					}
					ports[x] = true
				}
			}
		}
	}
	for a := range addrs {
		e.addrs = append(e.addrs, a)
	}
	sort.Slice(e.addrs, func(i, j int) bool { return e.addrs[i].Less(e.addrs[j]) })
	for p := range ports {
		e.ports = append(e.ports, p)
	}
	sort.Slice(e.ports, func(i, j int) bool {
		a, b := e.ports[i], e.ports[j]
		if a.name != b.name {
			return a.name < b.name
		}
		if a.target != b.target {
			return a.target < b.target
		}
		return a.number < b.number
	})
}

func protocolLabel(p *corev1.Protocol) string {
	if p == nil || *p == "" {
		return "tcp"
	}
	return strings.ToLower(string(*p))
}

// service returns a service, and whether its namespace has any.
func (z *zone) service(name, namespace string) (e *entry, namespaceKnown bool) {
	z.mu.RLock()
	defer z.mu.RUnlock()
	return z.entries[name+"."+namespace], z.namespaces[namespace] > 0
}

func (z *zone) ready() bool {
	z.mu.RLock()
	defer z.mu.RUnlock()
	return z.known
}

// names returns the names of an address, relative to "svc.<domain>", sorted.
func (z *zone) names(a netip.Addr) []string {
	z.mu.RLock()
	defer z.mu.RUnlock()
	var names []string
	for key, r := range z.reverse[a] {
		if r.host != "" {
			key = r.host + "." + key
		}
		names = append(names, key)
	}
	sort.Strings(names)
	return names
}
