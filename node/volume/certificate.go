package volume

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/beneath"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// Certificates of pods (KEP-4317): the key is made here and never leaves the node. A volume's first certificate holds its pod until the
// signer has decided; later ones are requested when the signer says so, and the old one stays until the new one is there.

// maxCredential limits the bytes that are read back as a key and its certificates.
const maxCredential = 256 << 10

// credential is the key and the certificate of one source, or the request for them.
type credential struct {
	key, chain []byte // PEM; nil before the first certificate
	renew      time.Time
	// asked is the key for which a certificate is requested, and request the request's name; "" if there is none.
	asked   []byte
	request string
	// refused is why there will be no certificate.
	refused error
}

// errUndecided means that the signer has not decided: try again.
var errUndecided = errors.New("the certificate is not issued yet")

func (p *projector) podCertificate(s *corev1.PodCertificateProjection, source int) error {
	c, err := p.credential(s, source)
	if err != nil {
		return fmt.Errorf("certificate of signer %q: %w", s.SignerName, err)
	}
	for path, data := range map[string][]byte{
		s.CredentialBundlePath: append(bytes.Clone(c.key), c.chain...), s.KeyPath: c.key, s.CertificateChainPath: c.chain,
	} {
		if path == "" {
			continue
		}
		if err := p.put(path, data, nil); err != nil {
			return err
		}
		p.own(path)
	}
	return nil
}

// credential returns a credential that need not be renewed now. While no new certificate can be had, the last one is kept.
func (p *projector) credential(s *corev1.PodCertificateProjection, source int) (*credential, error) {
	k := tokenKey{string(p.pod.UID), p.volume, fmt.Sprint("certificate ", source)}
	p.m.mu.Lock()
	c := p.m.credentials[k]
	p.m.mu.Unlock()
	if c == nil {
		c = p.writtenCredential(s)
	}
	switch {
	case c.refused != nil:
		return nil, c.refused
	case c.key != nil && time.Now().Before(c.renew):
		p.m.keepCredential(k, c)
		return c, nil
	}
	next, err := p.certify(s, source, c)
	p.m.keepCredential(k, next)
	if next.key == nil {
		return nil, err
	}
	return next, nil
}

// certify advances the request for a credential, and returns the new state. It does not change c.
func (p *projector) certify(s *corev1.PodCertificateProjection, source int, c *credential) (*credential, error) {
	next := *c
	r := &nodev1.CertifyPodRequest{Namespace: p.pod.Namespace, PodName: p.pod.Name, PodUid: string(p.pod.UID), Volume: p.volume, Source: int32(source), Request: c.request}
	if r.Request == "" {
		var err error
		if next.asked, r.Pkcs10, err = newKey(s.KeyType); err != nil {
			return &next, err
		}
	}
	soon := time.Now().Add(10 * time.Second)
	if next.key != nil {
		next.renew = soon // unless a new one is issued
	}
	response, err := p.m.c.Certify(p.ctx, r)
	if err != nil {
		if r.Request == "" || status.Code(err) == codes.NotFound {
			next.asked, next.request = nil, ""
		}
		return &next, err
	}
	next.request = response.Request
	switch response.Decision {
	case nodev1.CertifyPodResponse_DECISION_ISSUED:
		return &credential{key: next.asked, chain: []byte(response.CertificateChain), renew: time.Unix(response.BeginRefreshAt, 0)}, nil
	case nodev1.CertifyPodResponse_DECISION_DENIED, nodev1.CertifyPodResponse_DECISION_FAILED:
		how := "was denied"
		if response.Decision == nodev1.CertifyPodResponse_DECISION_FAILED {
			how = "failed"
		}
		next.refused = fmt.Errorf("PodCertificateRequest %s/%s %s, reason=%q, message=%q", p.pod.Namespace, response.Request, how, response.Reason, response.Message)
		if next.key != nil { // the last certificate stays; do not ask this signer again
			next.refused, next.asked, next.request, next.renew = nil, nil, "", time.Now().Add(24*time.Hour)
			return &next, nil
		}
		return &next, next.refused
	}
	return &next, errUndecided
}

// writtenCredential returns what a previous agent has written, if it is whole.
func (p *projector) writtenCredential(s *corev1.PodCertificateProjection) *credential {
	read := func(path string) []byte {
		if path == "" {
			return nil
		}
		data, err := beneath.ReadFile(p.dir, path, beneath.Follow, maxCredential)
		if err != nil {
			return nil
		}
		return data
	}
	key, chain := read(s.KeyPath), read(s.CertificateChainPath)
	if bundle := read(s.CredentialBundlePath); bundle != nil {
		block, rest := pem.Decode(bundle)
		if block == nil {
			return &credential{}
		}
		key, chain = pem.EncodeToMemory(block), rest
	}
	block, _ := pem.Decode(chain)
	if key == nil || block == nil {
		return &credential{}
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return &credential{}
	}
	// When the signer wants it to be renewed is not in the certificate.
	return &credential{key: key, chain: chain, renew: leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)}
}

// newKey returns a new key as PEM, and a certificate request that proves its possession.
func newKey(kind string) (key, pkcs10 []byte, err error) {
	var private crypto.Signer
	switch kind {
	case "RSA3072":
		private, err = rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		private, err = rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		private, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, nil, fmt.Errorf("unknown key type %q", kind)
	}
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	pkcs10, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), pkcs10, err
}

// keepCredential remembers a credential, and lets Run wait for its renewal.
func (m *Manager) keepCredential(k tokenKey, c *credential) {
	m.mu.Lock()
	m.credentials[k] = c
	m.mu.Unlock()
	m.rouse()
}
