package pki

import (
	"crypto/x509"
	"testing"
	"time"
)

func newCA(t *testing.T) *Authority {
	t.Helper()
	ca, err := NewAuthority("test-ca")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func leaf(t *testing.T, pair *KeyPair) *x509.Certificate {
	t.Helper()
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

func TestAuthorityRoundTrip(t *testing.T) {
	ca := newCA(t)
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseAuthority(ca.CertPEM(), key)
	if err != nil || again.Pin() != ca.Pin() || len(ca.Pin()) != 64 {
		t.Fatalf("read back %v, %v", again, err)
	}
	otherKey, err := newCA(t).KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseAuthority(ca.CertPEM(), otherKey); err == nil {
		t.Error("a CA with another's key was accepted")
	}
	if _, err := ParseAuthority([]byte("garbage"), key); err == nil {
		t.Error("garbage was accepted as a certificate")
	}
}

func TestRolesOfCertificates(t *testing.T) {
	ca := newCA(t)
	master, err := ca.IssueMaster("m1", []string{"m1", "10.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	admin, err := ca.IssueClient("admin", []string{"system:masters"})
	if err != nil {
		t.Fatal(err)
	}
	api, err := ca.IssueServing("kontiki-api", []string{"10.0.0.1", "api.example"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name           string
		cert           *x509.Certificate
		peer           Peer
		client, server bool
	}{
		{"master", leaf(t, master), Peer{Role: RoleMaster, Name: "m1"}, true, true},
		{"admin", leaf(t, admin), Peer{}, true, false},
		{"api", leaf(t, api), Peer{}, false, true},
	} {
		peer, err := ParsePeer(test.cert)
		if peer != test.peer || (err == nil) != (test.peer.Name != "") {
			t.Errorf("%s is %+v, %v", test.name, peer, err)
		}
		for usage, want := range map[x509.ExtKeyUsage]bool{x509.ExtKeyUsageClientAuth: test.client, x509.ExtKeyUsageServerAuth: test.server} {
			_, err := test.cert.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{usage}})
			if (err == nil) != want {
				t.Errorf("%s, usage %d: %v", test.name, usage, err)
			}
		}
	}
	if err := leaf(t, api).VerifyHostname("api.example"); err != nil {
		t.Error(err)
	}
	if _, err := ca.IssueClient("mallory", []string{masterOrganization}); err == nil {
		t.Error("an API client got a master's certificate")
	}
	if _, err := leaf(t, master).Verify(x509.VerifyOptions{Roots: newCA(t).Pool()}); err == nil {
		t.Error("another CA vouches for the certificate")
	}
	if left := time.Until(leaf(t, master).NotAfter); left > DefaultTTL || left < DefaultTTL-time.Hour {
		t.Errorf("a certificate is valid for %s", left)
	}
}

func TestSignWorkerTakesOnlyTheKey(t *testing.T) {
	ca := newCA(t)
	keyPEM, csr, err := NewRequest("evil")
	if err != nil {
		t.Fatal(err)
	}
	client, serving, err := ca.SignWorker(csr, "w1", []string{"w1", "10.0.0.2"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	clientLeaf, servingLeaf := leaf(t, &KeyPair{client, keyPEM}), leaf(t, &KeyPair{serving, keyPEM})
	if peer, err := ParsePeer(clientLeaf); err != nil || peer != (Peer{Role: RoleWorker, Name: "w1"}) {
		t.Errorf("the request's subject counted: %+v, %v", peer, err)
	}
	if err := servingLeaf.VerifyHostname("10.0.0.2"); err != nil {
		t.Error(err)
	}
	csr[len(csr)-3] ^= 1
	if _, _, err := ca.SignWorker(csr, "w1", nil, 0); err == nil {
		t.Error("a request with a broken signature was signed")
	}
	if _, _, err := ca.SignWorker([]byte("garbage"), "w1", nil, 0); err == nil {
		t.Error("garbage was signed")
	}
}

func TestACrossSignedCAIsAcceptedByWhoTrustsTheOldOne(t *testing.T) {
	old, fresh, stranger := newCA(t), newCA(t), newCA(t)
	der, err := old.CrossSign(fresh)
	if err != nil {
		t.Fatal(err)
	}
	cross, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := fresh.IssueMaster("m1", []string{"m1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name                 string
		roots, intermediates *x509.CertPool
		ok                   bool
	}{
		{"the old CA, with the way to the new one", old.Pool(), Pool(cross), true},
		{"the old CA alone", old.Pool(), Pool(), false},
		{"the new CA", fresh.Pool(), Pool(), true},
		{"another CA", stranger.Pool(), Pool(cross), false},
	} {
		if _, err := leaf(t, pair).Verify(x509.VerifyOptions{Roots: test.roots, Intermediates: test.intermediates}); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	certs, err := ParseCertificates(append(old.CertPEM(), fresh.CertPEM()...))
	if err != nil || len(certs) != 2 || Pin(certs[1]) != fresh.Pin() {
		t.Errorf("a bundle reads as %d certificates, %v", len(certs), err)
	}
	if _, err := ParseCertificates([]byte("nothing")); err == nil {
		t.Error("nothing was accepted as a bundle")
	}
}

func TestCertificatesAreRenewedAtTwoThirdsOfTheirLife(t *testing.T) {
	pair, err := newCA(t).WithLifetime(30*time.Hour).IssueMaster("m1", nil)
	if err != nil {
		t.Fatal(err)
	}
	cert := leaf(t, pair)
	if lived := RenewAt(cert).Sub(IssuedAt(cert)); lived != 20*time.Hour || cert.NotAfter.Sub(IssuedAt(cert)) != 30*time.Hour {
		t.Errorf("renewed after %s of %s", lived, cert.NotAfter.Sub(IssuedAt(cert)))
	}
}
