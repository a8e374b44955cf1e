package authn

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"k8s.io/apiserver/pkg/apis/apiserver"
	certutil "k8s.io/client-go/util/cert"
)

// Limits of what is fetched from an issuer.
const (
	fetchTimeout  = 10 * time.Second
	maxDocument   = 1 << 20
	maxKeys       = 256
	wellKnownPath = "/.well-known/openid-configuration"
)

// remote fetches the public keys of an issuer.
type remote struct {
	issuer, discovery string
	client            *http.Client
}

func newRemote(issuer apiserver.Issuer) (*remote, error) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: fetchTimeout,
		MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 2, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
	}
	if issuer.CertificateAuthority != "" {
		roots, err := certutil.NewPoolFromBytes([]byte(issuer.CertificateAuthority))
		if err != nil {
			return nil, fmt.Errorf("certificateAuthority: %w", err)
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	r := &remote{issuer: issuer.URL, discovery: issuer.DiscoveryURL}
	if r.discovery == "" {
		r.discovery = strings.TrimSuffix(issuer.URL, "/") + wellKnownPath
	}
	r.client = &http.Client{Transport: transport, Timeout: fetchTimeout, CheckRedirect: func(next *http.Request, before []*http.Request) error {
		if next.URL.Scheme != "https" {
			return errors.New("redirected to a URL that is not https")
		}
		if len(before) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}
	return r, nil
}

// keys fetches the issuer's discovery document and then its keys.
func (r *remote) keys(ctx context.Context) ([]jose.JSONWebKey, error) {
	var provider struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := r.get(ctx, r.discovery, &provider); err != nil {
		return nil, err
	}
	if provider.Issuer != r.issuer {
		return nil, fmt.Errorf("oidc: issuer did not match the issuer returned by provider, expected %q got %q", r.issuer, provider.Issuer)
	}
	if !strings.HasPrefix(provider.Keys, "https://") {
		return nil, fmt.Errorf("oidc: the provider's jwks_uri %q is not an https URL", provider.Keys)
	}
	var set jose.JSONWebKeySet
	if err := r.get(ctx, provider.Keys, &set); err != nil {
		return nil, err
	}
	usable := set.Keys[:0]
	for _, key := range set.Keys {
		if key.Valid() && key.IsPublic() && (key.Use == "" || key.Use == "sig") {
			usable = append(usable, key)
		}
	}
	if len(usable) > maxKeys {
		return nil, fmt.Errorf("oidc: the provider has %d keys, more than %d", len(usable), maxKeys)
	}
	return usable, nil
}

// get decodes the JSON document at a URL.
func (r *remote) get(ctx context.Context, url string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	response, err := r.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("Get %q: %s", url, response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxDocument+1))
	if err != nil {
		return fmt.Errorf("Get %q: %w", url, err)
	}
	if len(body) > maxDocument {
		return fmt.Errorf("Get %q: the response is larger than %d bytes", url, maxDocument)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("Get %q: %w", url, err)
	}
	return nil
}
