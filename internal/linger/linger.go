// Package linger closes connections without losing the last bytes that were sent. If data (a WebSocket ping, for example) arrives
// at a socket that is already closed, the kernel responds with a reset and discards what it had not delivered yet: a client that
// reads slowly loses the end of a long response.
package linger

import (
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is the time after which a connection is abandoned if the other side has acknowledged nothing more.
const Patience = time.Minute

// Listener wraps l. Close of an accepted TCP connection sends a FIN and returns at once, while the kernel's send buffer is
// delivered in the background.
func Listener(l net.Listener, patience time.Duration) net.Listener { return listener{l, patience} }

type listener struct {
	net.Listener
	patience time.Duration
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok && err == nil {
		return &conn{TCPConn: tcp, patience: l.patience}, nil
	}
	return c, err
}

type conn struct {
	*net.TCPConn
	patience time.Duration
}

func (c *conn) Close() error {
	if undelivered(c.TCPConn) == 0 {
		return c.TCPConn.Close()
	}
	if err := c.TCPConn.CloseWrite(); err != nil {
		return c.TCPConn.Close()
	}
	go c.drain()
	return nil
}

// Abort closes the connection at once, with a reset if anything is not delivered.
func (c *conn) Abort() error {
	_ = c.TCPConn.SetLinger(0)
	return c.TCPConn.Close()
}

// longest limits the total time for one connection, as a multiple of the patience, however slowly the other side reads.
const longest = 10

// step is the interval at which the send buffer is checked.
const step = 100 * time.Millisecond

// drain reads and discards what the other side sends, so that nothing is left unread, until the other side has acknowledged
// everything, has closed the connection, or has acknowledged nothing for too long.
func (c *conn) drain() {
	defer c.TCPConn.Close()
	left, begun := undelivered(c.TCPConn), time.Now()
	for since := begun; time.Since(since) < c.patience && time.Since(begun) < longest*c.patience; {
		_ = c.TCPConn.SetReadDeadline(time.Now().Add(step))
		_, err := io.CopyN(io.Discard, c.TCPConn, 64<<10)
		if timeout, ok := err.(net.Error); err != nil && (!ok || !timeout.Timeout()) && err != io.EOF {
			return
		}
		now := undelivered(c.TCPConn)
		if now == 0 {
			return
		}
		if now < left {
			since = time.Now()
		}
		left = now
		if err == io.EOF { // the other side only reads now
			time.Sleep(step)
		}
	}
}

// undelivered returns how many bytes in the kernel's send buffer the other side has not acknowledged.
func undelivered(c *net.TCPConn) int {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) {
		if v, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
			n = v
		}
	})
	return n
}
