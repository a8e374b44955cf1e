package upgrade_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/proxy"

	"github.com/kontiki/kontiki/internal/upgrade"
)

// refusal answers with the error.
type refusal struct{ w http.ResponseWriter }

func (r refusal) Error(_ http.ResponseWriter, _ *http.Request, err error) {
	http.Error(r.w, err.Error(), http.StatusBadGateway)
}

// front starts a proxy of upgrades to a server that does with each connection what serve does, and returns its address.
func front(t *testing.T, patience time.Duration, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		opening := upgrade.New(w, new(net.Dialer).DialContext, patience)
		at := &url.URL{Scheme: "http", Host: l.Addr().String(), Path: "/"}
		handler := proxy.NewUpgradeAwareHandler(at, &http.Transport{DialContext: opening.Connect}, false, true, refusal{w})
		handler.ServeHTTP(opening, r)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// ask sends a request for a stream, and returns the connection and the answer.
func ask(t *testing.T, address string) (*bufio.Reader, net.Conn, *http.Response) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return reader, conn, response
}

// TestEndlessHeadersEnd: a server that sends headers for ever is cut off, and the client is told.
func TestEndlessHeadersEnd(t *testing.T) {
	address := front(t, time.Minute, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n")
		line := "A: " + strings.Repeat("a", 4000) + "\r\n"
		for {
			_, err := io.WriteString(conn, line)
			if err != nil {
				return
			}
		}
	})
	_, _, response := ask(t, address)
	body, _ := io.ReadAll(response.Body)
	if want := fmt.Sprintf("larger than %d bytes", upgrade.MaxHeader); response.StatusCode != http.StatusBadGateway || !strings.Contains(string(body), want) {
		t.Errorf("%s %q", response.Status, body)
	}
}

// TestAServerThatDoesNotAnswer has a limited time.
func TestAServerThatDoesNotAnswer(t *testing.T) {
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	address := front(t, 10*time.Millisecond, func(net.Conn) { <-done })
	if _, _, response := ask(t, address); response.StatusCode != http.StatusBadGateway {
		t.Errorf("%s", response.Status)
	}
}

// TestAStreamHasNoLimit: what follows the answer may be larger than MaxHeader, and later than the patience.
func TestAStreamHasNoLimit(t *testing.T) {
	const most = 3 * upgrade.MaxHeader
	address := front(t, time.Minute, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.CopyN(conn, zeros{}, most)
		_, _ = io.Copy(io.Discard, conn) // until the client has everything: unread bytes would reset the connection
	})
	reader, conn, response := ask(t, address)
	if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(response.Status)
	}
	if n, err := io.CopyN(io.Discard, reader, most); err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	conn.Close()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestTheEarlierDeadlineCounts: a request's own.
func TestTheEarlierDeadlineCounts(t *testing.T) {
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	opening := upgrade.New(httptest.NewRecorder(), func(context.Context, string, string) (net.Conn, error) { return near, nil }, time.Hour)
	conn, err := opening.Connect(ctx, "tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("it reads after the request's deadline")
	}
}
