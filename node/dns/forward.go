package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/kontiki/kontiki/node/network/ns"
)

const (
	forwardTimeout = 2 * time.Second // for one nameserver
	forwardTotal   = 4 * time.Second // for all of them: clients usually give up after five
	forwardLimit   = 1000            // questions in flight; further ones are refused rather than queued
	forwardClient  = 250             // the limit for one client
	checkEvery     = time.Second     // how often resolv.conf is checked, while questions arrive
)

// resolvedConf is where systemd-resolved writes the real nameservers when resolv.conf names its own stub, which cannot be reached
// from other network namespaces.
const resolvedConf = "/run/systemd/resolve/resolv.conf"

// forwarder queries the host's nameservers. It is safe for concurrent use.
type forwarder struct {
	path   string
	space  *ns.Namespace
	self   netip.AddrPort
	log    *slog.Logger
	cache  *cache
	places *shares

	mu      sync.Mutex
	checked time.Time
	stamp   fileStamp
	servers []string
	good    string // the one that answered last is queried first
}

type fileStamp struct {
	modified time.Time
	size     int64
}

func newForwarder(path string, space *ns.Namespace, self netip.AddrPort, log *slog.Logger) *forwarder {
	f := &forwarder{path: path, space: space, self: self, log: log, cache: newCache(4096), places: newShares(forwardLimit, forwardClient)}
	f.upstreams()
	return f
}

// upstreams returns the nameservers, the best one first.
func (f *forwarder) upstreams() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.checked) > checkEvery {
		f.checked = time.Now()
		var stamp fileStamp
		if i, err := os.Stat(f.path); err == nil {
			stamp = fileStamp{i.ModTime(), i.Size()}
		}
		if stamp != f.stamp || f.servers == nil {
			f.stamp = stamp
			servers := f.read()
			if !slices.Equal(servers, f.servers) || f.servers == nil {
				f.log.Info("dns forwards to", "nameservers", servers, "file", f.path)
			}
			f.servers = servers
		}
	}
	out := make([]string, 0, len(f.servers))
	if slices.Contains(f.servers, f.good) {
		out = append(out, f.good)
	}
	for _, s := range f.servers {
		if s != f.good {
			out = append(out, s)
		}
	}
	return out
}

// read returns the nameservers, never nil. The server's own address is omitted, to avoid a loop.
func (f *forwarder) read() []string {
	servers := nameservers(f.path, f.self)
	stub := len(servers) > 0
	for _, s := range servers {
		a, err := netip.ParseAddrPort(s)
		stub = stub && err == nil && a.Addr() == netip.MustParseAddr("127.0.0.53")
	}
	if stub {
		if real := nameservers(resolvedConf, f.self); len(real) > 0 {
			return real
		}
	}
	return servers
}

func nameservers(path string, self netip.AddrPort) []string {
	servers := []string{}
	c, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return servers
	}
	for _, s := range c.Servers {
		if a, err := netip.ParseAddr(s); err == nil && netip.AddrPortFrom(a.Unmap(), self.Port()) == self {
			continue
		}
		servers = append(servers, net.JoinHostPort(s, c.Port))
	}
	return servers
}

// resolve queries one name. Every failure becomes SERVFAIL, which clients retry elsewhere and do not cache.
func (f *forwarder) resolve(ctx context.Context, name string, qtype uint16, by asker) reply {
	failed := reply{rcode: dns.RcodeServerFailure, forwarded: true}
	key := cacheKey{strings.ToLower(name), qtype}
	if r, ok := f.cache.get(key); ok {
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTotal)
	defer cancel()
	p := f.places.take(by.client, cancel)
	if p == nil {
		return failed
	}
	defer f.places.free(p)
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	q.SetEdns0(udpSize, false)
	for _, server := range f.upstreams() {
		m, err := f.exchange(ctx, q, server, by.tcp)
		if err != nil {
			if ctx.Err() != nil {
				return failed
			}
			f.log.Debug("dns nameserver does not answer", "nameserver", server, "name", name, "err", err)
			continue
		}
		if m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused {
			continue // another nameserver may know the name
		}
		f.mu.Lock()
		f.good = server
		f.mu.Unlock()
		r := reply{rcode: m.Rcode, answer: m.Answer, authority: m.Ns, extra: withoutOPT(m.Extra), forwarded: true}
		f.cache.put(key, r)
		return r
	}
	return failed
}

// exchange queries one nameserver. A response that does not fit into UDP is requested again by TCP, so that it can be cached
// complete, and truncated for clients as necessary.
func (f *forwarder) exchange(ctx context.Context, q *dns.Msg, server string, tcp bool) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	q = q.Copy()
	q.Id = dns.Id()
	network := "udp"
	if tcp {
		network = "tcp"
	}
	m, err := f.exchangeOver(ctx, q, server, network)
	if err == nil && m.Truncated && !tcp {
		m, err = f.exchangeOver(ctx, q, server, "tcp")
	}
	if err == nil && (len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, q.Question[0].Name) || m.Question[0].Qtype != q.Question[0].Qtype) {
		return nil, dns.ErrId
	}
	return m, err
}

func (f *forwarder) exchangeOver(ctx context.Context, q *dns.Msg, server, network string) (*dns.Msg, error) {
	c := &dns.Client{Net: network, UDPSize: udpSize, Timeout: forwardTimeout}
	var conn *dns.Conn
	err := f.space.Do(func() (err error) {
		conn, err = c.DialContext(ctx, server)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })() // the DNS client checks ctx only before it begins
	defer conn.Close()
	m, _, err := c.ExchangeWithConnContext(ctx, q, conn)
	return m, err
}

func withoutOPT(rrs []dns.RR) []dns.RR {
	var out []dns.RR
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			out = append(out, rr)
		}
	}
	return out
}
