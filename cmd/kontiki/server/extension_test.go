package server

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/test/await"
)

// TestTheFrontProxysCertificate is kept until it is to be renewed or the cluster has another CA, which those who trust both accept.
func TestTheFrontProxysCertificate(t *testing.T) {
	id, err := identity.New()
	if err != nil {
		t.Fatal(err)
	}
	next, err := id.WithNextCA()
	if err != nil {
		t.Fatal(err)
	}
	now := id.CA.FrontProxy()
	f := &frontProxy{authority: func() *pki.Authority { return now }}
	certificate := func() *x509.Certificate {
		t.Helper()
		cert, err := f.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf
	}
	verify := func(cert *x509.Certificate, pem []byte) error {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		_, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		return err
	}
	first := certificate()
	if again := certificate(); !again.Equal(first) {
		t.Error("it is made for each request")
	}
	if err := verify(first, id.FrontProxyRootsPEM()); err != nil || first.Subject.CommonName != pki.FrontProxyName {
		t.Errorf("%s: %v", first.Subject, err)
	}
	for name, roots := range map[string][]byte{"clients": id.ClientRootsPEM(), "masters": id.RootsPEM()} {
		if err := verify(first, roots); err == nil {
			t.Errorf("those who trust the CA of %s trust it", name)
		}
	}
	now = next.NextCA.FrontProxy()
	second := certificate()
	if second.Equal(first) {
		t.Error("it is of the former CA")
	}
	for _, cert := range []*x509.Certificate{first, second} {
		if err := verify(cert, next.FrontProxyRootsPEM()); err != nil {
			t.Error(err)
		}
	}
	now = next.NextCA.FrontProxy().WithLifetime(time.Nanosecond)
	f.cert = nil
	if short := certificate(); certificate().Equal(short) {
		t.Error("it is not renewed")
	}
}

// TestAMasterPublishesItsAuthentication, and registers what it serves.
func TestAMasterPublishesItsAuthentication(t *testing.T) {
	m := startMaster(t)
	var cm *corev1.ConfigMap
	await.That(t, "there is the ConfigMap", func() (err error) {
		cm, err = m.admin.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{})
		return err
	})
	identity := m.cluster.Identity()
	if !bytes.Equal([]byte(cm.Data["requestheader-client-ca-file"]), identity.FrontProxyRootsPEM()) || !strings.Contains(cm.Data["client-ca-file"], string(identity.CA.Clients().CertPEM())) {
		t.Errorf("the CAs are %v", cm.Data)
	}
	for key, want := range map[string]string{"allowed-names": pki.FrontProxyName, "username-headers": "X-Remote-User", "uid-headers": "X-Remote-Uid", "group-headers": "X-Remote-Group", "extra-headers-prefix": "X-Remote-Extra-"} {
		var got []string
		if err := json.Unmarshal([]byte(cm.Data["requestheader-"+key]), &got); err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, %v", key, got, err)
		}
	}
	await.That(t, "group versions are registered", func() error {
		for _, name := range []string{"v1.", "v1.apps", "v1.apiextensions.k8s.io"} {
			if _, err := m.admin.Discovery().RESTClient().Get().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices/" + name).Do(t.Context()).Raw(); err != nil {
				return err
			}
		}
		return nil
	})
}
