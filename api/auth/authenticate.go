package auth

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
)

// ErrUnauthenticated is the class of every credential that does not hold (HTTP 401).
var ErrUnauthenticated = errors.New("unauthorized")

// Anonymous is who presents no credential.
var Anonymous = &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}

// Authenticator tells who sent a request. It is safe for concurrent use.
type Authenticator struct {
	// Roots are the CAs of client certificates. The TLS layer only asks for a certificate; it is verified here, so that a
	// bad one gets an answer that says why.
	Roots func() *x509.CertPool
	// Admit may refuse a certificate that is otherwise good, one that was revoked; nil refuses none.
	Admit  func(*x509.Certificate) error
	Tokens *Tokens

	verified verified
}

// Authenticate answers who sent the request, or an ErrUnauthenticated. It takes bearer tokens out of the request, so that
// they are not passed on to whatever it may be proxied to.
func (a *Authenticator) Authenticate(r *http.Request) (user.Info, error) {
	header := r.Header.Get("Authorization")
	r.Header.Del("Authorization")
	protocolToken, hasProtocolToken := webSocketToken(r)
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		// A token may still hold where the certificate does not, as upstream has it.
		if who, err := a.certificate(r.TLS.PeerCertificates); err == nil || header == "" {
			return who, err
		}
	}
	if header == "" {
		if hasProtocolToken {
			return a.token(protocolToken)
		}
		return Anonymous, nil
	}
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") || strings.TrimSpace(token) == "" {
		return nil, fmt.Errorf("%w: the Authorization header must be \"Bearer TOKEN\"", ErrUnauthenticated)
	}
	return a.token(strings.TrimSpace(token))
}

func (a *Authenticator) token(token string) (user.Info, error) {
	info, _, err := a.Tokens.Check(token, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnauthenticated, err)
	}
	return authenticated(info), nil
}

func (a *Authenticator) certificate(chain []*x509.Certificate) (user.Info, error) {
	if a.Admit != nil {
		if err := a.Admit(chain[0]); err != nil {
			return nil, fmt.Errorf("%w: client certificate of %q: %v", ErrUnauthenticated, chain[0].Subject.CommonName, err)
		}
	}
	roots := a.Roots()
	if who, ok := a.verified.get(roots, chain[0]); ok {
		return who, nil
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	chains, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: client certificate of %q: %v", ErrUnauthenticated, chain[0].Subject.CommonName, err)
	}
	subject := chain[0].Subject
	if subject.CommonName == "" {
		return nil, fmt.Errorf("%w: client certificate without a common name", ErrUnauthenticated)
	}
	who := authenticated(&user.DefaultInfo{Name: subject.CommonName, Groups: subject.Organization})
	a.verified.put(roots, chains, who)
	return who, nil
}

func authenticated(info user.Info) user.Info {
	return &user.DefaultInfo{
		Name: info.GetName(), UID: info.GetUID(), Extra: info.GetExtra(),
		Groups: append(append([]string(nil), info.GetGroups()...), user.AllAuthenticated),
	}
}
