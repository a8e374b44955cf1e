package authn

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
)

// googleIssuer has tokens that leave out the scheme of its URL.
const googleIssuer = "https://accounts.google.com"

// issuer authenticates the tokens of one issuer.
type issuer struct {
	config   apiserver.JWTAuthenticator
	rules    authenticationcel.CELMapper
	keys     *keySet
	verifier *oidc.IDTokenVerifier
	now      func() time.Time
}

func newIssuer(config apiserver.JWTAuthenticator, c *Config, compiler authenticationcel.Compiler, fetched func(error)) (*issuer, error) {
	rules, errs := validation.CompileAndValidateJWTAuthenticator(compiler, config, c.Disallowed)
	if err := errs.ToAggregate(); err != nil {
		return nil, err
	}
	remote, err := newRemote(config.Issuer)
	if err != nil {
		return nil, err
	}
	i := &issuer{config: config, rules: rules, now: time.Now, keys: newKeySet(remote.keys, fetched, c.KeyInterval)}
	i.verifier = oidc.NewVerifier(config.Issuer.URL, i.keys, &oidc.Config{
		SkipClientIDCheck:    true, // it knows of one audience only; see acceptable
		SupportedSigningAlgs: c.SigningAlgorithms, Now: i.now,
	})
	return i, nil
}

// unverified has the claims that say who issued a token, and for whom and how long it is valid.
type unverified struct {
	Issuer   string        `json:"iss"`
	Audience stringOrArray `json:"aud"`
	Expiry   float64       `json:"exp"`
}

// stringOrArray is a list of strings that may be written as a single one.
type stringOrArray []string

// UnmarshalJSON implements json.Unmarshaler.
func (s *stringOrArray) UnmarshalJSON(data []byte) error {
	var list []string
	if err := json.Unmarshal(data, &list); err == nil {
		*s = list
		return nil
	}
	var one string
	if err := json.Unmarshal(data, &one); err != nil {
		return err
	}
	*s = []string{one}
	return nil
}

// peek returns what a token claims, which nothing has verified.
func peek(token string) (claims unverified, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return claims, false
	}
	if claims.Issuer == "accounts.google.com" {
		claims.Issuer = googleIssuer
	}
	return claims, true
}

// acceptable checks what a token claims before its signature is verified, so that a token that cannot be valid costs nothing.
func (i *issuer) acceptable(claims unverified) error {
	audiences := i.config.Issuer.Audiences
	if !slices.ContainsFunc(claims.Audience, func(audience string) bool { return slices.Contains(audiences, audience) }) {
		return fmt.Errorf("oidc: expected audience in %q got %q", audiences, []string(claims.Audience))
	}
	if expiry := time.Unix(int64(claims.Expiry), 0); expiry.Before(i.now()) {
		return &oidc.TokenExpiredError{Expiry: expiry}
	}
	return nil
}

// authenticate returns whom a token stands for, whose issuer this is by what it claims.
func (i *issuer) authenticate(ctx context.Context, token string, claimed unverified) (*authenticator.Response, error) {
	if err := i.acceptable(claimed); err != nil {
		return nil, fmt.Errorf("oidc: verify token: %w", err)
	}
	if err := i.keys.health(); err != nil {
		return nil, errors.New("oidc: authenticator not initialized")
	}
	verified, err := i.verifier.Verify(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("oidc: verify token: %w", err)
	}
	var claims map[string]any
	if err := verified.Claims(&claims); err != nil {
		return nil, fmt.Errorf("oidc: parse claims: %w", err)
	}
	info, err := i.user(ctx, claims)
	if err != nil {
		return nil, err
	}
	return &authenticator.Response{User: info}, nil
}
