package proxy

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/kontiki/kontiki/internal/wake"
	"github.com/kontiki/kontiki/node/netapi"
)

// unit is everything in the table for one service. It is a pure function of the service, its slices and the node's location.
type unit struct {
	service *corev1.Service
	slices  []*discoveryv1.EndpointSlice

	chains   map[string][]string      // name to rules
	affinity map[string]time.Duration // from a set of clients to how long they are remembered
	elements map[elementID]string     // to the element's value, "" in sets
	flows    []flows                  // the service's UDP addresses
}

// elementID identifies an element of a set or map.
type elementID struct{ in, key string }

// flows is one UDP address of a service and the endpoints that flows to it may have.
type flows struct {
	addr    netip.Addr // invalid means a node port
	port    uint16
	targets map[netip.AddrPort]bool
}

// renderUnit returns an empty unit for services that need no rules: headless services, external names, and those of other proxies.
// served are addresses that the node serves itself, reserved ports that no service gets at an external address.
func renderUnit(s *corev1.Service, slices []*discoveryv1.EndpointSlice, at place, served map[string]bool, reserved netapi.Ports) *unit {
	u := &unit{service: s, slices: slices, chains: map[string][]string{}, affinity: map[string]time.Duration{}, elements: map[elementID]string{}}
	_, headless := s.Labels[corev1.IsHeadlessService]
	_, foreign := s.Labels["service.kubernetes.io/service-proxy-name"]
	if headless || foreign || s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return u
	}
	var holder netip.AddrPort
	if _, wakes, err := wake.Of(s); wakes && err == nil {
		holder = at.holder
	}
	for i := range s.Spec.Ports {
		r := portRenderer{unit: u, service: s, port: s.Spec.Ports[i], endpoints: choose(s.Spec.Ports[i], slices, at), served: served, reserved: reserved, holder: holder}
		r.render()
	}
	return u
}

// portRenderer renders one port of a service into its unit.
type portRenderer struct {
	*unit
	service   *corev1.Service
	port      corev1.ServicePort
	endpoints chosen
	served    map[string]bool
	reserved  netapi.Ports
	holder    netip.AddrPort // where connections wait that find no endpoint; invalid if they do not wait
}

func (r *portRenderer) render() {
	var internal, external, balanced string // verdicts
	spec := &r.service.Spec
	internalLocal := spec.InternalTrafficPolicy != nil && *spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	nodePort := r.port.NodePort
	var externals, balancers []string
	if !r.reserved[uint16(r.port.Port)] {
		externals = append(externals, spec.ExternalIPs...)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, in := range r.service.Status.LoadBalancer.Ingress {
			if in.IP != "" && (in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP) {
				balancers = append(balancers, in.IP)
			}
		}
	}
	outside := nodePort != 0 || len(externals)+len(balancers) > 0
	externalLocal := outside && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal

	any := len(r.endpoints.cluster)+len(r.endpoints.local) > 0
	if !any && r.holder.IsValid() && protocol(r.port) == corev1.ProtocolTCP {
		internal = "goto " + r.held()
		external, balanced = internal, internal
		if len(balancers) > 0 && len(spec.LoadBalancerSourceRanges) > 0 {
			balanced = "goto " + r.restricted(external)
		}
	}
	if any {
		if len(r.endpoints.cluster) > 0 && (!internalLocal || outside) {
			internal = "goto " + r.choice("svc", r.endpoints.cluster, true)
		}
		external = internal
		loc := ""
		if len(r.endpoints.local) > 0 && (internalLocal || externalLocal) {
			loc = "goto " + r.choice("loc", r.endpoints.local, false)
		}
		if externalLocal {
			external = "goto " + r.externalLocal(internal, loc)
		}
		if internalLocal {
			internal = loc
		}
		balanced = external
		if len(balancers) > 0 && len(spec.LoadBalancerSourceRanges) > 0 {
			balanced = "goto " + r.restricted(external)
		}
	}
	refuse := "goto " + rejectChain
	if any {
		refuse = "drop" // endpoints exist, but the traffic policy does not let this node use them
	}
	for _, ip := range clusterIPs(spec) {
		r.address(ip, internal, refuse)
	}
	for _, ip := range externals {
		r.address(ip, external, refuse)
	}
	for _, ip := range balancers {
		r.address(ip, balanced, refuse)
	}
	if nodePort != 0 {
		key := joinKey(r.proto(), strconv.Itoa(int(nodePort)))
		if external != "" {
			r.elements[elementID{nodePortsMap, key}] = external
		} else {
			r.elements[elementID{noEndpointNodePortsMap, key}] = refuse
		}
		r.flow(netip.Addr{}, uint16(nodePort))
	}
}

func clusterIPs(spec *corev1.ServiceSpec) []string {
	if len(spec.ClusterIPs) > 0 {
		return spec.ClusterIPs
	}
	return []string{spec.ClusterIP}
}

