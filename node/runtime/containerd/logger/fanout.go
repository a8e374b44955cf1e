package logger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// fanout sends the raw output to attached clients. Each frame is one byte of stream, a four-byte big-endian length, and the bytes.
// A container waits for a slow client as it would for a terminal, so that the client loses nothing; a client that reads nothing for
// a while is dropped, and can tell, because it gets no Ended frame.
type fanout struct {
	l       net.Listener
	patient time.Duration
	mu      sync.Mutex
	clients map[*client]struct{}
	closed  bool
}

type client struct {
	conn net.Conn
	ch   chan []byte
	quit chan struct{} // closed when the client is dropped
	done chan struct{} // closed when its writing goroutine has ended
}

// frameHead is the length of a frame's header.
const frameHead = 5

// clientQueue is how many frames may be queued for a client.
const clientQueue = 64

// patience is how long a client may read nothing.
const patience = 30 * time.Second

func frameOf(s Stream, b []byte) []byte {
	frame := make([]byte, frameHead+len(b))
	frame[0] = byte(s)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(b)))
	copy(frame[frameHead:], b)
	return frame
}

func listen(path string, patient time.Duration) (*fanout, error) {
	if patient <= 0 {
		patient = patience
	}
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	f := &fanout{l: l, patient: patient, clients: map[*client]struct{}{}}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.add(conn)
		}
	}()
	return f, nil
}

func (f *fanout) add(conn net.Conn) {
	c := &client{conn: conn, ch: make(chan []byte, clientQueue), quit: make(chan struct{}), done: make(chan struct{})}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		conn.Close()
		return
	}
	c.ch <- frameOf(Attached, []byte(attachedEnds))
	f.clients[c] = struct{}{}
	f.mu.Unlock()
	go func() {
		defer close(c.done)
		defer conn.Close()
		for {
			select {
			case b := <-c.ch:
				if !f.write(c, b) {
					f.drop(c)
					return
				}
				if Stream(b[0]) == Ended {
					return
				}
			case <-c.quit:
				return
			}
		}
	}()
}

// write sends a frame as long as the client reads some of it in time.
func (f *fanout) write(c *client, b []byte) bool {
	for len(b) > 0 {
		_ = c.conn.SetWriteDeadline(time.Now().Add(f.patient))
		n, err := c.conn.Write(b)
		if err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return false
		}
		b = b[n:]
	}
	return true
}

func (f *fanout) drop(c *client) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.clients[c]; ok {
		delete(f.clients, c)
		close(c.quit)
	}
}

func (f *fanout) send(s Stream, b []byte) {
	if f == nil {
		return
	}
	f.mu.Lock()
	clients := slices.Collect(maps.Keys(f.clients))
	f.mu.Unlock()
	if len(clients) > 0 {
		frame := frameOf(s, b)
		for _, c := range clients {
			f.queue(c, frame)
		}
	}
}

// queue waits for space in a client's queue: the client's writing goroutine makes some, or drops the client.
func (f *fanout) queue(c *client, frame []byte) {
	select {
	case c.ch <- frame:
	case <-c.quit:
	case <-c.done:
	}
}

// Close ends all clients after they have received everything.
func (f *fanout) Close() {
	f.l.Close()
	f.mu.Lock()
	f.closed = true
	clients := slices.Collect(maps.Keys(f.clients))
	f.mu.Unlock()
	for _, c := range clients {
		f.queue(c, frameOf(Ended, nil))
	}
	for _, c := range clients {
		<-c.done
	}
}

const (
	attachedEnds = "end"
	maxFrame     = 1 << 20
)

// ErrLost means that a client did not get all of the output.
var ErrLost = errors.New("output was lost: it was not read for too long, or the logger ended before the container")

// ReadFrames reads from a logger's socket until the end. It returns nil if all output was received.
func ReadFrames(r io.Reader, frame func(Stream, []byte) error) error {
	var head [frameHead]byte
	ends := false
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			if !ends && (err == io.EOF || err == io.ErrUnexpectedEOF) {
				return nil
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF || errors.Is(err, syscall.ECONNRESET) {
				return ErrLost
			}
			return err
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n > maxFrame {
			return fmt.Errorf("a frame of %d bytes", n)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			if ends && (err == io.EOF || err == io.ErrUnexpectedEOF) {
				return ErrLost
			}
			return err
		}
		switch Stream(head[0]) {
		case Attached:
			ends = string(b) == attachedEnds
		case Ended:
			return nil
		}
		if err := frame(Stream(head[0]), b); err != nil {
			return err
		}
	}
}
