package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Role is the role of a peer on the mTLS port.
type Role string

const (
	RoleMaster Role = "master"
	RoleWorker Role = "worker"
)

// Subjects of certificates. A worker's is the one that Kubernetes' node authorization uses.
const (
	masterOrganization = "kontiki:masters"
	masterPrefix       = "kontiki:master:"
	workerOrganization = "system:nodes"
	workerPrefix       = "system:node:"
)

// Peer identifies the holder of a certificate.
type Peer struct {
	Role Role
	Name string
	// Revocations is how often the worker's certificates had been revoked when this one was issued.
	Revocations uint64
}

// ParsePeer returns the role and name in a verified certificate. It returns an error for certificates of API clients.
func ParsePeer(cert *x509.Certificate) (Peer, error) {
	cn := cert.Subject.CommonName
	if slices.Contains(cert.Subject.Organization, masterOrganization) {
		if name, ok := strings.CutPrefix(cn, masterPrefix); ok && name != "" {
			return Peer{Role: RoleMaster, Name: name}, nil
		}
	}
	if slices.Contains(cert.Subject.Organization, workerOrganization) {
		if name, ok := strings.CutPrefix(cn, workerPrefix); ok && name != "" {
			peer := Peer{Role: RoleWorker, Name: name}
			if count := cert.Subject.SerialNumber; count != "" {
				var err error
				if peer.Revocations, err = strconv.ParseUint(count, 10, 64); err != nil {
					return Peer{}, fmt.Errorf("certificate of %q has the invalid count of revocations %q", cn, count)
				}
			}
			return peer, nil
		}
	}
	return Peer{}, fmt.Errorf("certificate of %q is neither a master's nor a worker's", cn)
}

// IssueMaster issues the certificate that a master uses as server and as client.
func (a *Authority) IssueMaster(name string, hosts []string) (*KeyPair, error) {
	return a.Issue(Request{
		CommonName:    masterPrefix + name,
		Organizations: []string{masterOrganization},
		Hosts:         hosts,
		Server:        true,
		Client:        true,
	})
}

// IssueClient issues a client certificate for the API, with user and groups in the subject as in Kubernetes. O=system:masters is
// the administrator.
func (a *Authority) IssueClient(user string, groups []string) (*KeyPair, error) {
	if slices.Contains(groups, masterOrganization) {
		return nil, fmt.Errorf("group %s is for masters' own certificates", masterOrganization)
	}
	return a.Issue(Request{CommonName: user, Organizations: groups, Client: true})
}

// IssueServing issues a serving certificate (the API's) for the given IP addresses and names.
func (a *Authority) IssueServing(commonName string, hosts []string) (*KeyPair, error) {
	return a.Issue(Request{CommonName: commonName, Hosts: hosts, Server: true})
}

// SignWorker returns a worker's two certificates (PEM), the client certificate for calls to masters and the serving certificate for
// the kubelet port, for the key in its request (DER). Only the key is taken from the request. The subject's serial number is how
// often the worker's certificates were revoked before.
func (a *Authority) SignWorker(csr []byte, name string, hosts []string, revocations uint64) (client, serving []byte, err error) {
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, nil, fmt.Errorf("parse the certificate request: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, nil, fmt.Errorf("check the certificate request: %w", err)
	}
	public, ok := request.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, nil, errors.New("the certificate request must be for an ECDSA P-256 key")
	}
	subject := Request{CommonName: workerPrefix + name, Organizations: []string{workerOrganization}}
	if revocations > 0 {
		subject.SerialNumber = strconv.FormatUint(revocations, 10)
	}
	subject.Client = true
	clientDER, err := a.Sign(public, subject)
	if err != nil {
		return nil, nil, err
	}
	subject.Client, subject.Server, subject.Hosts = false, true, hosts
	servingDER, err := a.Sign(public, subject)
	if err != nil {
		return nil, nil, err
	}
	return encodeCertificate(clientDER), encodeCertificate(servingDER), nil
}

// NewRequest generates a key (PEM) and a certificate request (DER) for it; the key stays on the host.
func NewRequest(name string) (keyPEM, csr []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate a key: %w", err)
	}
	keyPEM, err = EncodeKey(key)
	if err != nil {
		return nil, nil, err
	}
	csr, err = RequestFor(keyPEM, name)
	return keyPEM, csr, err
}

// RequestFor returns a certificate request (DER) for an existing key (PEM).
func RequestFor(keyPEM []byte, name string) ([]byte, error) {
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	template := &x509.CertificateRequest{}
	template.Subject.CommonName = workerPrefix + name
	csr, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return csr, nil
}
