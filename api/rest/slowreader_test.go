package rest_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/flow"
	"github.com/kontiki/kontiki/api/flow/flowtest"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/gathered"
	"github.com/kontiki/kontiki/test/harness"
)

// unread sends a request by HTTP/1.1 or HTTP/2 whose response is not read until the test does so. ended is closed when the server has
// served it.
func unread(t *testing.T, h *harness.Harness, protocol, path string) (response *http.Response, ended chan struct{}) {
	t.Helper()
	ended = make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		h.ServeHTTP(w, r)
	}))
	server.TLS, server.EnableHTTP2 = &tls.Config{ClientAuth: tls.RequestClientCert}, true
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	config := h.Config("joe")
	pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(protocol == "HTTP/1.1")
	protocols.SetHTTP2(protocol == "HTTP/2")
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}, Protocols: protocols,
		DisableCompression: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if tcp, ok := conn.(*net.TCPConn); ok {
				err = errors.Join(err, tcp.SetReadBuffer(64<<10))
			}
			return conn, err
		}}
	t.Cleanup(transport.CloseIdleConnections)
	response, err = (&http.Client{Transport: transport}).Get(server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != 200 || !strings.HasPrefix(response.Proto, protocol) {
		t.Fatalf("%s %s", response.Proto, response.Status)
	}
	return response, ended
}

// largeList has a list of 16 MB, more than sockets buffer.
func largeList(t *testing.T, limits *flow.Control) *harness.Harness {
	t.Helper()
	h := openHarness(t, func(c *apiserver.Config) { c.Limits = limits })
	fillMaps(t, h, 16, 1000<<10)
	return h
}

// inFlight returns how many requests hold seats.
func inFlight(t testing.TB, limits *flow.Control) (n float64) {
	for key, value := range gathered.Values(t, limits) {
		if strings.HasPrefix(key, "apiserver_current_inflight_requests{") {
			n += value
		}
	}
	return n
}

// TestASlowReaderHoldsNoSeat: a client that does not read its list gives the only seat back, and gets the whole list later.
func TestASlowReaderHoldsNoSeat(t *testing.T) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run(protocol, func(t *testing.T) {
			limits := flowtest.Queuing(1, 10)
			h := largeList(t, limits)
			slow, _ := unread(t, h, protocol, configMapsPath)
			await.That(t, "the seat is given back", func() error {
				if n := inFlight(t, limits); n != 0 {
					return fmt.Errorf("%v requests hold seats", n)
				}
				return nil
			})
			if code, body := raw(t, h.Config("ann"), "GET", configMapsPath+"/m-00000?resourceVersion=0", "", nil); code != 200 {
				t.Errorf("beside a slow reader: %d %.100s", code, body)
			}
			if n, err := io.Copy(io.Discard, slow.Body); err != nil || n < 16*1000<<10 {
				t.Errorf("read %d bytes, %v", n, err)
			}
		})
	}
}

// TestAReaderThatStallsIsCutOff: nobody keeps a response by not reading it, and what was cut off does not look complete.
func TestAReaderThatStallsIsCutOff(t *testing.T) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
		for _, path := range []string{configMapsPath, configMapsPath + "?watch=1"} {
			t.Run(protocol+" "+path, func(t *testing.T) {
				h := largeList(t, flowtest.Queuing(1, 10))
				h.REST.SetStall(300 * time.Millisecond)
				slow, ended := unread(t, h, protocol, path)
				<-ended
				if n, err := io.Copy(io.Discard, slow.Body); err == nil {
					t.Errorf("a response that looks complete, of %d bytes", n)
				}
			})
		}
	}
}
