package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/network/ns"
)

// udpSize is the advertised maximum size of UDP messages in both directions: it fits every link.
const udpSize = 1232

const (
	// tcpLimit and tcpClientLimit limit the open TCP connections of all clients and of one client.
	tcpLimit, tcpClientLimit = 512, 128
	// A TCP client must send its first question, and read a response, within tcpTimeout, and send its next question within tcpIdle.
	tcpTimeout, tcpIdle = 5 * time.Second, 10 * time.Second
)

// Options are the parameters of a Server.
type Options struct {
	// Address is the cluster's DNS address. Port 0 means 53.
	Address netip.AddrPort
	// Assign adds the address to the loopback when Run begins. It stays when Run ends; Cleanup removes it.
	Assign bool
	// Domain is the zone, "" means cluster.local.
	Domain string
	// ResolvConf is the file with the nameservers for all other names, "" means /etc/resolv.conf.
	ResolvConf string
	// Metrics count questions; nil counts nothing.
	Metrics *Metrics
	// Log may be nil, for the default logger.
	Log *slog.Logger
}

// Server implements netapi.ServiceConsumer. Its methods are safe for concurrent use.
type Server struct {
	o       Options
	domain  string // with the final dot
	log     *slog.Logger
	space   *ns.Namespace
	zone    *zone
	forward *forwarder
	tcp     *shares
	ranges  atomic.Pointer[[]netip.Prefix] // the ranges of the cluster
	ready   chan struct{}
}

var _ netapi.ServiceConsumer = (*Server)(nil)

// New creates a server that listens, and queries other nameservers, in the calling thread's network namespace. It serves while Run
// is running.
func New(o Options) (*Server, error) {
	if !o.Address.Addr().Is4() {
		return nil, fmt.Errorf("dns: address %s: want IPv4", o.Address)
	}
	if o.Address.Port() == 0 {
		o.Address = netip.AddrPortFrom(o.Address.Addr(), 53)
	}
	if o.Domain == "" {
		o.Domain = "cluster.local"
	}
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	s := &Server{o: o, domain: strings.ToLower(dns.Fqdn(o.Domain)), log: o.Log, zone: newZone(), tcp: newShares(tcpLimit, tcpClientLimit), ready: make(chan struct{})}
	if s.log == nil {
		s.log = slog.Default()
	}
	if _, ok := dns.IsDomainName(s.domain); !ok || s.domain == "." {
		return nil, fmt.Errorf("dns: %q is not a domain", o.Domain)
	}
	var err error
	if s.space, err = ns.Current(); err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	s.forward = newForwarder(o.ResolvConf, s.space, o.Address, s.log)
	return s, nil
}

// SetServices implements netapi.ServiceConsumer.
func (s *Server) SetServices(services []*corev1.Service, slices []*discoveryv1.EndpointSlice) {
	s.zone.set(services, slices)
}

// Configure sets the cluster's address ranges: questions for the names of addresses in them are never forwarded. It always returns
// nil. (The signature makes it a Follower of node/network.)
func (s *Server) Configure(_ context.Context, c netapi.NetworkConfig) error {
	var ranges []netip.Prefix
	for _, p := range []netip.Prefix{c.ClusterCIDR, c.ServiceCIDR, c.PodCIDR} {
		if p.IsValid() {
			ranges = append(ranges, p)
		}
	}
	s.ranges.Store(&ranges)
	return nil
}

func (s *Server) owns(a netip.Addr) bool {
	if ranges := s.ranges.Load(); ranges != nil {
		for _, p := range *ranges {
			if p.Contains(a) {
				return true
			}
		}
	}
	return false
}

// Ready is closed when the server listens.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves UDP and TCP until ctx ends. It may be called once. If another process has the port (the previous instance of this
// program, for example), it waits for it.
func (s *Server) Run(ctx context.Context) error {
	defer s.space.Close()
	var packets net.PacketConn
	var listener net.Listener
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		err := s.space.Do(func() (err error) {
			packets, listener, err = s.listen()
			return err
		})
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return fmt.Errorf("dns: %w", err)
		}
		s.log.Error("dns cannot listen, trying again", "address", s.o.Address, "err", err, "in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.serve(ctx, w, q) })
	var started sync.WaitGroup
	started.Add(2)
	servers := []*dns.Server{
		{PacketConn: packets, Handler: handler, UDPSize: udpSize, NotifyStartedFunc: started.Done},
		{Listener: &fairListener{listener, s.tcp, tcpTimeout}, Handler: handler, NotifyStartedFunc: started.Done, ReadTimeout: tcpTimeout,
			IdleTimeout: func() time.Duration { return tcpIdle }},
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, srv := range servers {
		g.Go(func() error {
			if err := srv.ActivateAndServe(); err != nil && gctx.Err() == nil {
				return fmt.Errorf("dns: serve: %w", err)
			}
			return nil
		})
	}
	g.Go(func() error {
		started.Wait()
		close(s.ready)
		s.log.Info("dns server listens", "address", packets.LocalAddr(), "zone", s.domain)
		<-gctx.Done()
		for _, srv := range servers {
			wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			if err := srv.ShutdownContext(wait); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				s.log.Debug("dns shutdown", "err", err)
			}
			cancel()
		}
		return nil
	})
	return g.Wait()
}

