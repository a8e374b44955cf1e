package operators

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/test/await"
)

const issuers = `
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: self, namespace: certificates}
spec: {selfSigned: {}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: authority, namespace: certificates}
spec:
  isCA: true
  commonName: An authority
  secretName: authority
  privateKey: {algorithm: ECDSA, size: 256}
  issuerRef: {name: self}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: authority, namespace: certificates}
spec: {ca: {secretName: authority}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: server, namespace: certificates}
spec:
  dnsNames: [server.example.com]
  secretName: server
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}
  issuerRef: {name: authority}
`

// TestCertManager installs cert-manager with the definitions of its release. Its webhook is trusted when the injector has written its CA; then an issuer
// that signs by itself issues an authority, and the authority a certificate, which is issued again when its Secret is deleted.
func TestCertManager(t *testing.T) {
	definitions := moduleFile(t, "certmanager", "github.com/cert-manager/cert-manager", "deploy/crds")
	t.Cleanup(func() {
		for _, what := range [][]string{{"ns/certificates"}, {"-f", "manifests/cert-manager.yaml"}, {"-f", definitions}} {
			if _, err := cluster.Run(append([]string{"kubectl", "delete", "--ignore-not-found", "--timeout=90s"}, what...)...); err != nil {
				t.Error(err)
			}
		}
	})
	logsOnFailure(t, "cert-manager")
	kubectl(t, "apply", "--server-side", "-f", definitions)
	kubectl(t, "apply", "-f", "manifests/cert-manager.yaml")
	for _, name := range []string{"controller", "webhook", "cainjector"} {
		kubectl(t, "-n", "cert-manager", "rollout", "status", "deployment/"+name, "--timeout=90s")
	}
	kubectl(t, "create", "namespace", "certificates")
	await.That(t, "the webhook to be trusted, and to admit", func() error {
		_, err := cluster.RunWith(strings.NewReader(issuers), "kubectl", "apply", "-f", "-")
		return err
	})
	_, err := cluster.RunWith(strings.NewReader(strings.Replace(issuers, "size: 256", "size: 1000", 1)), "kubectl", "apply", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), `admission webhook "webhook.cert-manager.io" denied the request: spec.privateKey.size`) {
		t.Errorf("a key of 1000 bits on a curve: %v", err)
	}

	kubectl(t, "-n", "certificates", "wait", "--for=condition=Ready", "issuer/self", "issuer/authority", "certificate/authority", "certificate/server", "--timeout=90s")
	first := issued(t)
	kubectl(t, "-n", "certificates", "delete", "secret", "server")
	await.That(t, "the certificate to be issued again", func() error {
		if _, err := cluster.Run("kubectl", "-n", "certificates", "get", "secret", "server"); err != nil {
			return err
		}
		if issued(t).SerialNumber.Cmp(first.SerialNumber) == 0 {
			return fmt.Errorf("it is the same")
		}
		return nil
	})
	kubectl(t, "-n", "certificates", "wait", "--for=condition=Ready", "certificate/server", "--timeout=90s")
	if out := kubectl(t, "-n", "certificates", "get", "certificates"); !strings.Contains(out, "READY") || strings.Count(out, "True") != 2 {
		t.Errorf("the printer columns: %s", out)
	}
	if out := kubectl(t, "-n", "certificates", "get", "certificaterequests", "-o", "jsonpath={.items[*].spec.username}"); !strings.Contains(out, "system:serviceaccount:cert-manager:controller") {
		t.Errorf("the webhook has set the users %q", out)
	}
}

// issued returns the certificate of the server, which the authority has signed.
func issued(t *testing.T) *x509.Certificate {
	t.Helper()
	certificate, authority := certificateIn(t, "server"), certificateIn(t, "authority")
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: roots, DNSName: "server.example.com"}); err != nil {
		t.Fatal(err)
	}
	return certificate
}

// certificateIn returns the certificate in a Secret.
func certificateIn(t *testing.T, secret string) *x509.Certificate {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(kubectl(t, "-n", "certificates", "get", "secret", secret, "-o", `jsonpath={.data.tls\.crt}`))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("the secret %s has no certificate", secret)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}
