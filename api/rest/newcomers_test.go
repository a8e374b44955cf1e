package rest_test

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/internal/newcomers"
	"github.com/kontiki/kontiki/test/harness"
)

// TestAnAuthenticatedRequestMakesItsConnectionKnown: both fronts tell the listener that a client has authenticated, so that connections of
// clients that have not cannot push it out.
func TestAnAuthenticatedRequestMakesItsConnectionKnown(t *testing.T) {
	h := harness.New(t)
	for name, x := range map[string]struct {
		front   http.Handler
		request string
		stays   bool
	}{
		"REST":           {h.AsAdmin(), "GET /api HTTP/1.1\r\nHost: x\r\n\r\n", true},
		"gRPC":           {h.AsAdminRPC(), "POST /kontiki.v1.Objects/Get HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n", true},
		"REST anonymous": {h.REST, "GET /version HTTP/1.1\r\nHost: x\r\n\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			inner, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := &http.Server{ConnContext: newcomers.ConnContext, Handler: x.front}
			done := make(chan error, 1)
			go func() {
				done <- server.Serve(newcomers.Limit(inner, newcomers.Limits{Newcomers: 1}, func(net.Addr) {}))
			}()
			defer func() { server.Close(); <-done }()
			dial := func() net.Conn {
				conn, err := net.Dial("tcp", inner.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				return conn
			}
			ask := func(conn net.Conn, request string) error {
				if _, err := conn.Write([]byte(request)); err != nil {
					return err
				}
				response, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err == nil {
					response.Body.Close()
				}
				return err
			}
			client := dial()
			if err := ask(client, x.request); err != nil {
				t.Fatal(err)
			}
			other := dial() // accepted once it is served
			if err := ask(other, strings.Replace(x.request, "HTTP/1.1\r\n", "HTTP/1.1\r\nConnection: close\r\n", 1)); err != nil {
				t.Fatal(err)
			}
			if err := ask(client, x.request); (err == nil) != x.stays {
				t.Errorf("the first connection: %v", err)
			}
		})
	}
}
