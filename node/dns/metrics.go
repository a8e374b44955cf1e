package dns

import (
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kontiki/kontiki/internal/collectors"
	"github.com/kontiki/kontiki/internal/histogram"
)

// Metrics count questions and answers, under CoreDNS's names and labels. Types and codes that CoreDNS does not name either count as other, so a
// client cannot make series.
type Metrics struct {
	collectors.Group
	requests, responses *prometheus.CounterVec
	duration            *prometheus.HistogramVec
	asked, answered     sync.Map
	times               [2]prometheus.Observer
}

// The zones that are told: the cluster's own, and all others.
var zones = [2]string{"cluster.local.", "."}

const server, view, family = "dns://:53", "", "1"

// NewMetrics returns metrics of which none has been counted.
func NewMetrics() *Metrics {
	m := &Metrics{
		requests:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "coredns_dns_requests_total", Help: "Counter of DNS requests made per zone, protocol and family."}, []string{"server", "zone", "view", "proto", "family", "type"}),
		responses: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "coredns_dns_responses_total", Help: "Counter of response status codes."}, []string{"server", "zone", "view", "rcode", "plugin"}),
		duration:  histogram.Vec("coredns_dns_request_duration_seconds", "Histogram of the time (in seconds) each request took per zone.", prometheus.ExponentialBuckets(0.00025, 2, 16), "server", "zone", "view"),
	}
	for i, zone := range zones {
		m.times[i] = m.duration.WithLabelValues(server, zone, view)
	}
	m.Group = collectors.Group{m.requests, m.responses, m.duration}
	return m
}

// measured are the types of questions that CoreDNS names.
var measured = map[uint16]bool{dns.TypeAAAA: true, dns.TypeA: true, dns.TypeCNAME: true, dns.TypeDNSKEY: true, dns.TypeDS: true, dns.TypeMX: true, dns.TypeNSEC3: true, dns.TypeNSEC: true,
	dns.TypeNS: true, dns.TypePTR: true, dns.TypeRRSIG: true, dns.TypeSOA: true, dns.TypeSRV: true, dns.TypeTXT: true, dns.TypeHTTPS: true, dns.TypeANY: true}

type askedKey struct {
	zone  int
	tcp   bool
	qtype uint16
}

type answeredKey struct {
	zone, rcode int
	forwarded   bool
}

// served counts a question that was answered.
func (m *Metrics) served(q, a *dns.Msg, own, tcp bool, took time.Duration) {
	if m == nil {
		return
	}
	key := askedKey{tcp: tcp}
	if !own {
		key.zone = 1
	}
	if len(q.Question) == 1 && measured[q.Question[0].Qtype] {
		key.qtype = q.Question[0].Qtype
	}
	count(&m.asked, key, func() prometheus.Counter {
		name, proto := "other", "udp"
		if key.qtype != 0 {
			name = dns.TypeToString[key.qtype]
		}
		if tcp {
			proto = "tcp"
		}
		return m.requests.WithLabelValues(server, zones[key.zone], view, proto, family, name)
	})
	answer := answeredKey{zone: key.zone, rcode: a.Rcode, forwarded: !a.Authoritative}
	count(&m.answered, answer, func() prometheus.Counter {
		rcode, plugin := dns.RcodeToString[a.Rcode], "kubernetes"
		if rcode == "" {
			rcode = "other"
		}
		if answer.forwarded {
			plugin = "forward"
		}
		return m.responses.WithLabelValues(server, zones[key.zone], view, rcode, plugin)
	})
	m.times[key.zone].Observe(took.Seconds())
}

// count adds one to the counter of a key, which is looked up once.
func count(in *sync.Map, key any, make func() prometheus.Counter) {
	known, ok := in.Load(key)
	if !ok {
		known, _ = in.LoadOrStore(key, make())
	}
	known.(prometheus.Counter).Inc()
}
