package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"testing"
	"time"
)

// TestTheClientsCAIsDerived, and that of the front proxy: every master that has the CA has it, also one that read the CA from a file or a backup, and another CA has
// another one.
func TestTheClientsCAIsDerived(t *testing.T) {
	ca := newCA(t)
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseAuthority(ca.CertPEM(), key)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ca.Clients().Certificate().Raw, again.Clients().Certificate().Raw) || !ca.Clients().key.Equal(again.Clients().key) {
		t.Error("two masters derive different CAs for API clients")
	}
	if !bytes.Equal(ca.Clients().Certificate().Raw, ca.WithLifetime(time.Hour).Clients().Certificate().Raw) {
		t.Error("the lifetime changes the CA for API clients")
	}
	front, same := ca.FrontProxy(), again.FrontProxy()
	if !bytes.Equal(front.Certificate().Raw, same.Certificate().Raw) || !front.key.Equal(same.key) || !bytes.Equal(front.Certificate().Raw, ca.WithLifetime(time.Hour).FrontProxy().Certificate().Raw) {
		t.Error("two masters derive different CAs for the front proxy")
	}
	if front.key.Equal(ca.key) || front.key.Equal(ca.Clients().key) || newCA(t).FrontProxy().key.Equal(front.key) {
		t.Error("the CA for the front proxy has the key of another")
	}
	if newCA(t).Clients().key.Equal(ca.Clients().key) || ca.Clients().key.Equal(ca.key) {
		t.Error("two CAs have the same key")
	}
}

// TestWhatTheClientsCASigns is trusted under that CA alone, and as no CA; subjects of masters are refused, and those of nodes carry how
// often the worker's certificates were revoked.
func TestWhatTheClientsCASigns(t *testing.T) {
	ca := newCA(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(subject pkix.Name) (*x509.Certificate, error) {
		t.Helper()
		text, err := ca.Clients().SignClient(&x509.Certificate{
			Subject: subject, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(2 * AuthorityTTL), IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		}, key.Public(), func(worker string) uint64 { return map[string]uint64{"revoked": 7}[worker] })
		if err != nil {
			return nil, err
		}
		return ParseCertificate(text)
	}
	cert, err := sign(pkix.Name{CommonName: "jane", Organization: []string{"devs"}, SerialNumber: "5"})
	if err != nil {
		t.Fatal(err)
	}
	if cert.IsCA || cert.NotAfter.After(ca.Certificate().NotAfter) || cert.Subject.CommonName != "jane" || cert.Subject.SerialNumber != "5" {
		t.Errorf("signed %+v", cert.Subject)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: ca.Clients().Pool(), KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Error(err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: ca.Pool(), Intermediates: ca.Clients().Pool(), KeyUsages: []x509.ExtKeyUsage{usage}}); err == nil {
			t.Error("the cluster's CA vouches for it")
		}
	}
	for name, subject := range map[string]pkix.Name{
		"a master": {CommonName: masterPrefix + "m1", Organization: []string{masterOrganization}}, "its group": {CommonName: "x", Organization: []string{"a", masterOrganization}},
		"its name": {CommonName: masterPrefix + "m1"},
	} {
		if _, err := sign(subject); !errors.Is(err, ErrReserved) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, want := range map[string]uint64{"revoked": 7, "other": 0} {
		cert, err := sign(pkix.Name{CommonName: workerPrefix + name, Organization: []string{workerOrganization}, SerialNumber: "99"})
		if err != nil {
			t.Fatal(err)
		}
		if peer, err := ParsePeer(cert); err != nil || peer.Revocations != want || peer.Name != name {
			t.Errorf("%+v, %v; want %d revocations", peer, err, want)
		}
	}
}
