package auth

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	asn1util "k8s.io/apimachinery/pkg/apis/asn1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// ErrUnauthenticated is the class of errors for invalid credentials (HTTP 401).
var ErrUnauthenticated = errors.New("unauthorized")

// uidOID is the attribute of a certificate's subject that contains the user's UID.
var uidOID = asn1util.X509UID()

// Anonymous is the user of requests without a credential.
var Anonymous = &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}

// Authenticator determines who sent a request. It is safe for concurrent use.
type Authenticator struct {
	// Roots returns the CAs of client certificates. The TLS layer requests a certificate but does not verify it; it is verified
	// here, so that a client with an invalid one gets a response that says why.
	Roots func() *x509.CertPool
	// Admit may refuse a certificate that is otherwise valid, such as a revoked one; nil refuses none.
	Admit  func(*x509.Certificate) error
	Tokens *Tokens
	// Bootstrap accepts bootstrap tokens as well.
	Bootstrap bool
	// Others are asked, in this order, about tokens that are not this cluster's own.
	Others []authenticator.Token
	// Anonymous says which requests need no credential; nil means all.
	Anonymous *apiserver.AnonymousAuthConfig

	verified verified
}

// Authenticate returns the user who sent a request for a path, or ErrUnauthenticated. It removes bearer tokens from the request, so
// that they are not forwarded if the request is proxied.
func (a *Authenticator) Authenticate(r *http.Request, path string) (user.Info, error) {
	header := r.Header.Get("Authorization")
	r.Header.Del("Authorization")
	protocolToken, hasProtocolToken := webSocketToken(r)
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		// A token may be valid even if the certificate is not, as upstream has it.
		if who, err := a.certificate(r.TLS.PeerCertificates); err == nil || header == "" {
			return who, err
		}
	}
	if header == "" {
		if hasProtocolToken {
			return a.token(r.Context(), protocolToken)
		}
		if !a.anonymous(path) {
			return nil, fmt.Errorf("%w: this path needs a credential", ErrUnauthenticated)
		}
		return Anonymous, nil
	}
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") || strings.TrimSpace(token) == "" {
		return nil, fmt.Errorf("%w: the Authorization header must be \"Bearer TOKEN\"", ErrUnauthenticated)
	}
	return a.token(r.Context(), strings.TrimSpace(token))
}

// anonymous says whether a request for a path needs no credential.
func (a *Authenticator) anonymous(path string) bool {
	c := a.Anonymous
	if c == nil {
		return true
	}
	return c.Enabled && (len(c.Conditions) == 0 || slices.ContainsFunc(c.Conditions, func(a apiserver.AnonymousAuthCondition) bool { return a.Path == path }))
}

func (a *Authenticator) token(ctx context.Context, token string) (user.Info, error) {
	who, _, err := a.Token(ctx, token, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnauthenticated, err)
	}
	return who, nil
}

// Token returns the user that a bearer token stands for, and the audiences that it has of those given; none means the API server's own.
func (a *Authenticator) Token(ctx context.Context, token string, audiences []string) (user.Info, []string, error) {
	if a.Bootstrap {
		bootstrap := bootstrapTokens{a.Tokens.subjects, a.Tokens.now}
		if who, ok, err := bootstrap.check(token); ok {
			if err != nil {
				return nil, nil, err
			}
			if audiences == nil {
				return authenticated(who), nil, nil
			}
			if !slices.Contains(audiences, a.Tokens.audience) {
				return nil, nil, fmt.Errorf("%w: it is for the audience %q", ErrToken, a.Tokens.audience)
			}
			return authenticated(who), []string{a.Tokens.audience}, nil
		}
	}
	info, matched, err := a.Tokens.Check(token, audiences)
	if err == nil {
		return authenticated(info), matched, nil
	}
	if len(audiences) == 0 {
		audiences = []string{a.Tokens.audience}
	}
	errs := []error{err}
	for _, other := range a.Others {
		response, ok, err := other.AuthenticateToken(authenticator.WithAudiences(ctx, audiences), token)
		if ok {
			return authenticated(response.User), response.Audiences, nil
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return nil, nil, utilerrors.NewAggregate(errs)
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
	uid, err := subjectUID(subject)
	if err != nil {
		return nil, fmt.Errorf("%w: client certificate of %q: %v", ErrUnauthenticated, subject.CommonName, err)
	}
	fingerprint := sha256.Sum256(chain[0].Raw)
	who := authenticated(&user.DefaultInfo{
		Name: subject.CommonName, UID: uid, Groups: subject.Organization,
		Extra: map[string][]string{user.CredentialIDKey: {"X509SHA256=" + hex.EncodeToString(fingerprint[:])}},
	})
	a.verified.put(roots, chains, who)
	return who, nil
}

// subjectUID returns the user's UID that a certificate's subject contains, or "" if it contains none.
func subjectUID(subject pkix.Name) (string, error) {
	uid, found := "", false
	for _, name := range subject.Names {
		if !name.Type.Equal(uidOID) {
			continue
		}
		value, ok := name.Value.(string)
		switch {
		case !ok:
			return "", errors.New("unable to parse UID into a string")
		case found:
			return "", fmt.Errorf("expected 1 UID, but found multiple: %v", []string{uid, value})
		case value == "":
			return "", errors.New("UID cannot be an empty string")
		}
		uid, found = value, true
	}
	return uid, nil
}

func authenticated(info user.Info) user.Info {
	groups := slices.Clone(info.GetGroups())
	if !slices.Contains(groups, user.AllAuthenticated) {
		groups = append(groups, user.AllAuthenticated)
	}
	return &user.DefaultInfo{Name: info.GetName(), UID: info.GetUID(), Extra: info.GetExtra(), Groups: groups}
}
