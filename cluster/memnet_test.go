package cluster

import (
	"context"
	"errors"
	"io"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

// memNet is a network in memory, whose time is that of the test, so that it may be virtual. Each host is an address. Links
// between two hosts have a direction each; a link that is cut delivers nothing until it is mended: packets are lost, and
// what streams carry waits, as with TCP, until deadlines give up.
type memNet struct {
	mu        sync.Mutex
	rand      *rand.Rand
	delay     time.Duration // each delivery takes up to this
	listeners map[string]*memListener
	gossips   map[string]*memGossip
	cut       map[[2]string]bool // from, to
	streams   map[*memPipe]struct{}
	held      int // what came to a link that was cut: connections, packets, pieces of streams each time that somebody looks for them
	slow      int // deliveries that took longer than on a network that is well
}

const memDelay = 2 * time.Millisecond

func newMemNet(seed int64) *memNet {
	return &memNet{
		rand: rand.New(rand.NewSource(seed)), delay: memDelay, listeners: map[string]*memListener{}, gossips: map[string]*memGossip{},
		cut: map[[2]string]bool{}, streams: map[*memPipe]struct{}{},
	}
}

// host is the network as one host has it.
func (n *memNet) host(ip string) memHost { return memHost{n, ip} }

// link cuts or mends one direction between two hosts.
func (n *memNet) link(from, to string, cut bool) {
	n.mu.Lock()
	n.cut[[2]string{from, to}] = cut
	var wake []*memPipe
	for p := range n.streams {
		wake = append(wake, p)
	}
	n.mu.Unlock()
	for _, p := range wake {
		p.wake()
	}
}

// mend mends all links.
func (n *memNet) mend() {
	n.mu.Lock()
	clear(n.cut)
	var wake []*memPipe
	for p := range n.streams {
		wake = append(wake, p)
	}
	n.mu.Unlock()
	for _, p := range wake {
		p.wake()
	}
}

func (n *memNet) isCut(from, to string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut[[2]string{from, to}]
}

// holds says whether a link is cut that something is to go over.
func (n *memNet) holds(from, to string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[[2]string{from, to}] {
		n.held++
		return true
	}
	return false
}

// suffered answers what was held up by cut links so far, and what was slow.
func (n *memNet) suffered() (held, slow int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held, n.slow
}

func (n *memNet) setDelay(delay time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay = delay
}

func (n *memNet) latency() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	latency := time.Duration(n.rand.Int63n(int64(n.delay) + 1))
	if latency > memDelay {
		n.slow++
	}
	return latency
}

type memHost struct {
	net *memNet
	ip  string
}

type memAddr string

func (memAddr) Network() string  { return "tcp" }
func (a memAddr) String() string { return string(a) }

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		panic(err)
	}
	return host
}

func (h memHost) Listen(address string) (net.Listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.net.listeners[address] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: syscall.EADDRINUSE}
	}
	l := &memListener{net: h.net, address: address, queue: make(chan net.Conn, 64), done: make(chan struct{})}
	h.net.listeners[address] = l
	return l, nil
}

func (h memHost) Dial(ctx context.Context, address string) (net.Conn, error) {
	to := hostOf(address)
	for h.net.holds(h.ip, to) || h.net.holds(to, h.ip) { // a lost handshake is tried again
		timer := time.NewTimer(100 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
		case <-timer.C:
		}
	}
	h.net.mu.Lock()
	l := h.net.listeners[address]
	h.net.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: memAddr(address), Err: syscall.ECONNREFUSED}
	if l == nil {
		return nil, refused
	}
	near, far := h.net.stream(h.ip, to, memAddr(h.ip+":0"), memAddr(address))
	select {
	case l.queue <- far:
		return near, nil
	case <-l.done:
		near.Close()
		far.Close()
		return nil, refused
	case <-ctx.Done():
		near.Close()
		far.Close()
		return nil, ctx.Err()
	}
}

