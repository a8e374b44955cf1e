package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/kontiki/kontiki/cluster/pki"
)

// Dialer opens connections to masters' ports.
type Dialer struct {
	Network     Network // nil means the machine's
	Roots       func() *x509.CertPool
	Certificate func() (*tls.Certificate, error)
}

// Dial connects, performs the TLS handshake, and verifies that the peer is a master of this cluster. Addresses may change, so it
// checks the role in the certificate and not a host name.
func (d *Dialer) Dial(ctx context.Context, address, proto string) (*tls.Conn, error) {
	network := d.Network
	if network == nil {
		network = Machine{}
	}
	raw, err := network.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{proto},
		InsecureSkipVerify: true, // VerifyConnection does it, by role
		VerifyConnection: func(state tls.ConnectionState) error {
			return VerifyMaster(state, d.Roots())
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return d.Certificate()
		},
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("TLS handshake with %s: %w", address, err)
	}
	return conn, nil
}

// VerifyMaster verifies a server's chain with roots, and that the server is a master. While the CA changes, the server also sends
// the cross-signed certificate of the new CA.
func VerifyMaster(state tls.ConnectionState, roots *x509.CertPool) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server sent no certificate")
	}
	leaf := state.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: pki.Pool(state.PeerCertificates[1:]...), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return fmt.Errorf("the server is not a master of this cluster: %w", err)
	}
	peer, err := pki.ParsePeer(leaf)
	if err != nil {
		return err
	}
	if peer.Role != pki.RoleMaster {
		return fmt.Errorf("the server is the %s %q, not a master", peer.Role, peer.Name)
	}
	return nil
}
