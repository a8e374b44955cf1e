package identity

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/kontiki/kontiki/cluster/pki"
)

// inSentOrder builds a certificate's chain as OpenSSL does: an issuer that the client trusts is preferred, otherwise the first of the
// sent certificates that fits is taken, and no other is tried.
func inSentOrder(sent []*x509.Certificate, trusted *x509.Certificate) error {
	cert := sent[0]
	for range sent {
		if cert.CheckSignatureFrom(trusted) == nil {
			return nil
		}
		next := slices.IndexFunc(sent[1:], func(c *x509.Certificate) bool { return cert.CheckSignatureFrom(c) == nil })
		if next < 0 {
			return errors.New("unable to get issuer certificate")
		}
		if sent[1+next].Equal(cert) {
			return errors.New("self-signed certificate in certificate chain")
		}
		cert = sent[1+next]
	}
	return errors.New("the chain does not end")
}

// TestClientsOfEitherCAVerifyDuringARotation: clients that trust only the old CA, or only the new one, verify what a master sends in
// every step of a rotation of the CA, whether they try all the issuers that they were sent, as Go does, or only the first, as OpenSSL
// does. Hosts that join find the CA that their token pins.
func TestClientsOfEitherCAVerifyDuringARotation(t *testing.T) {
	before, err := New()
	if err != nil {
		t.Fatal(err)
	}
	introduced, err := before.WithNextCA()
	if err != nil {
		t.Fatal(err)
	}
	issuing, moved := introduced.Advanced()
	if !moved {
		t.Fatal("the new CA does not issue")
	}
	finished, err := issuing.WithoutPreviousCA()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		id      *Identity
		trusted []*pki.Authority
	}{
		{"before", before, []*pki.Authority{before.CA}},
		{"the new CA is introduced", introduced, []*pki.Authority{before.CA}},
		{"the new CA issues", issuing, []*pki.Authority{before.CA, issuing.CA}},
		{"finished", finished, []*pki.Authority{issuing.CA}},
	} {
		live := NewLive(test.id, 0)
		shown, err := NewCertificates(live, "m1", []string{"m1"}).Get()
		if err != nil {
			t.Fatal(err)
		}
		var sent []*x509.Certificate
		var bundle []byte
		for _, der := range shown.Certificate {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			sent = append(sent, cert)
			bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		for _, ca := range test.trusted {
			if err := inSentOrder(sent, ca.Certificate()); err != nil {
				t.Errorf("%s: a client that takes the first issuer and trusts %s: %v", test.name, ca.Pin()[:8], err)
			}
			if _, err := sent[0].Verify(x509.VerifyOptions{Roots: ca.Pool(), Intermediates: pki.Pool(sent[1:]...)}); err != nil {
				t.Errorf("%s: a Go client that trusts %s: %v", test.name, ca.Pin()[:8], err)
			}
			if !slices.ContainsFunc(sent, func(c *x509.Certificate) bool { return pki.Pin(c) == ca.Pin() }) {
				t.Errorf("%s: a token for %s does not find its CA", test.name, ca.Pin()[:8])
			}
			openssl(t, test.name, ca.CertPEM(), bundle)
		}
	}
}

// openssl verifies a chain with the openssl program too, where it is installed.
func openssl(t *testing.T, name string, trusted, sent []byte) {
	t.Helper()
	program, err := exec.LookPath("openssl")
	if err != nil {
		return
	}
	dir := t.TempDir()
	ca, chain := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "chain.crt")
	if err := errors.Join(os.WriteFile(ca, trusted, 0o600), os.WriteFile(chain, sent, 0o600)); err != nil {
		t.Fatal(err)
	}
	// The first certificate of the file is the one that is verified.
	cmd := exec.CommandContext(t.Context(), program, "verify", "-no-CApath", "-no-CAstore", "-CAfile", ca, "-untrusted", chain, chain)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: openssl: %v\n%s", name, err, out)
	}
}
