package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/network/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

var ctx = context.Background()

func ptr[T any](v T) *T { return &v }

func service(namespace, name, ip string, edit func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, Ports: []corev1.ServicePort{
			{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}, {Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53},
		}},
	}
	if edit != nil {
		edit(&s.Spec)
	}
	return s
}

type host struct {
	ip, name string
	ready    bool
}

func slice(namespace, service string, hosts ...host) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: service + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr("http"), Protocol: ptr(corev1.ProtocolTCP), Port: ptr(int32(8080))}},
	}
	for _, h := range hosts {
		e := discoveryv1.Endpoint{Addresses: []string{h.ip}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(h.ready)}}
		if h.name != "" {
			e.Hostname = ptr(h.name)
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// cluster is what the table below asks about.
func cluster() ([]*corev1.Service, []*discoveryv1.EndpointSlice) {
	return []*corev1.Service{
			service("default", "web", "10.96.0.1", nil),
			service("default", "db", corev1.ClusterIPNone, nil),
			service("default", "starting", corev1.ClusterIPNone, func(s *corev1.ServiceSpec) { s.PublishNotReadyAddresses = true }),
			service("default", "empty", corev1.ClusterIPNone, nil),
			service("default", "alias", "", func(s *corev1.ServiceSpec) {
				s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "web.default.svc.cluster.local"
			}),
			service("default", "dangling", "", func(s *corev1.ServiceSpec) {
				s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "nobody.default.svc.cluster.local"
			}),
			service("default", "loop", "", func(s *corev1.ServiceSpec) {
				s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "loop.default.svc.cluster.local"
			}),
		}, []*discoveryv1.EndpointSlice{
			slice("default", "web", host{"10.244.1.1", "", true}),
			slice("default", "db", host{"10.244.1.2", "db-0", true}, host{"10.244.2.3", "", true}, host{"10.244.2.4", "db-2", false}),
			slice("default", "starting", host{"10.244.1.9", "", false}),
			slice("default", "empty", host{"10.244.1.8", "", false}),
		}
}

func newServer(t testing.TB, resolvConf string) *Server {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte(resolvConf), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Address: netip.MustParseAddrPort("10.96.0.10:53"), ResolvConf: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.Configure(ctx, netapi.NetworkConfig{ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16")})
	return s
}

// rdata is the part of a record that follows name, lifetime and class: "A 1.2.3.4".
func rdata(rrs []dns.RR) string {
	var out []string
	for _, rr := range rrs {
		if rr.Header().Rrtype == dns.TypeOPT {
			continue
		}
		out = append(out, strings.Join(strings.Fields(rr.String())[3:], " "))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

func ask(s *Server, name, qtype string) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(name, dns.StringToType[qtype])
	return s.respond(ctx, q, asker{tcp: false})
}

func TestAnswers(t *testing.T) {
	s := newServer(t, "")
	s.SetServices(cluster())
	const ok, none, failure = dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeServerFailure
	for _, c := range []struct {
		name, qtype string
		rcode       int
		answer      string
		extra       string
	}{
		{"web.default.svc.cluster.local.", "A", ok, "A 10.96.0.1", ""},
		{"WEB.Default.svc.Cluster.Local.", "A", ok, "A 10.96.0.1", ""},
		{"web.default.svc.cluster.local.", "AAAA", ok, "", ""},
		{"web.default.svc.cluster.local.", "MX", ok, "", ""},
		{"web.other.svc.cluster.local.", "A", none, "", ""},
		{"nobody.default.svc.cluster.local.", "A", none, "", ""},
		{"nobody.default.svc.cluster.local.", "AAAA", none, "", ""},
		{"a.b.c.web.default.svc.cluster.local.", "A", none, "", ""},
		{"default.svc.cluster.local.", "A", ok, "", ""},
		{"other.svc.cluster.local.", "A", none, "", ""},
		{"svc.cluster.local.", "A", ok, "", ""},
		{"nonsense.cluster.local.", "A", none, "", ""},
		{"example.com.default.svc.cluster.local.", "A", none, "", ""},

		{"_http._tcp.web.default.svc.cluster.local.", "SRV", ok, "SRV 0 100 80 web.default.svc.cluster.local.", "A 10.96.0.1"},
		{"_dns._udp.web.default.svc.cluster.local.", "SRV", ok, "SRV 0 100 53 web.default.svc.cluster.local.", "A 10.96.0.1"},
		{"_http._udp.web.default.svc.cluster.local.", "SRV", none, "", ""},
		{"_http._tcp.web.default.svc.cluster.local.", "A", ok, "", ""},
		{"_tcp.web.default.svc.cluster.local.", "SRV", ok, "", ""},
		{"web.default.svc.cluster.local.", "SRV", ok, "SRV 0 100 53 web.default.svc.cluster.local.; SRV 0 100 80 web.default.svc.cluster.local.", "A 10.96.0.1"},
		{"10-244-1-1.web.default.svc.cluster.local.", "A", ok, "A 10.244.1.1", ""},

		{"db.default.svc.cluster.local.", "A", ok, "A 10.244.1.2; A 10.244.2.3", ""},
		{"db-0.db.default.svc.cluster.local.", "A", ok, "A 10.244.1.2", ""},
		{"10-244-2-3.db.default.svc.cluster.local.", "A", ok, "A 10.244.2.3", ""},
		{"db-2.db.default.svc.cluster.local.", "A", none, "", ""},
		{"_http._tcp.db.default.svc.cluster.local.", "SRV", ok,
			"SRV 0 100 8080 10-244-2-3.db.default.svc.cluster.local.; SRV 0 100 8080 db-0.db.default.svc.cluster.local.", "A 10.244.1.2; A 10.244.2.3"},
		{"starting.default.svc.cluster.local.", "A", ok, "A 10.244.1.9", ""},
		{"empty.default.svc.cluster.local.", "A", none, "", ""},

		{"alias.default.svc.cluster.local.", "A", ok, "A 10.96.0.1; CNAME web.default.svc.cluster.local.", ""},
		{"alias.default.svc.cluster.local.", "CNAME", ok, "CNAME web.default.svc.cluster.local.", ""},
		{"dangling.default.svc.cluster.local.", "A", none, "CNAME nobody.default.svc.cluster.local.", ""},
		{"loop.default.svc.cluster.local.", "A", failure, "", ""},

		{"10-1-2-3.default.pod.cluster.local.", "A", ok, "A 10.1.2.3", ""},
		{"10-1-2-3.default.pod.cluster.local.", "AAAA", ok, "", ""},
		{"10-1-2-300.default.pod.cluster.local.", "A", none, "", ""},
		{"default.pod.cluster.local.", "A", ok, "", ""},
		{"x.10-1-2-3.default.pod.cluster.local.", "A", none, "", ""},

		{"dns-version.cluster.local.", "TXT", ok, `TXT "1.1.0"`, ""},
		{"dns-version.cluster.local.", "A", ok, "", ""},
		{"cluster.local.", "SOA", ok, "SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5", ""},
		{"cluster.local.", "NS", ok, "NS ns.dns.cluster.local.", "A 10.96.0.10"},
		{"ns.dns.cluster.local.", "A", ok, "A 10.96.0.10", ""},

		{"1.0.96.10.in-addr.arpa.", "PTR", ok, "PTR web.default.svc.cluster.local.", ""},
		{"2.1.244.10.in-addr.arpa.", "PTR", ok, "PTR db-0.db.default.svc.cluster.local.", ""},
		{"3.2.244.10.in-addr.arpa.", "PTR", ok, "PTR 10-244-2-3.db.default.svc.cluster.local.", ""},
		{"77.0.96.10.in-addr.arpa.", "PTR", none, "", ""},
		{"1.1.244.10.in-addr.arpa.", "PTR", none, "", ""}, // an endpoint, but of no headless service
		{"8.8.8.8.in-addr.arpa.", "PTR", failure, "", ""}, // not ours, and nobody to ask

		{"example.com.", "A", failure, "", ""},
		{"notcluster.local.", "A", failure, "", ""},
	} {
		m := ask(s, c.name, c.qtype)
		if m.Rcode != c.rcode || rdata(m.Answer) != c.answer || rdata(m.Extra) != c.extra {
			t.Errorf("%s %s: %s, answer %q, additional %q; want %s, %q, %q", c.name, c.qtype, dns.RcodeToString[m.Rcode], rdata(m.Answer), rdata(m.Extra),
				dns.RcodeToString[c.rcode], c.answer, c.extra)
		}
		for _, rr := range m.Answer {
			if rr.Header().Rrtype == dns.StringToType[c.qtype] && m.Answer[0].Header().Rrtype != dns.TypeCNAME && rr.Header().Name != c.name {
				t.Errorf("%s %s: the answer is about %s", c.name, c.qtype, rr.Header().Name)
			}
		}
		if negative := c.rcode == none || c.rcode == ok && c.answer == ""; negative {
			if soa := rdata(m.Ns); !strings.HasPrefix(soa, "SOA ns.dns.cluster.local.") || m.Ns[0].Header().Ttl != 5 || !m.Authoritative {
				t.Errorf("%s %s: authority %q of a negative answer", c.name, c.qtype, soa)
			}
		} else if len(m.Ns) != 0 {
			t.Errorf("%s %s: authority %q", c.name, c.qtype, rdata(m.Ns))
		}
	}
}

func TestZoneFollowsServices(t *testing.T) {
	s := newServer(t, "")
	if m := ask(s, "web.default.svc.cluster.local.", "A"); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("before the services are known: %s", dns.RcodeToString[m.Rcode])
	}
	svcs, eps := cluster()
	s.SetServices(svcs, eps)
	before, _ := s.zone.service("web", "default")

	eps[1] = slice("default", "db", host{"10.244.9.9", "db-0", true})
	s.SetServices(svcs, eps)
	if got := rdata(ask(s, "db.default.svc.cluster.local.", "A").Answer); got != "A 10.244.9.9" {
		t.Errorf("after a change: %q", got)
	}
	if m := ask(s, "2.1.244.10.in-addr.arpa.", "PTR"); m.Rcode != dns.RcodeNameError {
		t.Errorf("an address that the service no longer has: %v", m.Answer)
	}
	if after, _ := s.zone.service("web", "default"); after != before {
		t.Error("a change of one service rebuilt another")
	}

	s.SetServices(svcs[1:], eps[1:])
	for _, name := range []string{"web.default.svc.cluster.local.", "10-244-1-1.web.default.svc.cluster.local."} {
		if m := ask(s, name, "A"); m.Rcode != dns.RcodeNameError {
			t.Errorf("%s after its end: %s", name, dns.RcodeToString[m.Rcode])
		}
	}
	s.SetServices(nil, nil)
	if m := ask(s, "default.svc.cluster.local.", "A"); m.Rcode != dns.RcodeNameError || len(s.zone.reverse) != 0 || len(s.zone.entries) != 0 {
		t.Errorf("empty cluster: %s, %d addresses left", dns.RcodeToString[m.Rcode], len(s.zone.reverse))
	}
}

func TestOddQuestions(t *testing.T) {
	s := newServer(t, "")
	s.SetServices(cluster())
	question := func(edit func(*dns.Msg)) *dns.Msg {
		q := new(dns.Msg)
		q.SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
		edit(q)
		return s.respond(ctx, q, asker{tcp: false})
	}
	for _, c := range []struct {
		name  string
		edit  func(*dns.Msg)
		rcode int
	}{
		{"no question", func(q *dns.Msg) { q.Question = nil }, dns.RcodeFormatError},
		{"two questions", func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }, dns.RcodeFormatError},
		{"chaos class", func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		{"zone transfer", func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		{"update", func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		{"unknown EDNS", func(q *dns.Msg) { q.SetEdns0(4096, false); q.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
	} {
		if m := question(c.edit); m.Rcode != c.rcode {
			t.Errorf("%s: %s, want %s", c.name, dns.RcodeToString[m.Rcode], dns.RcodeToString[c.rcode])
		} else if _, err := m.Pack(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestTruncation(t *testing.T) {
	s := newServer(t, "")
	var hosts []host
	for i := range 200 {
		hosts = append(hosts, host{fmt.Sprintf("10.244.3.%d", i+1), "", true})
	}
	s.SetServices([]*corev1.Service{service("default", "big", corev1.ClusterIPNone, nil)}, []*discoveryv1.EndpointSlice{slice("default", "big", hosts...)})
	for _, c := range []struct {
		name      string
		edns      uint16
		tcp       bool
		limit     int
		truncated bool
	}{
		{"plain UDP", 0, false, 512, true},
		{"EDNS", 1000, false, 1000, true},
		{"more than we send", 65535, false, udpSize, true},
		{"TCP", 0, true, dns.MaxMsgSize, false},
	} {
		q := new(dns.Msg)
		q.SetQuestion("big.default.svc.cluster.local.", dns.TypeA)
		if c.edns > 0 {
			q.SetEdns0(c.edns, false)
		}
		m := s.respond(ctx, q, asker{tcp: c.tcp})
		b, err := m.Pack()
		if err != nil || len(b) > c.limit || m.Truncated != c.truncated || (m.IsEdns0() != nil) != (c.edns > 0) {
			t.Errorf("%s: %d bytes, truncated %v, EDNS %v, %v", c.name, len(b), m.Truncated, m.IsEdns0() != nil, err)
		}
		if c.tcp && len(m.Answer) != 200 || len(m.Answer) == 0 {
			t.Errorf("%s: %d answers", c.name, len(m.Answer))
		}
	}
}
