package keepalive

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// patience is how long a test waits for an expected event.
const patience = 10 * time.Second

// serve starts a server that enforces a policy on its clients.
func serve(t *testing.T, p Policy, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	if err := Enforce(s.Config, p); err != nil {
		t.Fatal(err)
	}
	s.TLS = s.Config.TLSConfig
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// client speaks HTTP/2 frame by frame.
type client struct {
	t      *testing.T
	conn   *tls.Conn
	framer *http2.Framer
	next   uint32
}

func dial(t *testing.T, s *httptest.Server) *client {
	conn, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, conn: conn, framer: http2.NewFramer(conn, conn), next: 1}
	if err := c.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// read returns the next frame for which want returns true, and nil when the connection ends.
func (c *client) read(want func(http2.Frame) bool) http2.Frame {
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return nil
		}
		if want(f) {
			return f
		}
	}
}

func (c *client) ping(b byte) {
	if err := c.framer.WritePing(false, [8]byte{b}); err != nil {
		c.t.Fatal(err)
	}
}

// pong waits for the acknowledgement of a ping.
func (c *client) pong(b byte) {
	c.t.Helper()
	if c.read(func(f http2.Frame) bool { p, ok := f.(*http2.PingFrame); return ok && p.IsAck() && p.Data[0] == b }) == nil {
		c.t.Fatalf("ping %d is not answered", b)
	}
}

// get sends a request, and returns its stream.
func (c *client) get() uint32 {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":path", Value: "/"}, {Name: ":authority", Value: "h"}} {
		if err := e.WriteField(f); err != nil {
			c.t.Fatal(err)
		}
	}
	id := c.next
	c.next += 2
	if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		c.t.Fatal(err)
	}
	return id
}

// answer waits for the end of a stream.
func (c *client) answer(id uint32) {
	c.t.Helper()
	if c.read(func(f http2.Frame) bool {
		return f.Header().StreamID == id && f.Header().Flags.Has(http2.FlagDataEndStream)
	}) == nil {
		c.t.Fatalf("request %d is not answered", id)
	}
}

// goAway waits for the server's GOAWAY frame, and returns the last stream that the server accepted.
func (c *client) goAway() uint32 {
	c.t.Helper()
	f, ok := c.read(func(f http2.Frame) bool { _, ok := f.(*http2.GoAwayFrame); return ok }).(*http2.GoAwayFrame)
	if !ok {
		c.t.Fatal("the connection ended without a GOAWAY")
	}
	if f.ErrCode != http2.ErrCodeEnhanceYourCalm || string(f.DebugData()) != "too_many_pings" {
		c.t.Fatalf("%v, %q", f, f.DebugData())
	}
	return f.LastStreamID
}

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

func TestPingsTooOftenEndTheConnection(t *testing.T) {
	refused := make(chan string, 10)
	s := serve(t, Policy{MinTime: time.Hour, Refused: func(remote string) { refused <- remote }}, hello)
	c := dial(t, s)
	c.answer(c.get())
	c.ping(0) // forgiven: something was answered
	for i := range byte(maxStrikes) {
		c.ping(i + 1)
		c.pong(i + 1)
	}
	c.ping(100)
	if last := c.goAway(); last != 1 {
		t.Errorf("the last stream is said to be %d", last)
	}
	if f := c.read(func(http2.Frame) bool { return true }); f != nil {
		t.Errorf("%v after the GOAWAY", f)
	}
	if remote := <-refused; remote != c.conn.LocalAddr().String() {
		t.Errorf("refused %s, it was %s", remote, c.conn.LocalAddr())
	}
	if len(refused) > 0 {
		t.Error("told twice")
	}
}

func TestPingsInTimeAreAnswered(t *testing.T) {
	c := dial(t, serve(t, Policy{MinTime: time.Nanosecond}, hello))
	for i := range byte(50) {
		c.ping(i)
		c.pong(i)
	}
}

func TestAnswersForgivePings(t *testing.T) {
	c := dial(t, serve(t, Policy{MinTime: time.Hour}, hello))
	for i := range byte(50) {
		c.answer(c.get())
		c.ping(i)
		c.ping(i + 100)
		c.pong(i + 100)
	}
}

