package testcert

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"testing"
)

func TestSelfSigned(t *testing.T) {
	cert, key := SelfSigned(t, "web.default.svc")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(cert) {
		t.Fatal("the certificate is no CA's")
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: "web.default.svc", Roots: roots, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			t.Error(err)
		}
	}
	if text, _ := Base64(cert, key); text != base64.StdEncoding.EncodeToString(cert) {
		t.Errorf("base64 %q", text)
	}
}
