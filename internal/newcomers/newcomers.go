// Package newcomers bounds a listener's connections, above all those of clients that have not authenticated yet. Whoever reaches a port
// can open connections without end, and each takes a file descriptor of a process that needs some for its disk and its peers.
//
// A connection is a newcomer until Known is called for it. If there are too many newcomers, the one that has waited for the longest time
// is closed: a client that authenticates at once is served even while an attacker keeps opening connections.
package newcomers

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"sync"
	"syscall"
)

// Limits are how many connections may be open.
type Limits struct {
	Newcomers int
	// All is for newcomers and known connections together; 0 means no limit.
	All int
}

// Share returns limits that are a share of the process's file descriptors (RLIMIT_NOFILE, which the Go runtime raises to its hard limit):
// newcomers may use the numerators' first part of it, all connections the second, in sixteenths.
func Share(newcomers, all int) Limits {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > 1<<20 {
		limit.Cur = 1 << 20
	}
	return Limits{Newcomers: max(int(limit.Cur)*newcomers/16, 1), All: max(int(limit.Cur)*all/16, 1)}
}

// Listener is a listener whose connections are bounded. Its methods are safe for concurrent use.
type Listener struct {
	net.Listener
	limits Limits
	closed func(remote net.Addr)

	mu        sync.Mutex
	open      int
	newcomers *list.List // of *conn, the oldest first
}

// Limit wraps l. closed is called for each connection that is closed for the limits, with its client's address. It must not block, and must
// limit what it logs.
func Limit(l net.Listener, limits Limits, closed func(remote net.Addr)) *Listener {
	return &Listener{Listener: l, limits: limits, closed: closed, newcomers: list.New()}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: accepted, listener: l}
		if l.admit(c) {
			return c, nil
		}
	}
}

// admit adds a connection and closes others, or that one itself, until the limits hold.
func (l *Listener) admit(c *conn) bool {
	l.mu.Lock()
	c.element = l.newcomers.PushBack(c)
	l.open++
	var over []*conn
	for l.newcomers.Len() > l.limits.Newcomers || l.limits.All > 0 && l.open > l.limits.All {
		oldest := l.newcomers.Front().Value.(*conn) // there is at least c
		l.remove(oldest)
		over = append(over, oldest)
	}
	l.mu.Unlock()
	admitted := true
	for _, o := range over {
		l.closed(o.RemoteAddr())
		o.abort()
		admitted = admitted && o != c
	}
	return admitted
}

// remove forgets a connection. The caller holds mu.
func (l *Listener) remove(c *conn) {
	if c.gone {
		return
	}
	c.gone = true
	l.open--
	l.settle(c)
}

// settle ends a connection's time as a newcomer. The caller holds mu.
func (l *Listener) settle(c *conn) {
	if c.element != nil {
		l.newcomers.Remove(c.element)
		c.element = nil
	}
}

// conn is a connection that its listener counts until it is closed.
type conn struct {
	net.Conn
	listener *Listener

	// The listener's mu guards these.
	element *list.Element // its place among the newcomers; nil once it is known
	gone    bool
}

func (c *conn) Close() error {
	c.listener.mu.Lock()
	c.listener.remove(c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite sends a FIN, where the connection can.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return net.ErrClosed
}

// abort closes the connection without waiting for what is not delivered yet.
func (c *conn) abort() {
	if fast, ok := c.Conn.(interface{ Abort() error }); ok {
		_ = fast.Abort()
		return
	}
	_ = c.Conn.Close()
}

// Known marks a connection of a Listener, or a *tls.Conn over one, as that of a client that has authenticated. Other connections are
// ignored.
func Known(c net.Conn) {
	if secured, ok := c.(*tls.Conn); ok {
		c = secured.NetConn()
	}
	if c, ok := c.(*conn); ok {
		c.listener.mu.Lock()
		c.listener.settle(c)
		c.listener.mu.Unlock()
	}
}

type contextKey struct{}

// ConnContext is for http.Server.ConnContext; KnownRequest needs it.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// KnownRequest marks the connection of a request, given by the request's context, as that of a client that has authenticated.
func KnownRequest(ctx context.Context) {
	if c, ok := ctx.Value(contextKey{}).(net.Conn); ok {
		Known(c)
	}
}