func TestWhatIsUnderWayIsAnswered(t *testing.T) {
	dismissed := make(chan struct{})
	c := dial(t, serve(t, Policy{MinTime: time.Hour, Grace: patience}, func(w http.ResponseWriter, r *http.Request) {
		<-dismissed
		hello(w, r)
	}))
	id := c.get()
	for i := range byte(10) {
		c.ping(i)
	}
	if last := c.goAway(); last != id {
		t.Errorf("the last stream is said to be %d, not %d", last, id)
	}
	close(dismissed)
	c.answer(id)
}

func TestAnswersToTheServersPingsAreNoPings(t *testing.T) {
	c := &conn{policy: Policy{MinTime: time.Hour}}
	for range 100 {
		c.received(header{kind: typePing, flags: flagAck})
	}
	if c.refused || c.strikes > 0 {
		t.Errorf("%d strikes", c.strikes)
	}
}

// TestTheServerKeepsWhatItHas tests what depends on the connection: the client's certificate, the base context, the hooks,
// HTTP/1.1, and the end.
func TestTheServerKeepsWhatItHas(t *testing.T) {
	type key struct{}
	states := make(chan http.ConnState, 100)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || r.Context().Value(key{}) != "base" {
			http.Error(w, "no TLS, or no context", http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, r.Proto)
	}))
	s.Config.BaseContext = func(net.Listener) context.Context { return context.WithValue(context.Background(), key{}, "base") }
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) { states <- state }
	s.EnableHTTP2 = true
	if err := Enforce(s.Config, Policy{}); err != nil {
		t.Fatal(err)
	}
	s.TLS = s.Config.TLSConfig
	s.StartTLS()
	defer s.Close()
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: proto == "HTTP/2.0"}
		response, err := (&http.Client{Transport: transport}).Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if string(body) != proto {
			t.Errorf("%s: %q", proto, body)
		}
		defer transport.CloseIdleConnections()
	}
	c := dial(t, s)
	c.answer(c.get())
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	shut := make(chan error, 1)
	go func() { shut <- s.Config.Shutdown(ctx) }()
	f, ok := c.read(func(f http2.Frame) bool { _, ok := f.(*http2.GoAwayFrame); return ok }).(*http2.GoAwayFrame)
	if !ok || f.ErrCode != http2.ErrCodeNo {
		t.Errorf("%v at the server's end", f)
	}
	if err := <-shut; err != nil {
		t.Errorf("shut down: %v", err)
	}
	missing := map[http.ConnState]bool{http.StateNew: true, http.StateActive: true, http.StateIdle: true, http.StateClosed: true}
	for len(missing) > 0 { // a connection may be told to be closed after the server has shut down
		select {
		case state := <-states:
			delete(missing, state)
		case <-ctx.Done():
			t.Fatalf("states %v were not told", missing)
		}
	}
}

// TestFramesInPieces reads random frames in random pieces.
func TestFramesInPieces(t *testing.T) {
	for seed := range int64(200) {
		r := rand.New(rand.NewSource(seed))
		var wire bytes.Buffer
		framer := http2.NewFramer(&wire, nil)
		framer.AllowIllegalWrites = true
		var want []header
		ends := map[int]bool{0: true} // where another frame may be put in
		for range 20 {
			h := header{kind: byte(r.Intn(12)), flags: byte(r.Intn(256)), stream: r.Uint32() >> 1}
			payload := make([]byte, r.Intn(40))
			if err := framer.WriteRawFrame(http2.FrameType(h.kind), http2.Flags(h.flags), h.stream, payload); err != nil {
				t.Fatal(err)
			}
			want = append(want, h)
			ends[wire.Len()] = true
		}
		var f frames
		var got []header
		open := false
		for at := 0; wire.Len() > 0; {
			piece := wire.Next(1 + r.Intn(30))
			at += len(piece)
			f.pass(piece, func(h header) {
				got = append(got, h)
				switch h.kind {
				case typeHeaders, typePushPromise, typeContinuation:
					open = h.flags&flagEndHeaders == 0
				}
			})
			if f.between() != (ends[at] && !open) {
				t.Fatalf("seed %d: at byte %d another frame may be put in: %v", seed, at, f.between())
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: %v, want %v", seed, got, want)
		}
	}
}
