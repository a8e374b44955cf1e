// Package hold keeps TCP connections to services that have no endpoints, until there is one, and then passes their bytes on.
//
// The proxy's rules send such connections to a listener of the node. The kernel knows at which address of a service each began
// (SO_ORIGINAL_DST). While connections to a service wait, one goroutine reports that its workload is wanted. As soon as the service has a
// ready endpoint, the node connects to it and carries the connection until it ends; later connections go to endpoints directly.
//
// What a connection costs is bounded: connections of one client, of one service and of the node are limited in number, and those that wait
// also in time. One beyond a limit, or whose service cannot be woken, is reset. Nothing is read from a connection that waits.
package hold

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/internal/pause"
)

// Limits are of connections that wait or are carried.
type Limits struct {
	// Node, Service and Client are how many connections there may be in all, to one service, and from one address.
	Node, Service, Client int
	// Patience is how long a connection waits for an endpoint.
	Patience time.Duration
}

// DefaultLimits leave most of a process's descriptors (two a connection) to others.
var DefaultLimits = Limits{Node: 1024, Service: 512, Client: 128, Patience: 2 * time.Minute}

const (
	// remind is after how long a workload is reported as wanted again: somebody may have scaled it to zero meanwhile.
	remind = 5 * time.Second
	// firstRetry and lastRetry are the pauses after a report that failed, and after a connection to an endpoint that failed.
	firstRetry, lastRetry = 100 * time.Millisecond, 5 * time.Second
	// dialTimeout limits a connection to an endpoint.
	dialTimeout = 5 * time.Second
)

// ErrRefused is the error of a Wake that another attempt would not change.
var ErrRefused = errors.New("the workload cannot be woken")

// Port is a port of a service whose connections may wait.
type Port struct {
	Service types.NamespacedName
	// Endpoints are the addresses to which connections go; none while they wait.
	Endpoints []netip.AddrPort
}

// Config has what a Holder works with.
type Config struct {
	Limits Limits
	// Wake reports that connections to a service wait. Calling it again has no further effect. ErrRefused ends the connections.
	Wake func(ctx context.Context, service types.NamespacedName) error
	// Dial connects to an endpoint.
	Dial func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error)
	// Destination returns the address to which the client connected; nil asks the kernel.
	Destination func(*net.TCPConn) (netip.AddrPort, error)
	// Held is told of connections that begin (1) and end (-1) to be held or carried, and Reset of those that are reset instead of carried; nil
	// for nobody.
	Held  func(by int)
	Reset func()
	Log   *slog.Logger
}

// Holder holds connections of one listener. Its methods are safe for concurrent use.
type Holder struct {
	c        Config
	listener *net.TCPListener
	stop     context.CancelFunc
	done     sync.WaitGroup
	changed  broadcast.Signal // of ports

	mu       sync.Mutex
	ports    map[netip.AddrPort]Port
	services map[types.NamespacedName]int
	clients  map[netip.Addr]int
	all      int
	rousers  map[types.NamespacedName]*rouser
}

// rouser reports for the connections that wait for a service.
type rouser struct {
	waiting int
	refused chan struct{} // closed when the workload cannot be woken, after err was set
	err     error
	stop    context.CancelFunc
}

