package browser

import (
	"crypto/tls"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/kontiki/kontiki/test/devcluster"
	"github.com/kontiki/kontiki/test/oidcprovider"
)

// issuer is a provider on the loopback of this machine, for the browser, and under the same address on that of each master.
type issuer struct {
	*oidcprovider.Provider
	server *httptest.Server
}

// newIssuer returns the provider and the file with its CA.
func newIssuer(t *testing.T) (*issuer, string) {
	t.Helper()
	p, err := oidcprovider.New()
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{p, httptest.NewTLSServer(p)}
	t.Cleanup(i.server.Close)
	p.Issuer = i.server.URL
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return i, ca
}

// serveOn serves it in a host's network namespace.
func (i *issuer) serveOn(t *testing.T, cluster *devcluster.Cluster, host string) {
	t.Helper()
	listener, err := cluster.ListenOn(t.Context(), host, i.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		_ = http.Serve(tls.NewListener(listener, i.server.TLS), i.Provider) // until the listener is closed
	}()
}