// address sends one address of the service to verdict, or refuses it if verdict is empty. Only IPv4 has rules.
func (r *portRenderer) address(ip, verdict, refuse string) {
	a, err := netip.ParseAddr(ip)
	if err != nil || !a.Is4() || r.served[a.String()] {
		return
	}
	key := joinKey(a.String(), r.proto(), strconv.Itoa(int(r.port.Port)))
	if verdict != "" {
		r.elements[elementID{servicesMap, key}] = verdict
	} else {
		r.elements[elementID{noEndpointsMap, key}] = refuse
	}
	r.flow(a, uint16(r.port.Port))
}

func (r *portRenderer) flow(a netip.Addr, port uint16) {
	if protocol(r.port) != corev1.ProtocolUDP {
		return
	}
	f := flows{addr: a, port: port, targets: map[netip.AddrPort]bool{}}
	for _, e := range append(append([]endpoint{}, r.endpoints.cluster...), r.endpoints.local...) {
		f.targets[e.target()] = true
	}
	r.flows = append(r.flows, f)
}

// choice renders a chain that sends to one of es, and returns its name.
func (r *portRenderer) choice(kind string, es []endpoint, masquerade bool) string {
	name := r.name(kind)
	var rules []string
	if masquerade {
		rules = append(rules, "ip saddr != @"+podRangeSet+" jump "+masqueradeChain)
	}
	for _, e := range es {
		if e.local || e.may {
			r.elements[elementID{hairpinSet, joinKey(e.addr.String(), e.addr.String())}] = ""
		}
	}
	var options []string
	if r.service.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		var chains []string
		for _, e := range es {
			chain, set := r.sticky(e)
			rules = append(rules, "ip saddr @"+set+" goto "+chain)
			chains = append(chains, chain)
		}
		for i, c := range chains {
			options = append(options, fmt.Sprintf("%d : goto %s", i, c))
		}
		rules = append(rules, fmt.Sprintf("numgen random mod %d vmap { %s }", len(options), strings.Join(options, " , ")))
	} else if len(es) == 1 {
		rules = append(rules, "meta l4proto "+r.proto()+" dnat to "+es[0].target().String())
	} else {
		for i, e := range es {
			options = append(options, fmt.Sprintf("%d : %s . %d", i, e.addr, e.port))
		}
		rules = append(rules, fmt.Sprintf("meta l4proto %s dnat ip to numgen random mod %d map { %s }", r.proto(), len(es), strings.Join(options, " , ")))
	}
	r.chains[name] = rules
	return name
}

// sticky renders an endpoint's chain and the set of clients that are remembered for it.
func (r *portRenderer) sticky(e endpoint) (chain, set string) {
	timeout := time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
	if c := r.service.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		timeout = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
	}
	where := fmt.Sprintf("%s/%d", e.addr, e.port)
	chain = r.name("ep", where)
	set = r.name("aff", where, timeout.String()) // a set's timeout cannot be changed, so another timeout needs another set
	r.affinity[set] = timeout
	r.chains[chain] = []string{
		"update @" + set + " { ip saddr }",
		"meta l4proto " + r.proto() + " dnat to " + e.target().String(),
	}
	return chain, set
}

// held renders the chain that sends to the listener at which connections wait for an endpoint.
func (r *portRenderer) held() string {
	name := r.name("hold")
	r.chains[name] = []string{"meta l4proto tcp dnat to " + r.holder.String()}
	return name
}

// externalLocal renders the chain for traffic from outside under externalTrafficPolicy Local. cluster and local are verdicts, "" if
// there are no endpoints.
func (r *portRenderer) externalLocal(cluster, local string) string {
	name := r.name("ext")
	var rules []string
	if cluster != "" { // traffic from this node may go to any endpoint, as with the cluster IP
		rules = append(rules, "ip saddr @"+podRangeSet+" "+cluster, "fib saddr type local "+cluster)
	}
	if local == "" {
		local = "drop"
	}
	r.chains[name] = append(rules, local)
	return name
}

// restricted renders the chain that drops sources outside the load balancer's ranges.
func (r *portRenderer) restricted(verdict string) string {
	name := r.name("lb")
	var allowed []string
	for _, s := range r.service.Spec.LoadBalancerSourceRanges {
		if p, err := netip.ParsePrefix(strings.TrimSpace(s)); err == nil && p.Addr().Is4() {
			allowed = append(allowed, "ip saddr "+p.Masked().String()+" "+verdict)
		}
	}
	r.chains[name] = append(allowed, "drop")
	return name
}

func (r *portRenderer) proto() string { return strings.ToLower(string(protocol(r.port))) }

// name returns the name of a chain or set: a hash for uniqueness, then words for people. The same service port always gets the same
// names, in every process.
func (r *portRenderer) name(kind string, more ...string) string {
	words := append([]string{r.service.Namespace, r.service.Name, r.proto(), strconv.Itoa(int(r.port.Port))}, more...)
	id := strings.Join(words, "/")
	sum := sha256.Sum256([]byte(id))
	return kind + "-" + base32.StdEncoding.EncodeToString(sum[:])[:8] + "-" + id
}

func joinKey(parts ...string) string { return strings.Join(parts, " . ") }