// Start serves the listener until Close.
func Start(l *net.TCPListener, c Config) *Holder {
	if c.Destination == nil {
		c.Destination = original
	}
	if c.Held == nil {
		c.Held = func(int) {}
	}
	if c.Reset == nil {
		c.Reset = func() {}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	ctx, stop := context.WithCancel(context.Background())
	h := &Holder{c: c, listener: l, stop: stop, services: map[types.NamespacedName]int{}, clients: map[netip.Addr]int{}, rousers: map[types.NamespacedName]*rouser{}}
	h.done.Go(func() { h.accept(ctx) })
	return h
}

// Addr returns the listener's address.
func (h *Holder) Addr() netip.AddrPort { return h.listener.Addr().(*net.TCPAddr).AddrPort() }

// Set replaces what is known of the ports, by their addresses; an invalid address stands for every address of the node. The map must not be
// changed afterwards.
func (h *Holder) Set(ports map[netip.AddrPort]Port) {
	h.mu.Lock()
	h.ports = ports
	h.mu.Unlock()
	h.changed.Tell()
}

// Close ends all connections and waits for them.
func (h *Holder) Close() {
	h.stop()
	h.listener.Close()
	h.done.Wait()
}

func (h *Holder) accept(ctx context.Context) {
	retry := firstRetry
	for ctx.Err() == nil {
		conn, err := h.listener.AcceptTCP()
		if err != nil {
			if ctx.Err() == nil {
				h.c.Log.Warn("accept a connection to a service without endpoints", "err", err)
				pause.For(ctx, retry) // descriptors may have run out
				retry = min(2*retry, lastRetry)
			}
			continue
		}
		retry = firstRetry
		release, err := h.admit(conn)
		if err != nil {
			h.c.Log.Debug("connection refused", "client", conn.RemoteAddr(), "err", err)
			h.refuse(conn)
			continue
		}
		h.done.Go(func() {
			defer release()
			h.serve(ctx, conn)
		})
	}
}

// admit counts a connection, if that exceeds no limit.
func (h *Holder) admit(conn *net.TCPConn) (release func(), err error) {
	client := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.all >= h.c.Limits.Node:
		return nil, fmt.Errorf("%d connections wait or are carried on this node", h.all)
	case h.clients[client] >= h.c.Limits.Client:
		return nil, fmt.Errorf("%d connections of this client wait or are carried", h.clients[client])
	}
	h.all++
	h.clients[client]++
	h.c.Held(1)
	return func() {
		h.c.Held(-1)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.all--
		if h.clients[client]--; h.clients[client] == 0 {
			delete(h.clients, client)
		}
	}, nil
}

func (h *Holder) serve(ctx context.Context, conn *net.TCPConn) {
	to, err := h.c.Destination(conn)
	if err != nil {
		h.refuse(conn)
		return
	}
	port, ok := h.port(to)
	if !ok || !h.enter(port.Service) {
		h.refuse(conn)
		return
	}
	defer h.leave(port.Service)
	endpoint, err := h.await(ctx, conn, to)
	if err != nil {
		h.c.Log.Debug("connection that waited is reset", "service", port.Service, "client", conn.RemoteAddr(), "err", err)
		h.refuse(conn)
		return
	}
	carry(ctx, conn, endpoint)
}

func (h *Holder) enter(service types.NamespacedName) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.services[service] >= h.c.Limits.Service {
		return false
	}
	h.services[service]++
	return true
}

func (h *Holder) leave(service types.NamespacedName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.services[service]--; h.services[service] == 0 {
		delete(h.services, service)
	}
}

// port returns the port at an address.
func (h *Holder) port(to netip.AddrPort) (Port, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p, ok := h.ports[to]; ok {
		return p, true
	}
	p, ok := h.ports[netip.AddrPortFrom(netip.Addr{}, to.Port())]
	return p, ok
}

