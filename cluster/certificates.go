package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"github.com/kontiki/kontiki/cluster/pki"
)

// certificates issues a certificate when it is first asked for, and again when a third of its time is left.
type certificates struct {
	issue func() (*pki.KeyPair, error)
	ca    *x509.Certificate

	mu      sync.Mutex
	current *tls.Certificate
	renewAt time.Time
}

// newCertificates are a master's own: every master holds the CA, so that it needs nobody to get one.
func newCertificates(id *Identity, name string, hosts []string) *certificates {
	return &certificates{ca: id.CA.Certificate(), issue: func() (*pki.KeyPair, error) {
		return id.CA.IssueMaster(name, hosts)
	}}
}

// get answers the certificate with the CA behind it: joining hosts look for the CA that their token pins.
func (c *certificates) get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && time.Now().Before(c.renewAt) {
		return c.current, nil
	}
	pair, err := c.issue()
	if err != nil {
		return nil, err
	}
	cert, err := pair.TLS()
	if err != nil {
		return nil, fmt.Errorf("use a certificate just issued: %w", err)
	}
	left := time.Until(cert.Leaf.NotAfter)
	cert.Certificate = append(cert.Certificate, c.ca.Raw)
	c.current, c.renewAt = &cert, time.Now().Add(left*2/3)
	return c.current, nil
}

// APICertificate is the certificate to serve the API with, for Config.APIHosts and this master's own name and
// addresses. It is renewed in time: call it from tls.Config.GetCertificate.
func (c *Cluster) APICertificate() (*tls.Certificate, error) { return c.apiCertificates.get() }
