package logger

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// fanout sends the raw output to attached clients. Each frame is one byte of stream, four of length (big endian), and
// the bytes. A client that does not keep up is dropped: it never slows the container.
type fanout struct {
	l       net.Listener
	mu      sync.Mutex
	clients map[*client]struct{}
	closed  bool
}

type client struct {
	conn net.Conn
	ch   chan []byte
	done chan struct{}
}

// frameHead is the length of what stands before a frame's bytes.
const frameHead = 5

// clientQueue is how many frames may wait for a client.
const clientQueue = 1024

func listen(path string) (*fanout, error) {
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	f := &fanout{l: l, clients: map[*client]struct{}{}}
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
	c := &client{conn: conn, ch: make(chan []byte, clientQueue), done: make(chan struct{})}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		conn.Close()
		return
	}
	c.ch <- make([]byte, frameHead) // Attached
	f.clients[c] = struct{}{}
	f.mu.Unlock()
	go func() {
		defer close(c.done)
		defer conn.Close()
		for b := range c.ch {
			_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if _, err := conn.Write(b); err != nil {
				f.drop(c)
				return
			}
		}
	}()
}

func (f *fanout) drop(c *client) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.clients[c]; ok {
		delete(f.clients, c)
		close(c.ch)
	}
}

func (f *fanout) send(s Stream, b []byte) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.clients) == 0 {
		return
	}
	frame := make([]byte, frameHead+len(b))
	frame[0] = byte(s)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(b)))
	copy(frame[frameHead:], b)
	for c := range f.clients {
		select {
		case c.ch <- frame:
		default:
			delete(f.clients, c)
			close(c.ch)
		}
	}
}

// Close ends all clients after they got what was sent.
func (f *fanout) Close() {
	f.l.Close()
	f.mu.Lock()
	f.closed = true
	clients := f.clients
	f.clients = map[*client]struct{}{}
	for c := range clients {
		close(c.ch)
	}
	f.mu.Unlock()
	for c := range clients {
		<-c.done
	}
}

// ReadFrames reads what a logger's socket sends until it ends, which is no error.
func ReadFrames(r io.Reader, frame func(Stream, []byte) error) error {
	var head [frameHead]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		b := make([]byte, binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		if err := frame(Stream(head[0]), b); err != nil {
			return err
		}
	}
}
