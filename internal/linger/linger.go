// Package linger lets connections end without losing what was sent last. A socket that is closed answers whatever still
// comes (a ping of a WebSocket, say) with a reset, and the kernel then throws away what it had not delivered yet: a client
// that reads slowly loses the end of a long answer.
package linger

import (
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is how long the other side may take nothing of what is left, until it is given up.
const Patience = time.Minute

// Listener has the TCP connections that l accepts linger: Close says at once that nothing more comes, and returns, while
// what is still in the socket is delivered in the background.
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

// longest is how many times the patience a connection may take in all, however slowly it takes what is left.
const longest = 10

// step is how often it is looked whether the rest was delivered.
const step = 100 * time.Millisecond

// drain reads what the other side says, so that nothing is left unread, until it has taken everything, has ended too, or
// takes nothing for too long.
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
		if err == io.EOF { // it only listens now
			time.Sleep(step)
		}
	}
}

// undelivered is how many bytes the kernel holds that the other side has not acknowledged.
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
