package server

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/cmd/kontiki/admin"
)

func TestKubeconfigIsSecretAndWhole(t *testing.T) {
	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	// A file that others could read before can no longer be read by them.
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteKubeconfig(path, "https://192.0.2.1:6443", ca, ca.CertPEM()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://192.0.2.1:6443" || config.Insecure {
		t.Errorf("host %q, insecure %v", config.Host, config.Insecure)
	}
	if string(config.CAData) != string(ca.CertPEM()) {
		t.Error("the CA is not the cluster's")
	}
	certificate, err := pki.ParseCertificate(config.CertData)
	if err != nil {
		t.Fatal(err)
	}
	if certificate.Subject.CommonName != "kubernetes-admin" || strings.Join(certificate.Subject.Organization, ",") != "system:masters" {
		t.Errorf("the administrator is %s", certificate.Subject)
	}
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := pki.ParseKey(config.KeyData); err != nil {
		t.Error(err)
	}
}

func TestAdminConfig(t *testing.T) {
	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	named, environment := filepath.Join(t.TempDir(), "named"), filepath.Join(t.TempDir(), "environment")
	for path, host := range map[string]string{named: "https://192.0.2.1:6443", environment: "https://192.0.2.2:6443"} {
		if err := WriteKubeconfig(path, host, ca, ca.CertPEM()); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("KUBECONFIG", environment)
	if config, err := admin.Config(named); err != nil || config.Host != "https://192.0.2.1:6443" {
		t.Errorf("named: %v, %v", config, err)
	}
	if config, err := admin.Config(""); err != nil || config.Host != "https://192.0.2.2:6443" {
		t.Errorf("by the environment: %v, %v", config, err)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	if _, err := admin.Config(missing); err == nil || !strings.Contains(err.Error(), "--kubeconfig") || !strings.Contains(err.Error(), missing) {
		t.Errorf("missing: %v", err)
	}
}
