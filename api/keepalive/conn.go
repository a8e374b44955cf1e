package keepalive

import (
	"crypto/tls"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

var errTooManyPings = errors.New("the client pings too often")

// conn observes the frames of a connection. One goroutine reads and one writes, as with every net.Conn of an HTTP/2 server.
type conn struct {
	*tls.Conn // embedded also for its ConnectionState
	policy    Policy

	// fields of the reader
	in         frames
	lastPing   time.Time
	strikes    int
	refused    bool
	lastStream atomic.Uint32

	answered atomic.Bool // a part of a response was sent since the last ping

	write   sync.Mutex
	out     frames
	dismiss bool // a GOAWAY should be sent
	sent    bool // it has been sent
}

func newConn(c *tls.Conn, p Policy) *conn {
	return &conn{Conn: c, policy: p, in: frames{skip: len(http2.ClientPreface)}}
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	if c.refused {
		return 0, c.drain(b)
	}
	n, err := c.Conn.Read(b)
	c.in.pass(b[:n], c.received)
	return n, err
}

// received is called for each incoming frame.
func (c *conn) received(h header) {
	switch {
	case h.kind == typeHeaders:
		c.lastStream.Store(max(c.lastStream.Load(), h.stream))
	case h.kind == typePing && h.flags&flagAck == 0:
		now := time.Now()
		switch {
		case c.answered.Swap(false):
			c.strikes = 0
		case now.Sub(c.lastPing) < c.policy.MinTime:
			c.strikes++
		}
		c.lastPing = now
		c.refused = c.refused || c.strikes > maxStrikes
	}
}

// drain sends the client a GOAWAY, and discards its further input while responses in flight are sent.
func (c *conn) drain(b []byte) error {
	if c.policy.Refused != nil {
		c.policy.Refused(c.RemoteAddr().String())
	}
	if err := c.SetReadDeadline(time.Now().Add(c.policy.Grace)); err != nil {
		return err
	}
	c.write.Lock()
	c.dismiss = true
	err := c.sendDismissal()
	c.write.Unlock()
	for err == nil {
		_, err = c.Conn.Read(b)
	}
	return errTooManyPings
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	c.write.Lock()
	defer c.write.Unlock()
	// The client may ping as soon as it has read these frames. After a failed write nothing more is written.
	c.out.pass(b, func(h header) {
		if h.kind == typeHeaders || h.kind == typeData {
			c.answered.Store(true)
		}
	})
	n, err := c.Conn.Write(b)
	if err == nil {
		err = c.sendDismissal()
	}
	return n, err
}

// sendDismissal sends a GOAWAY that is due, if the stream of frames is at a boundary; otherwise the next write does it.
func (c *conn) sendDismissal() error {
	if !c.dismiss || c.sent || !c.out.between() {
		return nil
	}
	c.sent = true
	_, err := c.Conn.Write(goAway(c.lastStream.Load(), enhanceYourCalm, "too_many_pings"))
	return err
}
