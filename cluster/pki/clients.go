package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// clientsPurpose is what the key of a CA for API clients is derived for. Changing it makes all certificates of these CAs invalid.
const clientsPurpose = "kontiki: certificate authority for API clients, 1"

// Clients returns the CA that signs what users of the API request (CertificateSigningRequests). Only the API trusts it, as a CA of
// clients: what it signs, whatever subject, names and usages somebody had approved, is no identity of a master or a worker on the other
// ports, and no serving certificate that anybody trusts.
//
// Key and certificate are derived from this CA's key alone, so every master has them without storing or sending anything more, and
// they follow this CA through rotations, backups and recoveries.
func (a *Authority) Clients() *Authority { return a.clients }

// frontProxyPurpose is what the key of a front proxy's CA is derived for.
const frontProxyPurpose = "kontiki: certificate authority for the front proxy, 1"

// FrontProxyName is the common name of the front proxy's certificates.
const FrontProxyName = "front-proxy-client"

// FrontProxy returns the CA by which extension API servers know the masters, which tell them who a request's user is. Nothing else trusts it, and
// it signs nothing but IssueFrontProxy's certificates. It is derived as that of Clients is.
func (a *Authority) FrontProxy() *Authority { return a.frontProxy }

// IssueFrontProxy issues the masters' certificate for requests to extension API servers. a is what FrontProxy returns.
func (a *Authority) IssueFrontProxy() (*KeyPair, error) {
	return a.Issue(Request{CommonName: FrontProxyName, Client: true})
}

// derive makes a CA for one purpose, whose name is this one's with a suffix. The result is always the same, to the last byte.
func (a *Authority) derive(purpose, suffix string) (*Authority, error) {
	secret, err := a.key.Bytes()
	if err != nil {
		return nil, err
	}
	key, err := deriveKey(secret, purpose)
	if err != nil {
		return nil, err
	}
	serial := sha256.Sum256(a.cert.Raw)
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial[:16]),
		Subject:               pkix.Name{CommonName: a.cert.Subject.CommonName + suffix},
		NotBefore:             a.cert.NotBefore,
		NotAfter:              a.cert.NotAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key) // without randomness ECDSA is deterministic (RFC 6979)
	if err != nil {
		return nil, fmt.Errorf("sign its certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse its certificate: %w", err)
	}
	return &Authority{cert: cert, key: key}, nil
}

// deriveKey derives a P-256 key from a secret. A candidate that is no key, which happens once in 2^32 times, is followed by the next.
func deriveKey(secret []byte, purpose string) (*ecdsa.PrivateKey, error) {
	for n := range 8 {
		candidate, err := hkdf.Key(sha256.New, secret, nil, purpose+"#"+strconv.Itoa(n), 32)
		if err != nil {
			return nil, err
		}
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), candidate); err == nil {
			return key, nil
		}
	}
	return nil, errors.New("no candidate is a key")
}

// SignClient returns a certificate (PEM) for a public key, with the subject, names, usages and validity of a template. revocations returns
// how often the certificates of a worker were revoked: one for the user that is a worker's node carries it, as the worker's own do.
// A subject that is a master's is refused.
func (a *Authority) SignClient(template *x509.Certificate, public crypto.PublicKey, revocations func(worker string) uint64) ([]byte, error) {
	subject := template.Subject
	if slices.Contains(subject.Organization, masterOrganization) || strings.HasPrefix(subject.CommonName, masterPrefix) {
		return nil, fmt.Errorf("%w: the subject %q is for masters' own certificates", ErrReserved, subject)
	}
	if slices.Contains(subject.Organization, workerOrganization) {
		subject.SerialNumber = ""
		if name, ok := strings.CutPrefix(subject.CommonName, workerPrefix); ok {
			if count := revocations(name); count > 0 {
				subject.SerialNumber = strconv.FormatUint(count, 10)
			}
		}
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	signed := &x509.Certificate{
		SerialNumber: serial, Subject: subject,
		DNSNames: template.DNSNames, IPAddresses: template.IPAddresses, EmailAddresses: template.EmailAddresses, URIs: template.URIs,
		KeyUsage: template.KeyUsage, ExtKeyUsage: template.ExtKeyUsage, BasicConstraintsValid: true,
		NotBefore: template.NotBefore, NotAfter: template.NotAfter,
	}
	if signed.NotAfter.After(a.cert.NotAfter) {
		signed.NotAfter = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, signed, a.cert, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", subject, err)
	}
	return encodeCertificate(der), nil
}

// ErrReserved is the class of errors for subjects that only the cluster itself gives.
var ErrReserved = errors.New("reserved subject")
