package newcomers

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/kontiki/kontiki/test/await"
)

// served is a server whose clients are known once they send the header "Known". It reads no request of others.
func served(t *testing.T, limits Limits) (address string, closed chan net.Addr) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed = make(chan net.Addr, 100)
	server := &http.Server{ConnContext: ConnContext, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Known") != "" {
			KnownRequest(r.Context())
		}
		fmt.Fprint(w, "served")
	})}
	done := make(chan error, 1)
	go func() { done <- server.Serve(Limit(inner, limits, func(remote net.Addr) { closed <- remote })) }()
	t.Cleanup(func() { server.Close(); <-done })
	return inner.Addr().String(), closed
}

type client struct {
	net.Conn
	reader *bufio.Reader
}

func dial(t *testing.T, address string) client {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return client{c, bufio.NewReader(c)}
}

func (c client) ask(header string) error {
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n%s\r\n", header); err != nil {
		return err
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(response.Body)
	if err == nil && string(body) != "served" {
		err = fmt.Errorf("the body is %q", body)
	}
	return err
}

// ended waits until the server has closed the connection.
func (c client) ended() bool {
	_, err := c.reader.ReadByte()
	timeout, ok := err.(net.Error)
	return err != nil && !(ok && timeout.Timeout())
}

// TestTheOldestNewcomerMakesRoom: clients that stay silent are closed, the oldest first, and a client that is known stays.
func TestTheOldestNewcomerMakesRoom(t *testing.T) {
	address, closed := served(t, Limits{Newcomers: 3})
	known := dial(t, address)
	if err := known.ask("Known: yes\r\n"); err != nil {
		t.Fatal(err)
	}
	var silent []client
	for range 20 {
		silent = append(silent, dial(t, address))
		if err := dial(t, address).ask(""); err != nil { // connections are accepted in the order in which they are made
			t.Fatal(err)
		}
	}
	for i, c := range silent[:17] {
		if !c.ended() {
			t.Fatalf("silent client %d is still served", i)
		}
	}
	if err := known.ask(""); err != nil {
		t.Errorf("the known client: %v", err)
	}
	if first := <-closed; first.String() != silent[0].LocalAddr().String() {
		t.Errorf("the first connection that was closed is that of %v", first)
	}
}

// TestAllConnectionsHaveALimit: known clients keep their connections, and others get none beyond it.
func TestAllConnectionsHaveALimit(t *testing.T) {
	address, _ := served(t, Limits{Newcomers: 10, All: 4})
	var known []client
	for range 4 {
		c := dial(t, address)
		if err := c.ask("Known: yes\r\n"); err != nil {
			t.Fatal(err)
		}
		known = append(known, c)
	}
	if err := dial(t, address).ask(""); err == nil {
		t.Error("a fifth client was served")
	}
	for i, c := range known {
		if err := c.ask(""); err != nil {
			t.Errorf("known client %d: %v", i, err)
		}
	}
	known[0].Close()
	await.That(t, "the server to see that one has left", func() error { return dial(t, address).ask("") })
}

func TestSharesOfTheDescriptors(t *testing.T) {
	if s := Share(4, 10); s.Newcomers < 1 || s.All < s.Newcomers || s.All > 1<<20 {
		t.Errorf("%+v", s)
	}
	Known(nil) // no connection of a Listener
}
