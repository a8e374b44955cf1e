package dns

import (
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/kontiki/kontiki/test/gathered"
)

// TestQuestionsAreCounted under CoreDNS's labels; what a client invents counts as other.
func TestQuestionsAreCounted(t *testing.T) {
	m := NewMetrics()
	ask := func(name string, qtype uint16, rcode int, own, tcp bool) {
		q, a := new(dns.Msg).SetQuestion(name, qtype), new(dns.Msg)
		a.Rcode, a.Authoritative = rcode, own
		m.served(q, a, own, tcp, time.Millisecond)
	}
	ask("web.default.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, true, false)
	ask("web.default.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, true, false)
	ask("none.default.svc.cluster.local.", dns.TypeAAAA, dns.RcodeNameError, true, true)
	ask("example.com.", 65000, dns.RcodeServerFailure, false, false)
	ask("example.com.", 65001, 3000, false, false)
	got := gathered.Values(t, m)
	for name, want := range map[string]float64{
		`coredns_dns_requests_total{family="1",proto="udp",server="dns://:53",type="A",view="",zone="cluster.local."}`:       2,
		`coredns_dns_requests_total{family="1",proto="tcp",server="dns://:53",type="AAAA",view="",zone="cluster.local."}`:    1,
		`coredns_dns_requests_total{family="1",proto="udp",server="dns://:53",type="other",view="",zone="."}`:                2,
		`coredns_dns_responses_total{plugin="kubernetes",rcode="NXDOMAIN",server="dns://:53",view="",zone="cluster.local."}`: 1,
		`coredns_dns_responses_total{plugin="forward",rcode="SERVFAIL",server="dns://:53",view="",zone="."}`:                 1,
		`coredns_dns_responses_total{plugin="forward",rcode="other",server="dns://:53",view="",zone="."}`:                    1,
		`coredns_dns_request_duration_seconds{server="dns://:53",view="",zone="cluster.local."}`:                             3,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}
