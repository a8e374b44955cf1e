package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheIssuerOfTheDashboard: its flags, and which of the API's they fall back to.
func TestTheIssuerOfTheDashboard(t *testing.T) {
	dir := t.TempDir()
	secret, ca := filepath.Join(dir, "secret"), filepath.Join(dir, "ca")
	for path, data := range map[string]string{secret: "s3cret\n", ca: "nothing"} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	api := []string{"--oidc-issuer-url=https://issuer.example", "--oidc-client-id=kontiki"}
	for name, c := range map[string]struct {
		args         []string
		issuer, fail string
	}{
		"none":                    {},
		"only a secret":           {args: []string{"--dashboard-oidc-client-secret-file=" + secret}, fail: "--dashboard-oidc-client-id is required"},
		"no issuer":               {args: []string{"--dashboard-oidc-client-id=ui"}, fail: "--dashboard-oidc-issuer"},
		"an issuer without TLS":   {args: []string{"--dashboard-oidc-client-id=ui", "--dashboard-oidc-issuer=http://issuer.example"}, fail: "not an https URL"},
		"the API's issuer":        {args: append([]string{"--dashboard-oidc-client-id=ui"}, api...), issuer: "https://issuer.example"},
		"an issuer of its own":    {args: []string{"--dashboard-oidc-client-id=ui", "--dashboard-oidc-issuer=https://other.example"}, issuer: "https://other.example"},
		"a secret":                {args: append([]string{"--dashboard-oidc-client-id=ui", "--dashboard-oidc-client-secret-file=" + secret}, api...), issuer: "https://issuer.example"},
		"a secret that is not":    {args: append([]string{"--dashboard-oidc-client-id=ui", "--dashboard-oidc-client-secret-file=/missing"}, api...), fail: "--dashboard-oidc-client-secret-file"},
		"CAs that are none":       {args: append([]string{"--dashboard-oidc-client-id=ui", "--dashboard-oidc-ca-file=" + ca}, api...), fail: "there is no certificate"},
		"the API's CAs, not read": {args: append([]string{"--dashboard-oidc-client-id=ui", "--oidc-ca-file=/missing"}, api...), fail: "--dashboard-oidc-ca-file"},
	} {
		w := parsed(t, c.args...)
		got, err := w.dashboardOIDC.oidc(&w.authn.oidc)
		switch {
		case c.fail != "":
			if err == nil || !strings.Contains(err.Error(), c.fail) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		case err != nil:
			t.Errorf("%s: %v", name, err)
			continue
		case got == nil:
			if c.issuer != "" {
				t.Errorf("%s: there is no issuer", name)
			}
			continue
		}
		if got.Issuer != c.issuer || got.ClientID != "ui" || strings.Join(got.Scopes, " ") != "profile email" {
			t.Errorf("%s: %+v", name, got)
		}
		if got.Secret != nil {
			if s, err := got.Secret(); err != nil || s != "s3cret" {
				t.Errorf("%s: the secret is %q, %v", name, s, err)
			}
		}
	}
}
