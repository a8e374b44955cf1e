package proxy

import "sigs.k8s.io/knftables"

const (
	servicesMap            = "services"
	nodePortsMap           = "node-ports"
	noEndpointsMap         = "no-endpoints"
	noEndpointNodePortsMap = "no-endpoint-node-ports"
	hairpinSet             = "hairpin"
	podRangeSet            = "pod-range"
	serviceRangeSet        = "service-range"

	servicesChain   = "to-services"
	refusedChain    = "to-refused"
	rejectChain     = "do-reject"
	masqueradeChain = "do-mark"

	// masqueradeMark is set from the choice of an endpoint until postrouting, on the first packet of a connection.
	masqueradeMark = "0x4000"
)

// writeBase writes the part of the table that does not depend on services. The rules of all chains must have been flushed before.
func writeBase(tx *knftables.Transaction) {
	for _, m := range []struct{ name, typ string }{
		{servicesMap, "ipv4_addr . inet_proto . inet_service : verdict"},
		{nodePortsMap, "inet_proto . inet_service : verdict"},
		{noEndpointsMap, "ipv4_addr . inet_proto . inet_service : verdict"},
		{noEndpointNodePortsMap, "inet_proto . inet_service : verdict"},
	} {
		tx.Add(&knftables.Map{Name: m.name, Type: m.typ})
		tx.Flush(&knftables.Map{Name: m.name})
	}
	tx.Add(&knftables.Set{Name: hairpinSet, Type: "ipv4_addr . ipv4_addr"})
	tx.Flush(&knftables.Set{Name: hairpinSet})
	for _, name := range []string{podRangeSet, serviceRangeSet} {
		tx.Add(&knftables.Set{Name: name, Type: "ipv4_addr", Flags: []knftables.SetFlag{knftables.IntervalFlag}})
	}

	for _, name := range []string{servicesChain, refusedChain, rejectChain, masqueradeChain} {
		tx.Add(&knftables.Chain{Name: name})
	}
	base := func(name string, kind knftables.BaseChainType, hook knftables.BaseChainHook, prio knftables.BaseChainPriority) {
		tx.Add(&knftables.Chain{Name: name, Type: &kind, Hook: &hook, Priority: &prio})
	}
	base("prerouting", knftables.NATType, knftables.PreroutingHook, knftables.DNATPriority)
	base("output", knftables.NATType, knftables.OutputHook, "-100") // dstnat has no name at this hook
	// A packet that is being evaluated in a chain when a transaction commits continues with the old rules, whose maps have no
	// elements any more: it leaves without an endpoint. Only another base chain uses the new rules, so there are two. Packets for
	// which the first has found an endpoint do not reach the second.
	base("prerouting-again", knftables.NATType, knftables.PreroutingHook, knftables.DNATPriority+"+1")
	base("output-again", knftables.NATType, knftables.OutputHook, "-99")
	base("postrouting", knftables.NATType, knftables.PostroutingHook, knftables.SNATPriority)
	base("filter-input", knftables.FilterType, knftables.InputHook, knftables.FilterPriority)
	base("filter-forward", knftables.FilterType, knftables.ForwardHook, knftables.FilterPriority)
	base("filter-output", knftables.FilterType, knftables.OutputHook, knftables.FilterPriority)

	rule := func(chain, text string) { tx.Add(&knftables.Rule{Chain: chain, Rule: text}) }
	rule(masqueradeChain, "meta mark set mark or "+masqueradeMark)
	rule(rejectChain, "meta l4proto tcp reject with tcp reset")
	rule(rejectChain, "reject")
	rule(servicesChain, "ip daddr . meta l4proto . th dport vmap @"+servicesMap)
	rule(servicesChain, "fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @"+nodePortsMap)
	rule(refusedChain, "ct state new ip daddr . meta l4proto . th dport vmap @"+noEndpointsMap)
	rule(refusedChain, "ct state new fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @"+noEndpointNodePortsMap)
	rule(refusedChain, "ip daddr @"+serviceRangeSet+" fib daddr type != local goto "+rejectChain)
	rule("prerouting", "jump "+servicesChain)
	rule("output", "jump "+servicesChain)
	rule("prerouting-again", "jump "+servicesChain)
	rule("output-again", "jump "+servicesChain)
	rule("filter-input", "jump "+refusedChain)
	rule("filter-forward", "jump "+refusedChain)
	rule("filter-output", "jump "+refusedChain)
	// The mark is cleared, because otherwise the enclosing VXLAN packet would be masqueraded as well.
	rule("postrouting", "meta mark & "+masqueradeMark+" != 0 meta mark set mark xor "+masqueradeMark+" masquerade fully-random")
	rule("postrouting", "ct status dnat ip saddr . ip daddr @"+hairpinSet+" masquerade fully-random")
}

func writeRanges(tx *knftables.Transaction, r ranges) {
	tx.Flush(&knftables.Set{Name: podRangeSet})
	if r.pods.IsValid() && r.pods.Addr().Is4() {
		tx.Add(&knftables.Element{Set: podRangeSet, Key: []string{r.pods.Masked().String()}})
	}
	tx.Flush(&knftables.Set{Name: serviceRangeSet})
	if r.services.IsValid() && r.services.Addr().Is4() {
		tx.Add(&knftables.Element{Set: serviceRangeSet, Key: []string{r.services.Masked().String()}})
	}
}
