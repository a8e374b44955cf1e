// Package pki issues the certificates of a cluster: it has one ECDSA P-256 certificate authority (CA), and certificates for
// masters, workers and API clients that name their role in the subject.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// Lifetimes of certificates. All except the CA's are renewed in process at two thirds of their lifetime (RenewAt).
const (
	AuthorityTTL = 20 * 365 * 24 * time.Hour
	DefaultTTL   = 365 * 24 * time.Hour
	clockSkew    = 24 * time.Hour // how far clocks may be behind
)

// Authority is the cluster's CA: certificate and key. It is immutable and safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	ttl  time.Duration // of the certificates that it issues
	// clients is the CA for API clients; it has none itself.
	clients    *Authority
	frontProxy *Authority // nil in an authority that FrontProxy returns
}

// newAuthority returns the CA with a certificate and its key.
func newAuthority(cert *x509.Certificate, key *ecdsa.PrivateKey) (*Authority, error) {
	a := &Authority{cert: cert, key: key}
	var err error
	if a.clients, err = a.derive(clientsPurpose, "-clients"); err != nil {
		return nil, fmt.Errorf("the CA for API clients: %w", err)
	}
	if a.frontProxy, err = a.derive(frontProxyPurpose, "-front-proxy"); err != nil {
		return nil, fmt.Errorf("the CA for the front proxy: %w", err)
	}
	return a, nil
}

// WithLifetime returns the same CA, issuing certificates that are valid for ttl; 0 means DefaultTTL.
func (a *Authority) WithLifetime(ttl time.Duration) *Authority {
	changed := *a
	changed.ttl = ttl
	return &changed
}

// IssuedAt returns when a certificate of this package was issued: its validity begins earlier, for hosts whose clocks are behind.
func IssuedAt(cert *x509.Certificate) time.Time { return cert.NotBefore.Add(clockSkew) }

// RenewAt returns when a certificate of this package should be renewed: at two thirds of its lifetime.
func RenewAt(cert *x509.Certificate) time.Time {
	issued := IssuedAt(cert)
	return issued.Add(cert.NotAfter.Sub(issued) * 2 / 3)
}

// NewAuthority creates a CA with a new key.
func NewAuthority(commonName string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate the CA key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(AuthorityTTL),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1, // allows CrossSign, and no CA below that
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse the CA certificate: %w", err)
	}
	return newAuthority(cert, key)
}

// ParseAuthority decodes what CertPEM and KeyPEM returned.
func ParseAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	signer, err := ParseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("CA key: %w", err)
	}
	key, ok := signer.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the CA key does not belong to the CA certificate")
	}
	return newAuthority(cert, key)
}

// CrossSign returns a certificate (DER) for the other CA's key, signed by this CA. A host that trusts only this CA accepts
// certificates of the other one if it is sent this certificate with them: so a new CA can issue before all hosts trust it.
func (a *Authority) CrossSign(other *Authority) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	notAfter := other.cert.NotAfter
	if notAfter.After(a.cert.NotAfter) {
		notAfter = a.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               other.cert.Subject,
		SubjectKeyId:          other.cert.SubjectKeyId,
		NotBefore:             time.Now().Add(-clockSkew),
		NotAfter:              notAfter,
		KeyUsage:              other.cert.KeyUsage,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, other.key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the CA %s: %w", other.cert.Subject.CommonName, err)
	}
	return der, nil
}

// Certificate returns the CA's certificate, which is read-only.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// CertPEM returns the CA's certificate.
func (a *Authority) CertPEM() []byte { return encodeCertificate(a.cert.Raw) }

// KeyPEM returns the CA's key, PKCS #8.
func (a *Authority) KeyPEM() ([]byte, error) { return EncodeKey(a.key) }

// Pin returns the SHA-256 of the CA certificate's DER, in hex. Join tokens identify the cluster by it.
func (a *Authority) Pin() string { return Pin(a.cert) }

// Pool returns a pool with only this CA.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Pin returns the SHA-256 of a certificate's DER, in hex.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Request describes a certificate to issue.
type Request struct {
	CommonName    string
	Organizations []string
	SerialNumber  string   // of the subject, not of the certificate
	Hosts         []string // IP addresses and DNS names of a serving certificate
	Server        bool
	Client        bool
	TTL           time.Duration // 0 means the CA's WithLifetime, or DefaultTTL
}

// Sign returns a certificate (DER) for a public key. It never expires later than the CA.
func (a *Authority) Sign(public crypto.PublicKey, r Request) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	ttl := r.TTL
	if ttl <= 0 {
		ttl = a.ttl
	}
	if ttl <= 0 {
		ttl = DefaultTTL
	}
	now := time.Now()
	notAfter := now.Add(ttl)
	if notAfter.After(a.cert.NotAfter) {
		notAfter = a.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: r.CommonName, Organization: r.Organizations, SerialNumber: r.SerialNumber},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	if r.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if r.Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	for _, host := range r.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if host != "" {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", r.CommonName, err)
	}
	return der, nil
}

// KeyPair is a certificate and its key in PEM.
type KeyPair struct {
	CertPEM []byte
	KeyPEM  []byte
}

// TLS returns the pair in the form that crypto/tls uses.
func (p *KeyPair) TLS() (tls.Certificate, error) { return tls.X509KeyPair(p.CertPEM, p.KeyPEM) }

// Issue generates a key and returns it with a certificate for it.
func (a *Authority) Issue(r Request) (*KeyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate a key for %s: %w", r.CommonName, err)
	}
	der, err := a.Sign(key.Public(), r)
	if err != nil {
		return nil, err
	}
	keyPEM, err := EncodeKey(key)
	if err != nil {
		return nil, err
	}
	return &KeyPair{CertPEM: encodeCertificate(der), KeyPEM: keyPEM}, nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("choose a serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// EncodeKey encodes a private key as PKCS #8 PEM.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseKey decodes a PKCS #8 PEM private key.
func ParseKey(keyPEM []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("not a PEM private key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse a private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("private key of unusable type %T", key)
	}
	return signer, nil
}

// ParseCertificate decodes the first certificate of a PEM file.
func ParseCertificate(certPEM []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a PEM certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse a certificate: %w", err)
	}
	return cert, nil
}

// ParseCertificates decodes all certificates of a PEM bundle. It returns an error if there is none.
func ParseCertificates(bundle []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block of type %s among certificates", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse a certificate: %w", err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM certificate")
	}
	return certs, nil
}

// Pool returns a pool with the given CAs.
func Pool(certs ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool
}