// await returns a connection to an endpoint as soon as there is one.
func (h *Holder) await(ctx context.Context, client *net.TCPConn, to netip.AddrPort) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, h.c.Limits.Patience, fmt.Errorf("no endpoint was ready within %s", h.c.Limits.Patience))
	defer cancel()
	ctx, unwatch := untilGone(ctx, client)
	defer unwatch()
	var rouser *rouser
	retry := firstRetry
	for {
		changed := h.changed.Next()
		port, ok := h.port(to)
		if !ok {
			return nil, errors.New("the service does not wake a workload any more")
		}
		var again <-chan time.Time
		var refused <-chan struct{}
		if len(port.Endpoints) > 0 {
			endpoint := port.Endpoints[rand.IntN(len(port.Endpoints))]
			within, done := context.WithTimeout(ctx, dialTimeout)
			conn, err := h.c.Dial(within, endpoint)
			done()
			if err == nil {
				return conn, nil
			}
			again = time.After(retry)
			retry = min(2*retry, lastRetry)
		} else {
			if rouser == nil {
				rouser = h.rouse(ctx, port.Service)
				defer h.relax(port.Service, rouser)
			}
			refused = rouser.refused
		}
		select {
		case <-changed:
		case <-again:
		case <-refused:
			return nil, rouser.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// rouse makes sure that the workload of a service is reported as wanted, until as many have called relax.
func (h *Holder) rouse(ctx context.Context, service types.NamespacedName) *rouser {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rousers[service]
	if r == nil {
		r = &rouser{refused: make(chan struct{})}
		// It reports for all that wait, so it does not end with the first of them.
		ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx))
		h.rousers[service] = r
		h.done.Go(func() { h.report(ctx, service, r) })
	}
	r.waiting++
	return r
}

func (h *Holder) relax(service types.NamespacedName, r *rouser) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.waiting--; r.waiting == 0 {
		r.stop()
		if h.rousers[service] == r {
			delete(h.rousers, service)
		}
	}
}

func (h *Holder) report(ctx context.Context, service types.NamespacedName, r *rouser) {
	retry := firstRetry
	for {
		err := h.c.Wake(ctx, service)
		wait := remind
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrRefused):
			h.c.Log.Warn("connections to a service wait, and its workload cannot be woken", "service", service, "err", err)
			h.mu.Lock()
			if h.rousers[service] == r {
				delete(h.rousers, service) // a later connection tries again
			}
			h.mu.Unlock()
			r.err = err
			close(r.refused)
			return
		case err != nil:
			h.c.Log.Warn("report that connections to a service wait", "service", service, "err", err, "again", retry)
			wait, retry = retry, min(2*retry, lastRetry)
		default:
			retry = firstRetry
		}
		if !pause.For(ctx, wait) {
			return
		}
	}
}

// untilGone returns a context that ends when the client closes a connection to which it has sent nothing. unwatch must be called before
// the connection is read.
func untilGone(ctx context.Context, conn *net.TCPConn) (_ context.Context, unwatch func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	raw, err := conn.SyscallConn()
	if err != nil {
		cancel(err)
		return ctx, func() {}
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		var n int
		var failed error
		peek := make([]byte, 1)
		err := raw.Read(func(fd uintptr) bool {
			n, _, failed = unix.Recvfrom(int(fd), peek, unix.MSG_PEEK|unix.MSG_DONTWAIT)
			return failed != unix.EAGAIN && failed != unix.EINTR
		})
		if err == nil && n <= 0 { // else the deadline of unwatch has passed, or there are bytes
			cancel(errors.New("the client closed the connection"))
		}
	}()
	return ctx, func() {
		conn.SetReadDeadline(time.Unix(1, 0))
		<-watched
		conn.SetReadDeadline(time.Time{})
		cancel(nil)
	}
}

// refuse resets a connection that is not carried.
func (h *Holder) refuse(conn *net.TCPConn) {
	reset(conn)
	h.c.Reset()
}

// reset closes a connection such that its client sees that it failed.
func reset(conn *net.TCPConn) {
	conn.SetLinger(0)
	conn.Close()
}

// original returns the destination of a connection before the node's rules changed it.
func original(conn *net.TCPConn) (netip.AddrPort, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var to netip.AddrPort
	failed := raw.Control(func(fd uintptr) {
		// The option's value is a sockaddr_in, which is of the first bytes of the type with which this function is declared.
		var value *unix.IPv6Mreq
		if value, err = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST); err == nil {
			b := value.Multiaddr
			to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
		}
	})
	return to, errors.Join(failed, err)
}
