package dns

import (
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

const (
	recordTTL   = 5 // seconds; a service's address changes rarely, its endpoints often
	negativeTTL = 5
	dnsVersion  = "1.1.0" // of the Kubernetes DNS specification
	maxChain    = 8       // how many CNAMEs are followed
)

// reply is the content of a response, without the header.
type reply struct {
	rcode         int
	answer, extra []dns.RR
	negative      bool     // the authority section contains the SOA
	follow        string   // a CNAME's target that the caller must still resolve
	authority     []dns.RR // of a forwarded response
	forwarded     bool     // not from the zone
}

// answerZone responds to a question for a name in the zone. qname is as the client wrote it; labels are those before the zone, in
// lower case.
func (s *Server) answerZone(qname string, labels []string, qtype uint16) reply {
	if !s.zone.ready() {
		return reply{rcode: dns.RcodeServerFailure}
	}
	b := builder{s: s, qname: qname, qtype: qtype}
	n := len(labels)
	last := ""
	if n > 0 {
		last = labels[n-1]
	}
	switch {
	case n == 0:
		return b.apex()
	case last == "svc":
		return b.services(labels[:n-1])
	case last == "pod":
		return b.pods(labels[:n-1])
	case n == 1 && last == "dns-version":
		if qtype == dns.TypeTXT {
			b.r.answer = append(b.r.answer, &dns.TXT{Hdr: b.header(qname, dns.TypeTXT), Txt: []string{dnsVersion}})
		}
		return b.done()
	case last == "dns" && (n == 1 || n == 2 && labels[0] == "ns"):
		if n == 2 {
			b.addresses(qname, []netip.Addr{s.o.Address.Addr()})
		}
		return b.done()
	}
	return b.missing()
}

// answerReverse resolves an address to names; ok is false for addresses that are neither known nor in the cluster's ranges.
func (s *Server) answerReverse(qname string, a netip.Addr, qtype uint16) (r reply, ok bool) {
	names := s.zone.names(a)
	if len(names) == 0 && !s.owns(a) {
		return reply{}, false
	}
	if !s.zone.ready() {
		return reply{rcode: dns.RcodeServerFailure}, true
	}
	b := builder{s: s, qname: qname, qtype: qtype}
	if len(names) == 0 {
		return b.missing(), true
	}
	if qtype == dns.TypePTR {
		for _, name := range names {
			b.r.answer = append(b.r.answer, &dns.PTR{Hdr: b.header(qname, dns.TypePTR), Ptr: name + ".svc." + s.domain})
		}
	}
	return b.done(), true
}

// builder collects one reply.
type builder struct {
	s     *Server
	qname string
	qtype uint16
	r     reply
}

func (b *builder) header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: recordTTL}
}

// done returns the collected reply; an empty one means that the name exists without such records.
func (b *builder) done() reply {
	b.r.negative = len(b.r.answer) == 0
	return b.r
}

func (b *builder) missing() reply { return reply{rcode: dns.RcodeNameError, negative: true} }

func (b *builder) apex() reply {
	switch b.qtype {
	case dns.TypeSOA:
		b.r.answer = append(b.r.answer, b.s.soa())
	case dns.TypeNS:
		ns := "ns.dns." + b.s.domain
		b.r.answer = append(b.r.answer, &dns.NS{Hdr: b.header(b.qname, dns.TypeNS), Ns: ns})
		b.r.extra = append(b.r.extra, &dns.A{Hdr: b.header(ns, dns.TypeA), A: b.s.o.Address.Addr().AsSlice()})
	}
	return b.done()
}

// addresses adds A records if the question is for them, in random order so that clients which use the first one spread.
func (b *builder) addresses(name string, addrs []netip.Addr) {
	if b.qtype != dns.TypeA {
		return
	}
	for _, i := range rand.Perm(len(addrs)) {
		b.r.answer = append(b.r.answer, &dns.A{Hdr: b.header(name, dns.TypeA), A: addrs[i].AsSlice()})
	}
}

// services responds to questions for names below "svc".
func (b *builder) services(labels []string) reply {
	n := len(labels)
	if n == 0 {
		return b.done()
	}
	namespace := labels[n-1]
	service := ""
	if n > 1 {
		service = labels[n-2]
	}
	e, namespaceKnown := b.s.zone.service(service, namespace)
	switch {
	case n == 1 && namespaceKnown:
		return b.done()
	case e == nil || n > 4:
		return b.missing()
	case e.cname != "":
		if n != 2 {
			return b.missing()
		}
		target := dns.Fqdn(e.cname)
		b.r.answer = append(b.r.answer, &dns.CNAME{Hdr: b.header(b.qname, dns.TypeCNAME), Target: target})
		if b.qtype != dns.TypeCNAME {
			b.r.follow = target
		}
		return b.r
	case len(e.addrs) == 0 && e.headless():
		return b.missing()
	case n == 2:
		b.addresses(b.qname, e.addrs)
		if b.qtype == dns.TypeSRV {
			b.srv(e, func(port) bool { return true })
		}
		return b.done()
	case n == 3:
		if addrs, ok := e.hosts[labels[0]]; ok {
			b.addresses(b.qname, addrs)
			return b.done()
		}
		for _, p := range e.ports {
			if p.name != "" && labels[0] == "_"+p.protocol {
				return b.done() // it exists because there are names below it
			}
		}
		return b.missing()
	}
	found := false
	wanted := func(p port) bool {
		ok := p.name != "" && labels[0] == "_"+strings.ToLower(p.name) && labels[1] == "_"+p.protocol
		found = found || ok
		return ok
	}
	b.srv(e, wanted)
	if !found {
		return b.missing()
	}
	if b.qtype != dns.TypeSRV {
		b.r = reply{}
	}
	return b.done()
}

// srv adds a record for each port that is wanted, and the addresses of its target.
func (b *builder) srv(e *entry, wanted func(port) bool) {
	base := e.service.Name + "." + e.service.Namespace + ".svc." + b.s.domain
	shown := map[string]bool{}
	for _, p := range e.ports {
		if !wanted(p) {
			continue
		}
		target, addrs := base, e.addrs
		if p.target != "" {
			target, addrs = p.target+"."+base, e.hosts[p.target]
		}
		b.r.answer = append(b.r.answer, &dns.SRV{Hdr: b.header(b.qname, dns.TypeSRV), Priority: 0, Weight: 100, Port: p.number, Target: target})
		if shown[target] {
			continue
		}
		shown[target] = true
		for _, a := range addrs {
			b.r.extra = append(b.r.extra, &dns.A{Hdr: b.header(target, dns.TypeA), A: a.AsSlice()})
		}
	}
}

// pods responds to questions for names below "pod": an address written with dashes resolves to that address. Namespaces are not
// checked, because only services are known here.
func (b *builder) pods(labels []string) reply {
	if len(labels) < 2 {
		return b.done()
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(labels[0], "-", "."))
	if len(labels) > 2 || err != nil || !a.Is4() {
		return b.missing()
	}
	b.addresses(b.qname, []netip.Addr{a})
	return b.done()
}

func (s *Server) soa() *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: s.domain, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: negativeTTL},
		Ns:  "ns.dns." + s.domain, Mbox: "hostmaster." + s.domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: negativeTTL,
	}
}

// reverseAddr parses a name below in-addr.arpa.
func reverseAddr(name string) (netip.Addr, bool) {
	rest, ok := strings.CutSuffix(name, ".in-addr.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	l := strings.Split(rest, ".")
	if len(l) != 4 {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(l[3] + "." + l[2] + "." + l[1] + "." + l[0])
	return a, err == nil
}