func (s *Server) listen() (net.PacketConn, net.Listener, error) {
	if s.o.Assign {
		if err := assign(s.o.Address.Addr()); err != nil {
			return nil, nil, err
		}
	}
	packets, err := net.ListenPacket("udp4", s.o.Address.String())
	if err != nil {
		return nil, nil, err
	}
	listener, err := net.Listen("tcp4", packets.LocalAddr().String())
	if err != nil {
		packets.Close()
		return nil, nil, err
	}
	return packets, listener, nil
}

// serve responds to one question.
func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	began := time.Now()
	m := s.respond(ctx, q, asker{addressOf(w.RemoteAddr()), tcp})
	own := len(q.Question) == 1 && dns.IsSubDomain(s.domain, strings.ToLower(q.Question[0].Name))
	s.o.Metrics.served(q, m, own, tcp, time.Since(began))
	if err := w.WriteMsg(m); err != nil && ctx.Err() == nil {
		s.log.Debug("dns answer", "client", w.RemoteAddr(), "err", err)
	}
}

// asker is the client of a question, and the protocol that it used.
type asker struct {
	client netip.Addr
	tcp    bool
}

func (s *Server) respond(ctx context.Context, q *dns.Msg, by asker) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	m.Compress = true
	opt := q.IsEdns0()
	size := dns.MinMsgSize
	if opt != nil {
		size = max(size, min(int(opt.UDPSize()), udpSize))
		m.SetEdns0(udpSize, false)
	}
	if by.tcp {
		size = dns.MaxMsgSize
	}
	switch {
	case opt != nil && opt.Version() != 0:
		m.IsEdns0().SetExtendedRcode(dns.RcodeBadVers)
		m.Rcode = dns.RcodeBadVers
		return m
	case q.Opcode != dns.OpcodeQuery:
		m.Rcode = dns.RcodeNotImplemented
		return m
	case len(q.Question) != 1:
		m.Rcode = dns.RcodeFormatError
		return m
	case q.Question[0].Qclass != dns.ClassINET, q.Question[0].Qtype == dns.TypeAXFR, q.Question[0].Qtype == dns.TypeIXFR:
		m.Rcode = dns.RcodeRefused
		return m
	}
	r := s.resolve(ctx, q.Question[0].Name, q.Question[0].Qtype, by)
	for i := 0; r.follow != ""; i++ {
		if i == maxChain {
			r = reply{rcode: dns.RcodeServerFailure}
			break
		}
		next := s.resolve(ctx, r.follow, q.Question[0].Qtype, by)
		// The alias exists, whatever the result for its target, but a failure must not look like an answer.
		r.rcode, r.follow, r.extra, r.authority, r.negative = next.rcode, next.follow, next.extra, next.authority, next.negative
		r.answer = append(append([]dns.RR{}, r.answer...), next.answer...)
	}
	m.Rcode = r.rcode
	m.Authoritative = !r.forwarded && r.rcode != dns.RcodeServerFailure
	m.Answer = r.answer
	m.Ns = r.authority
	if r.negative && !r.forwarded {
		m.Ns = append(m.Ns, s.soa())
	}
	m.Extra = append(m.Extra, r.extra...)
	m.Truncate(size)
	return m
}

// resolve resolves one name, in the zone or by forwarding.
func (s *Server) resolve(ctx context.Context, name string, qtype uint16, by asker) reply {
	lower := strings.ToLower(name)
	if lower == s.domain {
		return s.answerZone(name, nil, qtype)
	}
	if rest, ok := strings.CutSuffix(lower, "."+s.domain); ok {
		return s.answerZone(name, strings.Split(rest, "."), qtype)
	}
	if a, ok := reverseAddr(lower); ok {
		if r, ours := s.answerReverse(name, a, qtype); ours {
			return r
		}
	}
	return s.forward.resolve(ctx, name, qtype, by)
}

// assign adds the address to the loopback, with host scope: the kernel never uses it as a source address by itself.
func assign(a netip.Addr) error {
	return onLoopback(func(h *netlink.Handle, lo netlink.Link) error {
		if err := h.AddrReplace(lo, hostAddr(a)); err != nil {
			return fmt.Errorf("give the loopback address %s: %w", a, err)
		}
		return h.LinkSetUp(lo)
	})
}

// Cleanup removes the address that Assign put on the loopback of the calling thread's network namespace.
func Cleanup(a netip.Addr) error {
	return onLoopback(func(h *netlink.Handle, lo netlink.Link) error {
		if err := h.AddrDel(lo, hostAddr(a)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("take address %s from the loopback: %w", a, err)
		}
		return nil
	})
}

func onLoopback(f func(*netlink.Handle, netlink.Link) error) error {
	space, err := ns.Current()
	if err != nil {
		return err
	}
	defer space.Close()
	h, err := space.Handle()
	if err != nil {
		return err
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback: %w", err)
	}
	return f(h, lo)
}

func hostAddr(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}, Scope: unix.RT_SCOPE_HOST}
}
