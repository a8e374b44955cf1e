package consensus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kontiki/kontiki/cluster/mtls"
)

// simNet is an in-memory network that transmits whole calls: no bytes, no connections. Links between two hosts have a direction
// each. On a link that is cut a call waits, as with TCP, until the link is restored or the caller gives up; a call that was given
// up may still arrive.
type simNet struct {
	mu      sync.Mutex
	rand    *rand.Rand
	delay   time.Duration // each message takes up to this
	cut     map[[2]string]bool
	stuck   map[[2]string]bool  // cut as well, but the connections that are there still look well
	hosts   map[string]*simHost // who is up, by address
	dark    map[string]bool     // addresses that lost power: nothing there refuses a connection
	late    int                 // calls that arrived though their caller had given up
	held    int                 // messages that came to a link that was cut
	lagged  int                 // messages that took longer than on a network that is well
	changed chan struct{}
}

const simDelay = 2 * time.Millisecond

func newSimNet(seed int64) *simNet {
	return &simNet{
		rand: rand.New(rand.NewSource(seed)), delay: simDelay, cut: map[[2]string]bool{}, stuck: map[[2]string]bool{}, hosts: map[string]*simHost{},
		dark: map[string]bool{}, changed: make(chan struct{}),
	}
}

var (
	errSimGivenUp = errors.New("the call was given up")
	errSimReset   = fmt.Errorf("the other end is gone: %w", syscall.ECONNRESET)
)

// change changes the network, and wakes the goroutines that wait for a change.
func (n *simNet) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *simNet) link(from, to string, cut bool) {
	n.change(func() { n.cut[[2]string{from, to}] = cut })
}

func (n *simNet) stick(from, to string) { n.change(func() { n.stuck[[2]string{from, to}] = true }) }

func (n *simNet) mend() { n.change(func() { clear(n.cut); clear(n.stuck); n.delay = simDelay }) }

func (n *simNet) slow(delay time.Duration) { n.change(func() { n.delay = delay }) }

func (n *simNet) coin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rand.Intn(2) == 0
}

// heldUp counts messages on links that were cut.
func (n *simNet) heldUp() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held
}

// slowed counts messages that took longer than on a healthy network.
func (n *simNet) slowed() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lagged
}

// simPatience is when a waiting caller gives up.
type simPatience struct {
	timeout <-chan time.Time
	abort   <-chan struct{}
	own     <-chan struct{} // this end is gone
}

// cross transmits a message over a link.
func (n *simNet) cross(from, to string, p simPatience) error {
	n.mu.Lock()
	latency := time.Duration(n.rand.Int63n(int64(n.delay) + 1))
	if latency > simDelay {
		n.lagged++
	}
	n.mu.Unlock()
	time.Sleep(latency)
	for first := true; ; first = false {
		n.mu.Lock()
		cut, changed := n.cut[[2]string{from, to}] || n.stuck[[2]string{from, to}], n.changed
		if cut && first {
			n.held++
		}
		n.mu.Unlock()
		if !cut {
			return nil
		}
		select {
		case <-changed:
		case <-p.timeout:
			return errSimGivenUp
		case <-p.abort:
			return errSimGivenUp
		case <-p.own:
			return errSimReset
		}
	}
}

// dial returns the host that is up at an address.
func (n *simNet) dial(address string, p simPatience) (*simHost, error) {
	for {
		n.mu.Lock()
		host, dark, changed := n.hosts[address], n.dark[address], n.changed
		n.mu.Unlock()
		switch {
		case host != nil:
			return host, nil
		case !dark:
			return nil, syscall.ECONNREFUSED
		}
		select {
		case <-changed:
		case <-p.timeout:
			return nil, errSimGivenUp
		case <-p.abort:
			return nil, errSimGivenUp
		case <-p.own:
			return nil, errSimReset
		}
	}
}

// simHost is one life of a master's machine on the network.
type simHost struct {
	net           *simNet
	name, address string
	gone          chan struct{}
	wire          *simWire
	methods       map[string]simMethod
}

type simMethod struct {
	server any
	handle grpc.MethodHandler
}

// host creates a host, which may call others, and be called once it has entered.
func (n *simNet) host(name, address string, transport time.Duration) *simHost {
	h := &simHost{net: n, name: name, address: address, gone: make(chan struct{}), methods: map[string]simMethod{}}
	h.wire = newSimWire(h, transport)
	return h
}

func (h *simHost) enter() {
	h.net.change(func() { h.net.hosts[h.address] = h; delete(h.net.dark, h.address) })
}

// leave ends a host: nothing is sent from it or delivered to it any more. Its callers notice that at once, unless power was lost.
func (h *simHost) leave(power bool) {
	h.net.change(func() {
		if h.net.hosts[h.address] == h {
			delete(h.net.hosts, h.address)
			h.net.dark[h.address] = power
		}
	})
	close(h.gone)
}

