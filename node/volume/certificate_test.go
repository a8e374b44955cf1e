package volume

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// signer issues certificates that must be renewed at a time.
type signer struct {
	t      *testing.T
	key    *ecdsa.PrivateKey
	issued int64
	renew  time.Time
}

func (s *signer) issue(r *nodev1.CertifyPodRequest) *nodev1.CertifyPodResponse {
	request, err := x509.ParseCertificateRequest(r.Pkcs10)
	if err != nil || request.CheckSignature() != nil {
		s.t.Errorf("request: %v", err)
		return nil
	}
	s.issued++
	template := &x509.Certificate{SerialNumber: big.NewInt(s.issued), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, request.PublicKey, s.key)
	if err != nil {
		s.t.Error(err)
		return nil
	}
	return &nodev1.CertifyPodResponse{Request: "req", Decision: nodev1.CertifyPodResponse_DECISION_ISSUED, BeginRefreshAt: s.renew.Unix(),
		CertificateChain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func certified(kind string) *corev1.Pod {
	return podWith(vol("v", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{PodCertificate: &corev1.PodCertificateProjection{
		SignerName: "a.io/x", KeyType: kind, CredentialBundlePath: "bundle.pem", KeyPath: "key.pem", CertificateChainPath: "chain.pem"}}}}}))
}

// pair reads the credential and checks that the key is that of the certificate.
func pair(t *testing.T, dir string) *x509.Certificate {
	t.Helper()
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	bundle, key, chain := read("bundle.pem"), read("key.pem"), read("chain.pem")
	if !bytes.Equal(bundle, append(bytes.Clone(key), chain...)) {
		t.Error("the bundle is not the key and the chain")
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

// TestACertificateIsAwaitedAndRenewed: a pod waits for its first certificate, under one request; a later one replaces it when it is due.
func TestACertificateIsAwaitedAndRenewed(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"ED25519", "ECDSAP256", "ECDSAP384", "ECDSAP521", "RSA3072"} {
		ca := &signer{t: t, key: key, renew: time.Now().Add(-time.Minute)}
		s := &shelf{}
		m := manager(t, s)
		pod := certified(kind)
		var first *nodev1.CertifyPodRequest
		s.decide = func(r *nodev1.CertifyPodRequest) (*nodev1.CertifyPodResponse, error) {
			if first == nil {
				first = r
			}
			return &nodev1.CertifyPodResponse{Request: "req", Decision: nodev1.CertifyPodResponse_DECISION_PENDING}, nil
		}
		for range 2 {
			if _, err := m.Setup(context.Background(), pod, "", nil); err == nil || !strings.Contains(err.Error(), "not issued yet") {
				t.Fatalf("%s: an undecided request: %v", kind, err)
			}
		}
		if len(s.asked) != 2 || s.asked[0].Request != "" || s.asked[1].Request != "req" || s.asked[1].Pkcs10 != nil || s.asked[0].Volume != "v" {
			t.Fatalf("%s: asked %+v", kind, s.asked)
		}
		s.decide = func(*nodev1.CertifyPodRequest) (*nodev1.CertifyPodResponse, error) { return ca.issue(first), nil }
		paths, err := m.Setup(context.Background(), pod, "", nil)
		if err != nil {
			t.Fatal(kind, err)
		}
		if leaf := pair(t, paths["v"]); leaf.SerialNumber.Int64() != 1 {
			t.Errorf("%s: certificate %d", kind, leaf.SerialNumber)
		}
		if due := m.expiring(time.Now()); len(due["uid"]) != 1 {
			t.Errorf("%s: due are %v", kind, due)
		}
		// A failed renewal leaves the old one; a successful one replaces it.
		s.decide = func(*nodev1.CertifyPodRequest) (*nodev1.CertifyPodResponse, error) {
			return nil, status.Error(codes.Unavailable, "no master")
		}
		if paths, err = m.Setup(context.Background(), pod, "", nil); err != nil || pair(t, paths["v"]).SerialNumber.Int64() != 1 {
			t.Errorf("%s: without a master: %v", kind, err)
		}
		m.credentials[tokenKey{"uid", "v", "certificate 0"}].renew = time.Now()
		ca.renew = time.Now().Add(time.Hour)
		s.decide = func(r *nodev1.CertifyPodRequest) (*nodev1.CertifyPodResponse, error) { return ca.issue(r), nil }
		if paths, err = m.Setup(context.Background(), pod, "", nil); err != nil || pair(t, paths["v"]).SerialNumber.Int64() != 2 {
			t.Errorf("%s: renewal: %v", kind, err)
		}
		// A later agent reads what was written.
		later := New(Config{RootDir: m.c.RootDir, Objects: s, Token: s.token, Certify: s.certify})
		asked := len(s.asked)
		if paths, err = later.Setup(context.Background(), pod, "", nil); err != nil || len(s.asked) != asked || pair(t, paths["v"]).SerialNumber.Int64() != 2 {
			t.Errorf("%s: after a restart: %v, %d requests", kind, err, len(s.asked)-asked)
		}
	}
}

// TestARefusedCertificateIsFinal: the signer is not asked again, and says why.
func TestARefusedCertificateIsFinal(t *testing.T) {
	s := &shelf{decide: func(*nodev1.CertifyPodRequest) (*nodev1.CertifyPodResponse, error) {
		return &nodev1.CertifyPodResponse{Request: "req", Decision: nodev1.CertifyPodResponse_DECISION_DENIED, Reason: "UnsupportedKeyType", Message: "no such keys"}, nil
	}}
	m := manager(t, s)
	for range 2 {
		_, err := m.Setup(context.Background(), certified("ED25519"), "", nil)
		if err == nil || !strings.Contains(err.Error(), `was denied, reason="UnsupportedKeyType", message="no such keys"`) {
			t.Error(err)
		}
	}
	if len(s.asked) != 1 {
		t.Errorf("%d requests", len(s.asked))
	}
	if _, err := m.Setup(context.Background(), certified("DSA"), "", nil); err == nil {
		t.Error("an unknown type of key")
	}
}
