package dashboard

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"
)

// passedHeaders are the headers of a pod's answer that reach the browser. All others are left out: the browser would apply some of them (cookies,
// demands for a password, clearing of data, strict transport security) to the masters' host, which is the page's too.
var passedHeaders = []string{
	"Content-Type", "Content-Length", "Content-Encoding", "Content-Language", "Content-Disposition", "Content-Range", "Accept-Ranges", "Vary", "Retry-After",
}

// portWriter is the ResponseWriter for the answers of pods: it passes some headers, and writes addresses of the API's proxy anew.
type portWriter struct {
	w      http.ResponseWriter
	header http.Header
	// from is the path of the API's proxy, to that of the grant; both end with a slash.
	from, to string
	wrote    bool
	pages    *replacer // of an HTML page
}

func newPortWriter(w http.ResponseWriter, from, to string) *portWriter {
	return &portWriter{w: w, header: http.Header{}, from: from, to: to}
}

func (p *portWriter) Header() http.Header { return p.header }

func (p *portWriter) WriteHeader(code int) {
	if p.wrote || code < http.StatusOK {
		return // informational answers are not passed
	}
	p.wrote = true
	h := p.w.Header()
	for _, name := range passedHeaders {
		if values := p.header.Values(name); len(values) > 0 {
			h[name] = values
		}
	}
	for _, policy := range p.header.Values("Content-Security-Policy") {
		h.Add("Content-Security-Policy", policy) // both hold
	}
	if location := p.header.Get("Location"); location != "" {
		h.Set("Location", strings.Replace(location, p.from, p.to, 1))
	}
	if kind, _, err := mime.ParseMediaType(p.header.Get("Content-Type")); err == nil && kind == "text/html" && p.header.Get("Content-Encoding") == "" {
		h.Del("Content-Length")
		p.pages = &replacer{w: p.w, from: []byte(p.from), to: []byte(p.to)}
	}
	p.w.WriteHeader(code)
}

func (p *portWriter) Write(b []byte) (int, error) {
	p.WriteHeader(http.StatusOK)
	if p.pages != nil {
		return p.pages.Write(b)
	}
	return p.w.Write(b)
}

// finish writes what was held back.
func (p *portWriter) finish() {
	if p.pages != nil {
		_ = p.pages.flush() // an error means that the client has disconnected
	}
}

// Flush implements http.Flusher.
func (p *portWriter) Flush() {
	p.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(p.w).Flush() // as above
}

// Hijack implements http.Hijacker: the connection lets only the headers of a WebSocket's handshake pass.
func (p *portWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(p.w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	filtered := &handshake{Conn: conn}
	return filtered, bufio.NewReadWriter(rw.Reader, bufio.NewWriter(filtered)), nil
}

// SetReadDeadline and SetWriteDeadline are those of the connection.
func (p *portWriter) SetReadDeadline(t time.Time) error {
	return http.NewResponseController(p.w).SetReadDeadline(t)
}

func (p *portWriter) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(p.w).SetWriteDeadline(t)
}

// replacer replaces a text in what is written, also where it comes in several writes.
type replacer struct {
	w        io.Writer
	from, to []byte
	rest     []byte // may be the beginning of from
}

func (r *replacer) Write(b []byte) (int, error) {
	data := append(r.rest, b...)
	var out []byte
	for {
		at := bytes.Index(data, r.from)
		if at < 0 {
			break
		}
		out = append(append(out, data[:at]...), r.to...)
		data = data[at+len(r.from):]
	}
	keep := min(len(r.from)-1, len(data))
	for ; keep > 0 && !bytes.HasPrefix(r.from, data[len(data)-keep:]); keep-- {
	}
	out = append(out, data[:len(data)-keep]...)
	r.rest = append([]byte(nil), data[len(data)-keep:]...)
	if _, err := r.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (r *replacer) flush() error {
	_, err := r.w.Write(r.rest)
	r.rest = nil
	return err
}

// maxHandshake limits the headers of an answer to a WebSocket's handshake.
const maxHandshake = 64 << 10

// handshakeHeaders are those that the browser needs.
var handshakeHeaders = []string{"Upgrade", "Connection", "Sec-Websocket-Accept", "Sec-Websocket-Protocol", "Sec-Websocket-Extensions"}

// handshake is a connection on which a pod answers a handshake: what it writes first is read as an answer, of which only some headers pass, and
// nothing if it is not the beginning of a stream.
type handshake struct {
	net.Conn
	head []byte
	open bool
}

func (c *handshake) Write(b []byte) (int, error) {
	if c.open {
		return c.Conn.Write(b)
	}
	c.head = append(c.head, b...)
	end := bytes.Index(c.head, []byte("\r\n\r\n"))
	if end < 0 {
		if len(c.head) > maxHandshake {
			return 0, errors.New("the headers of the answer are too long")
		}
		return len(b), nil
	}
	head, rest := c.head[:end+4], c.head[end+4:]
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		_, _ = io.WriteString(c.Conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		_ = c.Close()
		return 0, errors.New("the port did not accept the WebSocket")
	}
	out := bytes.NewBufferString("HTTP/1.1 101 Switching Protocols\r\n")
	for _, name := range handshakeHeaders {
		for _, value := range response.Header.Values(name) {
			out.WriteString(name + ": " + value + "\r\n")
		}
	}
	out.WriteString("\r\n")
	out.Write(rest)
	c.open, c.head = true, nil
	if _, err := c.Conn.Write(out.Bytes()); err != nil {
		return 0, err
	}
	return len(b), nil
}
