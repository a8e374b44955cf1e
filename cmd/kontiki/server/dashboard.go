package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/cmd/kontiki/why"
	"github.com/kontiki/kontiki/dashboard"
	"github.com/kontiki/kontiki/docs"
)

// dashboardOptions say at which issuer users of the dashboard sign in by a redirect.
type dashboardOptions struct {
	clientID, issuer, secretFile, caFile string
	scopes                               []string
}

func (o *dashboardOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.clientID, "dashboard-oidc-client-id", "", "the client ID with which users of the dashboard sign in by a redirect to the OpenID issuer; the API must accept the issuer's tokens for it. Empty: they do not")
	f.StringVar(&o.issuer, "dashboard-oidc-issuer", "", "the URL of that issuer (default: --oidc-issuer-url)")
	f.StringVar(&o.secretFile, "dashboard-oidc-client-secret-file", "", "file with the client's secret; without it the client is a public one, which PKCE protects")
	f.StringVar(&o.caFile, "dashboard-oidc-ca-file", "", "file with the CAs of the issuer's serving certificate (default: --oidc-ca-file, or those of the host)")
	f.StringSliceVar(&o.scopes, "dashboard-oidc-scopes", []string{"profile", "email"}, "the scopes that are asked for besides openid")
}

// oidc returns where users sign in; nil if they do not by a redirect.
func (o *dashboardOptions) oidc(api *oidcOptions) (*dashboard.OIDC, error) {
	if o.clientID == "" {
		if o.issuer != "" || o.secretFile != "" || o.caFile != "" {
			return nil, errors.New("--dashboard-oidc-client-id is required with the other flags --dashboard-oidc-*")
		}
		return nil, nil
	}
	c := &dashboard.OIDC{Issuer: o.issuer, ClientID: o.clientID, Scopes: o.scopes}
	if c.Issuer == "" {
		c.Issuer = api.issuerURL
	}
	if u, err := url.Parse(c.Issuer); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("--dashboard-oidc-issuer: %q is not an https URL; it is required unless there is --oidc-issuer-url", c.Issuer)
	}
	roots := o.caFile
	if roots == "" && c.Issuer == api.issuerURL {
		roots = api.caFile
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if roots != "" {
		data, err := os.ReadFile(roots)
		if err != nil {
			return nil, fmt.Errorf("--dashboard-oidc-ca-file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("--dashboard-oidc-ca-file: there is no certificate in %s", roots)
		}
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	c.Client = &http.Client{Transport: transport}
	if o.secretFile != "" {
		c.Secret = func() (string, error) { // read at each sign-in, so that it can be replaced
			data, err := os.ReadFile(o.secretFile)
			return strings.TrimSpace(string(data)), err
		}
		if _, err := c.Secret(); err != nil {
			return nil, fmt.Errorf("--dashboard-oidc-client-secret-file: %w", err)
		}
	}
	return c, nil
}

// withDashboard returns the handler of the API port: the API and, unless it is switched off, the dashboard.
func (m *master) withDashboard() (http.Handler, error) {
	if !m.options.dashboard {
		return m.api, nil
	}
	oidc, err := m.options.dashboardOIDC.oidc(&m.options.authn.oidc)
	if err != nil {
		return nil, err
	}
	page, err := dashboard.New(dashboard.Config{
		API: m.api, Docs: docs.Files, OIDC: oidc,
		Keys: func() (string, map[string][]byte) {
			identity := m.cluster.Identity()
			return identity.CurrentSecretKey, identity.SecretKeys
		},
		Why: func(ctx context.Context, client kubernetes.Interface, namespace, pod string, out io.Writer) error {
			return why.Run(ctx, why.Options{Client: client, Namespace: namespace, Name: pod, Scheduler: m.options.scheduling.Config, Out: out, Now: time.Now})
		},
		Log: m.log.With("part", "dashboard"),
	})
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if dashboard.Serves(r.URL.Path) {
			page.ServeHTTP(w, r)
			return
		}
		m.api.ServeHTTP(w, r)
	}), nil
}
