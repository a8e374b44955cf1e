// Package upgrade bounds what a server that is not trusted can send, and how long it can take, before it has answered a request that is to
// become a stream (RFC 9110, section 7.8): the library that passes such requests on reads the answer's headers without a bound.
package upgrade

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// MaxHeader limits the bytes that a server sends before the stream begins.
const MaxHeader = 1 << 20

// Dial opens a connection, as net.Dialer.DialContext does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Opening is one request that is to become a stream, for one goroutine. It is the ResponseWriter of the handler that passes the request on, whose
// transport opens its one connection by Connect.
type Opening struct {
	http.ResponseWriter
	dial     Dial
	patience time.Duration
	conn     *limitedConn
}

// New returns the opening of a request that w answers. The server has patience to answer, unless the context's deadline is earlier.
func New(w http.ResponseWriter, dial Dial, patience time.Duration) *Opening {
	return &Opening{ResponseWriter: w, dial: dial, patience: patience}
}

// Connect is a Dial.
func (o *Opening) Connect(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := o.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(o.patience)
	if earlier, ok := ctx.Deadline(); ok && earlier.Before(deadline) {
		deadline = earlier
	}
	o.conn = &limitedConn{Conn: conn}
	return o.conn, conn.SetReadDeadline(deadline)
}

// Hijack implements http.Hijacker. The server has answered when it is called.
func (o *Opening) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if o.conn != nil {
		o.conn.open.Store(true)
		if err := o.conn.SetReadDeadline(time.Time{}); err != nil {
			return nil, nil, err
		}
	}
	return http.NewResponseController(o.ResponseWriter).Hijack()
}

// limitedConn is a connection from which about MaxHeader bytes can be read before it is open.
type limitedConn struct {
	net.Conn
	read int // by one goroutine
	open atomic.Bool
}

func (c *limitedConn) Read(p []byte) (int, error) {
	if c.open.Load() {
		return c.Conn.Read(p)
	}
	if c.read > MaxHeader {
		return 0, fmt.Errorf("the headers of the answer are larger than %d bytes", MaxHeader)
	}
	n, err := c.Conn.Read(p)
	c.read += n
	return n, err
}
