package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/network/nettest"
)

func TestDeadZoneOfOneClientLeavesPlacesToOthers(t *testing.T) {
	loopbackUp(t)
	waiting := make(chan struct{}, forwardLimit)
	live := answerA("1.2.3.4", 60)
	newUpstream(t, "127.0.0.2", func(q *dns.Msg, tcp bool) *dns.Msg {
		if strings.HasSuffix(q.Question[0].Name, "dead.example.") {
			waiting <- struct{}{}
			return nil
		}
		return live(q, tcp)
	})
	s := newServer(t, "nameserver 127.0.0.2\n")
	floodCtx, stop := context.WithCancel(ctx)
	answered := make(chan string, forwardLimit)
	asking := 0
	flood := func(client string, n int) {
		for range n {
			asking++
			q := new(dns.Msg)
			q.SetQuestion(fmt.Sprintf("%d.dead.example.", asking), dns.TypeA)
			go func() {
				s.respond(floodCtx, q, asker{client: netip.MustParseAddr(client)})
				answered <- client
			}()
			<-waiting
		}
	}
	defer func() {
		stop()
		for ; asking > 0; asking-- {
			<-answered
		}
	}()
	asks := func(client, name string) *dns.Msg {
		q := new(dns.Msg)
		q.SetQuestion(name, dns.TypeA)
		return s.respond(ctx, q, asker{client: netip.MustParseAddr(client)})
	}

	flood("10.244.1.2", forwardClient)
	if m := asks("10.244.1.2", "one-more.example."); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("a client with %d questions on their way got %s", forwardClient, dns.RcodeToString[m.Rcode])
	}
	if m := asks("10.244.1.3", "live.example."); rdata(m.Answer) != "A 1.2.3.4" {
		t.Errorf("another client got %v", m)
	}

	// Several such clients take all places; the one with the most places loses one.
	s.forward.places.total = forwardClient + 3
	flood("10.244.1.4", 3)
	if m := asks("10.244.1.5", "alive.example."); rdata(m.Answer) != "A 1.2.3.4" {
		t.Errorf("with all places taken, a client that has none got %v", m)
	}
	if loser := <-answered; loser != "10.244.1.2" {
		t.Errorf("%s lost its place, want the client that has most", loser)
	}
	asking--
}

func TestTCPConnectionsAreShared(t *testing.T) {
	host := nettest.New(t)
	var s *Server
	if err := host.Do(func() error {
		s = newServer(t, "")
		s.o.Address = netip.MustParseAddrPort("127.0.0.1:53")
		s.tcp = newShares(4, 2)
		s.SetServices(cluster())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	run(t, s)
	dial := func(client string) *dns.Conn {
		c, err := host.DialTCPFrom(client, "127.0.0.1:53")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(tcpTimeout - time.Second)) // sooner than the server's own deadlines
		return &dns.Conn{Conn: c}
	}
	asks := func(c *dns.Conn) error {
		q := new(dns.Msg)
		q.SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
		if err := c.WriteMsg(q); err != nil {
			return err
		}
		m, err := c.ReadMsg()
		if err == nil && rdata(m.Answer) != "A 10.96.0.1" {
			err = fmt.Errorf("answer %v", m)
		}
		return err
	}
	closed := func(c *dns.Conn) bool {
		_, err := c.Read(make([]byte, 1))
		return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET)
	}

	greedy := []*dns.Conn{dial("127.0.0.2"), dial("127.0.0.2")}
	for _, c := range greedy {
		if err := asks(c); err != nil {
			t.Fatal(err)
		}
	}
	if c := dial("127.0.0.2"); !closed(c) {
		t.Error("a client has more connections than its share")
	}
	for range 2 {
		if err := asks(dial("127.0.0.3")); err != nil {
			t.Fatal(err)
		}
	}
	if err := asks(dial("127.0.0.4")); err != nil {
		t.Errorf("with all places taken, a client that has none: %v", err)
	}
	// A closed connection makes room.
	for _, c := range greedy {
		c.Close()
	}
	for {
		s.tcp.mu.Lock()
		left := len(s.tcp.held[netip.MustParseAddr("127.0.0.2")])
		s.tcp.mu.Unlock()
		if left == 0 {
			break
		}
		time.Sleep(time.Millisecond) // the server notices by itself
	}
	if err := asks(dial("127.0.0.2")); err != nil {
		t.Errorf("after its connections were closed: %v", err)
	}
}

func TestClientThatNeverReadsIsLeft(t *testing.T) {
	server, client := net.Pipe()
	defer client.Close()
	c := &fairConn{Conn: server, free: func() {}, writeTimeout: time.Millisecond}
	defer c.Close()
	if _, err := c.Write([]byte("answer")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write to a client that does not read: %v", err)
	}
}
