package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/network"
	"github.com/kontiki/kontiki/node/network/nettest"
)

// run runs a server until the test ends.
func run(t testing.TB, s *Server) {
	t.Helper()
	runCtx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- s.Run(runCtx)
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case err := <-done:
		done <- nil
		t.Fatal(err)
	case <-time.After(10 * time.Second):
		t.Fatal("the server does not listen")
	}
}

// query sends a query over the network from a machine.
func query(from *nettest.Machine, network, server, name, qtype string) (*dns.Msg, error) {
	c, err := from.Dial(network, server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	q := new(dns.Msg)
	q.SetQuestion(name, dns.StringToType[qtype])
	conn := &dns.Conn{Conn: c}
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if err := conn.WriteMsg(q); err != nil {
		return nil, err
	}
	return conn.ReadMsg()
}

func TestPodsAskTheirOwnNode(t *testing.T) {
	host := nettest.Hosts(t, "192.168.7.1/24")[0]
	var s *Server
	var n *network.Network
	err := host.Do(func() (err error) {
		s = newServer(t, "")
		s.o.Assign = true
		s.SetServices(cluster())
		n, err = network.New(network.Options{StateDir: t.TempDir(), Followers: []network.Follower{s}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Configure(ctx, netapi.NetworkConfig{
		NodeName: "a", NodeIP: netip.MustParseAddr("192.168.7.1"), PodCIDR: netip.MustParsePrefix("10.244.1.0/24"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
	}); err != nil {
		t.Fatal(err)
	}
	pod := nettest.New(t)
	if _, err := n.AddPod(ctx, netapi.PodNetwork{UID: "p", NetNS: pod.Path}); err != nil {
		t.Fatal(err)
	}
	run(t, s)
	for _, from := range []*nettest.Machine{pod, host} {
		for _, proto := range []string{"udp4", "tcp4"} { // a connected socket takes answers only from the address it asked
			m, err := query(from, proto, "10.96.0.10:53", "web.default.svc.cluster.local.", "A")
			if err != nil || rdata(m.Answer) != "A 10.96.0.1" {
				t.Errorf("%s: %v, %v", proto, m, err)
			}
		}
	}
	// Invalid messages must not stop the server.
	c, err := pod.Dial("udp4", "10.96.0.10:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, b := range [][]byte{{}, {1}, make([]byte, 11), make([]byte, 12), make([]byte, 1200)} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := query(pod, "udp4", "10.96.0.10:53", "web.default.svc.cluster.local.", "A"); err != nil || rdata(m.Answer) != "A 10.96.0.1" {
		t.Errorf("after garbage: %v, %v", m, err)
	}
	if err := host.Do(func() error { return Cleanup(netip.MustParseAddr("10.96.0.10")) }); err != nil {
		t.Error(err)
	}
	if addrs := host.Sh("ip", "-o", "addr"); strings.Contains(addrs, "10.96.0.10") {
		t.Errorf("left after Cleanup:\n%s", addrs)
	}
}

func TestWaitsForItsPort(t *testing.T) {
	host := nettest.New(t)
	var s *Server
	var taken net.PacketConn
	err := host.Do(func() (err error) {
		s = newServer(t, "")
		s.o.Address = netip.MustParseAddrPort("127.0.0.1:53")
		taken, err = net.ListenPacket("udp4", "127.0.0.1:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan struct{})
	s.log = slog.New(hook{slog.DiscardHandler, sync.OnceFunc(func() { close(refused) })})
	go func() {
		<-refused
		taken.Close()
	}()
	run(t, s)
	select {
	case <-refused:
	default:
		t.Error("listens on a port that is taken")
	}
	if m, err := query(host, "udp4", "127.0.0.1:53", "svc.cluster.local.", "A"); err != nil || m.Rcode != dns.RcodeServerFailure {
		t.Errorf("%v, %v", m, err)
	}
}

// hook receives the errors that are logged.
type hook struct {
	slog.Handler
	onError func()
}

func (h hook) Enabled(context.Context, slog.Level) bool { return true }

func (h hook) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		h.onError()
	}
	return nil
}

// upstream is a name server for tests, on a port of the loopback.
type upstream struct {
	addr  string
	asked atomic.Int64
	reply func(q *dns.Msg, tcp bool) *dns.Msg
}

func newUpstream(t testing.TB, ip string, reply func(q *dns.Msg, tcp bool) *dns.Msg) *upstream {
	t.Helper()
	u := &upstream{addr: ip + ":53", reply: reply}
	for _, network := range []string{"udp", "tcp"} {
		started := make(chan struct{})
		srv := &dns.Server{Addr: u.addr, Net: network, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			u.asked.Add(1)
			if m := u.reply(q, network == "tcp"); m != nil {
				w.WriteMsg(m)
			}
		})}
		failed := make(chan error, 1)
		go func() { failed <- srv.ListenAndServe() }()
		select {
		case <-started:
		case err := <-failed:
			t.Fatal(err)
		}
		t.Cleanup(func() { srv.Shutdown(); <-failed })
	}
	return u
}

func answerA(ip string, ttl uint32) func(q *dns.Msg, tcp bool) *dns.Msg {
	return func(q *dns.Msg, tcp bool) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(q)
		rr, err := dns.NewRR(fmt.Sprintf("%s %d IN A %s", q.Question[0].Name, ttl, ip))
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
		return m
	}
}

// loopbackUp enables name servers on 127.0.0.0/8, port 53, in the network namespace of the test binary.
func loopbackUp(t testing.TB) {
	t.Helper()
	nettest.Open(t, "/proc/thread-self/ns/net")
}

func TestForwarding(t *testing.T) {
	loopbackUp(t)
	dead := newUpstream(t, "127.0.0.2", func(q *dns.Msg, tcp bool) *dns.Msg {
		m := new(dns.Msg)
		return m.SetRcode(q, dns.RcodeServerFailure)
	})
	live := newUpstream(t, "127.0.0.3", answerA("1.2.3.4", 60))
	s := newServer(t, "nameserver 10.96.0.10\nnameserver 127.0.0.2\nnameserver 127.0.0.3\n")
	svcs, eps := cluster()
	svcs = append(svcs, service("default", "outside", "", nil))
	svcs[len(svcs)-1].Spec.Type, svcs[len(svcs)-1].Spec.ExternalName = "ExternalName", "www.example.com"
	s.SetServices(svcs, eps)

	m := ask(s, "example.com.", "A")
	if rdata(m.Answer) != "A 1.2.3.4" || m.Authoritative || m.Answer[0].Header().Ttl != 60 {
		t.Errorf("forwarded: %v", m)
	}
	if dead.asked.Load() != 1 || live.asked.Load() != 1 {
		t.Errorf("asked %d and %d times, want once each", dead.asked.Load(), live.asked.Load())
	}
	ask(s, "EXAMPLE.com.", "A")
	if live.asked.Load() != 1 {
		t.Error("a remembered name was asked for again")
	}
	ask(s, "example.org.", "A")
	if dead.asked.Load() != 1 || live.asked.Load() != 2 {
		t.Errorf("asked %d and %d times; want the one that answered last to be asked first", dead.asked.Load(), live.asked.Load())
	}
	if m := ask(s, "outside.default.svc.cluster.local.", "A"); rdata(m.Answer) != "A 1.2.3.4; CNAME www.example.com." || m.Rcode != dns.RcodeSuccess {
		t.Errorf("ExternalName: %v", m)
	}
	asked := live.asked.Load()
	if m := ask(s, "nobody.default.svc.cluster.local.", "A"); m.Rcode != dns.RcodeNameError || live.asked.Load() != asked {
		t.Error("a name of the zone went to a nameserver")
	}
	if m := ask(s, "9.9.96.10.in-addr.arpa.", "PTR"); m.Rcode != dns.RcodeNameError || live.asked.Load() != asked {
		t.Error("an address of the cluster went to a nameserver")
	}
}

func TestForwardingOfLongAnswers(t *testing.T) {
	loopbackUp(t)
	newUpstream(t, "127.0.0.2", func(q *dns.Msg, tcp bool) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(q)
		for i := range 150 {
			rr, err := dns.NewRR(fmt.Sprintf("%s 60 IN A 10.9.8.%d", q.Question[0].Name, i))
			if err != nil {
				panic(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		if !tcp {
			m.Truncate(512)
		}
		return m
	})
	s := newServer(t, "nameserver 127.0.0.2\n")
	q := new(dns.Msg)
	q.SetQuestion("long.example.com.", dns.TypeA)
	if m := s.respond(ctx, q, asker{tcp: false}); !m.Truncated || len(m.Answer) == 0 {
		t.Errorf("by UDP: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
	if m := s.respond(ctx, q, asker{tcp: true}); m.Truncated || len(m.Answer) != 150 {
		t.Errorf("by TCP: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
}

func TestResolvConfChanges(t *testing.T) {
	loopbackUp(t)
	newUpstream(t, "127.0.0.2", answerA("2.2.2.2", 0))
	newUpstream(t, "127.0.0.3", answerA("3.3.3.3", 0))
	s := newServer(t, "nameserver 127.0.0.2\n")
	if got := rdata(ask(s, "example.com.", "A").Answer); got != "A 2.2.2.2" {
		t.Errorf("at first: %q", got)
	}
	for _, step := range []struct{ conf, want string }{{"nameserver 127.0.0.3 # moved\n", "A 3.3.3.3"}, {"", ""}} {
		if err := os.WriteFile(s.forward.path, []byte(step.conf), 0o600); err != nil {
			t.Fatal(err)
		}
		s.forward.mu.Lock()
		s.forward.checked = time.Time{} // as if the last look were long ago
		s.forward.mu.Unlock()
		if got := rdata(ask(s, "example.com.", "A").Answer); got != step.want {
			t.Errorf("with %q: %q, want %q", step.conf, got, step.want)
		}
	}
}

func TestNoNameserverFailsAtOnce(t *testing.T) {
	s := newServer(t, "")
	s.forward.path = filepath.Join(t.TempDir(), "missing")
	if m := ask(s, "example.com.", "A"); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("%s", dns.RcodeToString[m.Rcode])
	}
}

func TestCache(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCache(4)
	c.now = func() time.Time { return now }
	a := func(ttl uint32) reply {
		return reply{answer: []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "x.", Rrtype: dns.TypeA, Ttl: ttl}}}}
	}
	soa := []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Ttl: 900}, Minttl: 900}}
	for i, step := range []struct {
		name  string
		put   reply
		after time.Duration
		ttl   uint32
		ok    bool
	}{
		{"fresh", a(10), 4 * time.Second, 6, true},
		{"over", a(10), 10 * time.Second, 0, false},
		{"long, still there", a(3600), 29 * time.Second, 3571, true},
		{"long, cut", a(3600), 30 * time.Second, 0, false},
		{"zero", a(0), 0, 0, false},
		{"denied, still there", reply{rcode: dns.RcodeNameError, authority: soa}, 4 * time.Second, 0, true},
		{"denied, over", reply{rcode: dns.RcodeNameError, authority: soa}, 5 * time.Second, 0, false},
		{"denied without a SOA", reply{rcode: dns.RcodeNameError}, 0, 0, false},
		{"failure", reply{rcode: dns.RcodeServerFailure}, 0, 0, false},
	} {
		k := cacheKey{fmt.Sprint(i), dns.TypeA}
		c.put(k, step.put)
		now = now.Add(step.after)
		r, ok := c.get(k)
		if ok != step.ok || len(r.answer) > 0 && r.answer[0].Header().Ttl != step.ttl {
			t.Errorf("%s: %v %v, want %v with %d s", step.name, ok, r.answer, step.ok, step.ttl)
		}
	}
	for i := range 100 {
		c.put(cacheKey{fmt.Sprint("n", i), dns.TypeA}, a(30))
		if len(c.m) > 4 {
			t.Fatalf("%d entries, want at most 4", len(c.m))
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	s := newServer(t, "")
	svcs, eps := cluster()
	s.SetServices(svcs, eps)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if got := rdata(ask(s, "web.default.svc.cluster.local.", "A").Answer); got != "A 10.96.0.1" {
					t.Errorf("answer %q", got)
					return
				}
				ask(s, "2.1.244.10.in-addr.arpa.", "PTR")
			}
		})
	}
	for i := range 200 {
		eps[1] = slice("default", "db", host{fmt.Sprintf("10.244.1.%d", i), "db-0", true})
		s.SetServices(svcs, append(eps[:0:0], eps...))
	}
	close(stop)
	wg.Wait()
}

// BenchmarkQueries counts responses over UDP, with many clients on the loopback and 1,000 services.
func BenchmarkQueries(b *testing.B) {
	loopbackUp(b)
	m := nettest.Open(b, "/proc/thread-self/ns/net")
	s := newServer(b, "")
	s.o.Address = netip.MustParseAddrPort("127.0.0.1:5353")
	svcs, eps := cluster()
	for i := range 1000 {
		svcs = append(svcs, service("default", fmt.Sprintf("s%d", i), fmt.Sprintf("10.96.%d.%d", 1+i/250, i%250), nil))
	}
	s.SetServices(svcs, eps)
	run(b, s)
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		c, err := m.Dial("udp4", "127.0.0.1:5353")
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		conn := &dns.Conn{Conn: c}
		q := new(dns.Msg)
		q.SetQuestion("s500.default.svc.cluster.local.", dns.TypeA)
		for pb.Next() {
			if err := conn.WriteMsg(q); err != nil {
				b.Error(err)
				return
			}
			if m, err := conn.ReadMsg(); err != nil || len(m.Answer) != 1 {
				b.Error(m, err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
}