func (h *simHost) isGone() bool {
	select {
	case <-h.gone:
		return true
	default:
		return false
	}
}

// lost is the error of a caller whose peer has ended: at once if the machine's kernel still runs, after a while if not.
func (h *simHost) lost(p simPatience) error {
	_, err := h.net.dial(h.address, p) // returns once the address refuses or somebody new is there
	if err != nil {
		return err
	}
	return errSimReset
}

// RegisterService implements grpc.ServiceRegistrar.
func (h *simHost) RegisterService(desc *grpc.ServiceDesc, server any) {
	for _, m := range desc.Methods {
		h.methods["/"+desc.ServiceName+"/"+m.MethodName] = simMethod{server, m.Handler}
	}
}

// lines creates lines from this host to others.
func (h *simHost) lines(address string) (mtls.Line, error) { return simLine{h, address}, nil }

// simLine is a line to a master's gRPC services.
type simLine struct {
	from *simHost
	to   string
}

func (l simLine) Close() error { return nil }

func (l simLine) Up(ctx context.Context) error {
	n := l.from.net
	for {
		n.mu.Lock()
		reached := n.hosts[l.to] != nil && !n.cut[[2]string{l.from.address, l.to}] && !n.cut[[2]string{l.to, l.from.address}]
		changed := n.changed
		n.mu.Unlock()
		if reached && !l.from.isGone() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l simLine) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "the simulated network has no streams")
}

func (l simLine) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	p := simPatience{abort: ctx.Done(), own: l.from.gone}
	unavailable := func(err error) error {
		if ctx.Err() != nil {
			return status.FromContextError(ctx.Err()).Err()
		}
		return status.Error(codes.Unavailable, err.Error())
	}
	if l.from.isGone() {
		return unavailable(errSimReset)
	}
	to, err := l.from.net.dial(l.to, p)
	if err != nil {
		return unavailable(err)
	}
	request := proto.Clone(args.(proto.Message))
	if err := l.from.net.cross(l.from.address, l.to, p); err != nil {
		if l.from.net.coin() {
			go l.deliverLate(to, method, request)
		}
		return unavailable(err)
	}
	type answer struct {
		reply any
		err   error
	}
	answers := make(chan answer, 1)
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		reply, err := to.serve(serving, l.from, method, request)
		answers <- answer{reply, err}
	}()
	select {
	case a := <-answers:
		if to.isGone() {
			return unavailable(to.lost(p))
		}
		if err := l.from.net.cross(l.to, l.from.address, p); err != nil {
			return unavailable(err)
		}
		if a.err != nil {
			return status.Convert(a.err).Err()
		}
		proto.Merge(reply.(proto.Message), a.reply.(proto.Message))
		return nil
	case <-ctx.Done():
		return unavailable(ctx.Err())
	case <-to.gone:
		return unavailable(to.lost(p))
	case <-l.from.gone:
		return unavailable(errSimReset)
	}
}

// lateCalls is the number of calls that arrived after their callers had given up.
func (n *simNet) lateCalls() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.late
}

// deliverLate delivers a call that was given up, once the link is restored.
func (l simLine) deliverLate(to *simHost, method string, request proto.Message) {
	if l.from.net.cross(l.from.address, l.to, simPatience{abort: to.gone, own: l.from.gone}) != nil {
		return
	}
	l.from.net.change(func() { l.from.net.late++ })
	ctx, cancel := context.WithTimeout(context.Background(), attemptBound)
	defer cancel()
	_, _ = to.serve(ctx, l.from, method, request) // nobody is left to hear
}

// serve runs a handler on a host, no longer than the host lives.
func (h *simHost) serve(ctx context.Context, from *simHost, method string, request proto.Message) (any, error) {
	m, ok := h.methods[method]
	if !ok {
		return nil, status.Errorf(codes.Unimplemented, "%s is not simulated", method)
	}
	ctx, cancel := context.WithCancel(peer.NewContext(ctx, &peer.Peer{AuthInfo: mtls.AuthInfo(mtls.Peer{Name: from.name, Role: mtls.RoleMaster})}))
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-h.gone:
			cancel()
		case <-ended:
		}
	}()
	return m.handle(m.server, ctx, func(into any) error {
		proto.Merge(into.(proto.Message), request)
		return nil
	}, nil)
}

// simHalves is a stream whose second half crosses the network after the first has been read.
type simHalves struct {
	first, second *bytes.Reader
	cross         func() error
}

func newSimHalves(data []byte, cross func() error) *simHalves {
	return &simHalves{bytes.NewReader(data[:len(data)/2]), bytes.NewReader(data[len(data)/2:]), cross}
}

func (s *simHalves) Read(p []byte) (int, error) {
	n, err := s.first.Read(p)
	if err != io.EOF {
		return n, err
	}
	if s.cross != nil {
		if err := s.cross(); err != nil {
			return 0, err
		}
		s.cross = nil
	}
	return s.second.Read(p)
}