type memListener struct {
	net     *memNet
	address string
	queue   chan net.Conn
	once    sync.Once
	done    chan struct{}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.net.mu.Lock()
		delete(l.net.listeners, l.address)
		l.net.mu.Unlock()
		for {
			select {
			case c := <-l.queue:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

func (l *memListener) Addr() net.Addr { return memAddr(l.address) }

// stream makes both ends of a connection.
func (n *memNet) stream(a, b string, aAddr, bAddr net.Addr) (near, far *memConn) {
	there, back := newMemPipe(n, a, b), newMemPipe(n, b, a)
	n.mu.Lock()
	n.streams[there], n.streams[back] = struct{}{}, struct{}{}
	n.mu.Unlock()
	return &memConn{in: back, out: there, local: aAddr, remote: bAddr}, &memConn{in: there, out: back, local: bAddr, remote: aAddr}
}

// memPipe is one direction of a connection.
type memPipe struct {
	net      *memNet
	from, to string

	mu       sync.Mutex
	changed  *sync.Cond
	pieces   []memPiece
	size     int
	last     time.Time // the last delivery: none overtakes another
	ended    bool      // by the writer: what was written is still read
	broken   bool      // by the reader
	deadline [2]time.Time
	timers   [2]*time.Timer
}

type memPiece struct {
	data []byte
	at   time.Time
}

const memWindow = 1 << 20

func newMemPipe(n *memNet, from, to string) *memPipe {
	p := &memPipe{net: n, from: from, to: to}
	p.changed = sync.NewCond(&p.mu)
	return p
}

func (p *memPipe) wake() {
	p.mu.Lock()
	p.changed.Broadcast()
	p.mu.Unlock()
}

const readEnd, writeEnd = 0, 1

func (p *memPipe) setDeadline(end int, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline[end] = t
	if p.timers[end] != nil {
		p.timers[end].Stop()
		p.timers[end] = nil
	}
	if !t.IsZero() {
		p.timers[end] = time.AfterFunc(time.Until(t), p.wake)
	}
	p.changed.Broadcast()
}

func (p *memPipe) late(end int) bool {
	return !p.deadline[end].IsZero() && !time.Now().Before(p.deadline[end])
}

func (p *memPipe) write(b []byte) (int, error) {
	delay := p.net.latency()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.size > memWindow && !p.ended && !p.broken && !p.late(writeEnd) {
		p.changed.Wait()
	}
	switch {
	case p.ended:
		return 0, net.ErrClosed
	case p.broken:
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
	case p.late(writeEnd):
		return 0, os.ErrDeadlineExceeded
	}
	at := time.Now().Add(delay)
	if at.Before(p.last) {
		at = p.last
	}
	p.last = at
	p.pieces = append(p.pieces, memPiece{append([]byte(nil), b...), at})
	p.size += len(b)
	time.AfterFunc(time.Until(at), p.wake)
	return len(b), nil
}

func (p *memPipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		cut := len(p.pieces) > 0 && p.net.holds(p.from, p.to) || p.net.isCut(p.from, p.to)
		switch {
		case p.broken:
			return 0, net.ErrClosed
		case !cut && len(p.pieces) > 0 && !time.Now().Before(p.pieces[0].at):
			n := copy(b, p.pieces[0].data)
			if p.pieces[0].data = p.pieces[0].data[n:]; len(p.pieces[0].data) == 0 {
				p.pieces = p.pieces[1:]
			}
			p.size -= n
			p.changed.Broadcast()
			return n, nil
		case !cut && p.ended && len(p.pieces) == 0:
			return 0, io.EOF
		case p.late(readEnd):
			return 0, os.ErrDeadlineExceeded
		}
		p.changed.Wait()
	}
}

func (p *memPipe) end() {
	p.mu.Lock()
	p.ended = true
	p.changed.Broadcast()
	p.mu.Unlock()
}

func (p *memPipe) breakOff() {
	p.mu.Lock()
	p.broken = true
	for _, t := range p.timers {
		if t != nil {
			t.Stop()
		}
	}
	p.changed.Broadcast()
	p.mu.Unlock()
	p.net.mu.Lock()
	delete(p.net.streams, p)
	p.net.mu.Unlock()
}

type memConn struct {
	in, out       *memPipe
	local, remote net.Addr
}

func (c *memConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *memConn) Write(b []byte) (int, error) { return c.out.write(b) }
func (c *memConn) Close() error {
	c.in.breakOff()
	c.out.end()
	return nil
}
func (c *memConn) LocalAddr() net.Addr  { return c.local }
func (c *memConn) RemoteAddr() net.Addr { return c.remote }
func (c *memConn) SetDeadline(t time.Time) error {
	c.in.setDeadline(readEnd, t)
	c.out.setDeadline(writeEnd, t)
	return nil
}
func (c *memConn) SetReadDeadline(t time.Time) error  { c.in.setDeadline(readEnd, t); return nil }
func (c *memConn) SetWriteDeadline(t time.Time) error { c.out.setDeadline(writeEnd, t); return nil }

// memGossip is a host's transport of gossip.
type memGossip struct {
	net     *memNet
	address string
	packets chan *memberlist.Packet
	conns   chan net.Conn
	once    sync.Once
	done    chan struct{}
}

func (h memHost) Gossip(address string) (memberlist.Transport, error) {
	g := &memGossip{net: h.net, address: address, packets: make(chan *memberlist.Packet, 256), conns: make(chan net.Conn, 16), done: make(chan struct{})}
	h.net.mu.Lock()
	h.net.gossips[address] = g
	h.net.mu.Unlock()
	return g, nil
}

func (g *memGossip) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	address, err := netip.ParseAddrPort(g.address)
	return net.IP(address.Addr().AsSlice()), int(address.Port()), err
}

func (g *memGossip) peer(address string) *memGossip {
	g.net.mu.Lock()
	defer g.net.mu.Unlock()
	if g.net.cut[[2]string{hostOf(g.address), hostOf(address)}] {
		g.net.held++
		return nil
	}
	return g.net.gossips[address]
}

func (g *memGossip) WriteTo(b []byte, address string) (time.Time, error) {
	now := time.Now()
	if peer := g.peer(address); peer != nil {
		select {
		case peer.packets <- &memberlist.Packet{Buf: append([]byte(nil), b...), From: memAddr(g.address), Timestamp: now}:
		default: // lost
		}
	}
	return now, nil
}

func (g *memGossip) PacketCh() <-chan *memberlist.Packet { return g.packets }
func (g *memGossip) StreamCh() <-chan net.Conn           { return g.conns }

func (g *memGossip) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	peer := g.peer(address)
	if peer == nil {
		<-deadline.C
		return nil, errors.New("gossip: timed out")
	}
	near, far := g.net.stream(hostOf(g.address), hostOf(address), memAddr(g.address), memAddr(address))
	select {
	case peer.conns <- far:
		return near, nil
	case <-peer.done:
	case <-deadline.C:
	}
	near.Close()
	far.Close()
	return nil, errors.New("gossip: refused")
}

func (g *memGossip) Shutdown() error {
	g.once.Do(func() {
		close(g.done)
		g.net.mu.Lock()
		if g.net.gossips[g.address] == g {
			delete(g.net.gossips, g.address)
		}
		g.net.mu.Unlock()
	})
	return nil
}
