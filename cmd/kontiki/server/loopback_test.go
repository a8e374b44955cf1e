package server

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/test/await"
)

// TestRenewedClientsCloseTheirConnections: however often the autoscaler's clients are made anew, with a certificate of their own as in a master, the server
// is left with the connections of the last ones.
func TestRenewedClientsCloseTheirConnections(t *testing.T) {
	var mu sync.Mutex
	var accepted int
	open := map[net.Conn]bool{}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Config.ConnState = func(c net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch state {
		case http.StateNew:
			accepted++
			open[c] = true
		case http.StateClosed:
			delete(open, c)
		}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	id, err := identity.New()
	if err != nil {
		t.Fatal(err)
	}
	roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	clients := &renewed[elsewhere]{
		connect: func() (*rest.Config, error) {
			pair, err := id.CA.IssueClient(autoscalerUser, nil)
			if err != nil {
				return nil, err
			}
			return &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{CAData: roots, CertData: pair.CertPEM, KeyData: pair.KeyPEM}}, nil
		},
		build: newElsewhere,
	}
	const times = 5
	for range times {
		now, err := clients.get()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := clients.get(); err != nil || again != now {
			t.Fatalf("they are made for each request: %v", err)
		}
		if _, err := now.external.NamespacedMetrics("default").List("queue", labels.Everything()); !apierrors.IsNotFound(err) {
			t.Fatalf("the answer of the server: %v", err)
		}
		clients.made = time.Now().Add(-lookAgain)
	}
	if mu.Lock(); accepted != times {
		t.Errorf("%d connections were made, want one of each", accepted)
	}
	mu.Unlock()
	await.That(t, "the connections of earlier clients to be closed", func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(open) > 1 {
			return fmt.Errorf("%d are open", len(open))
		}
		return nil
	})
}
