package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheAuthenticationFlags: which of them exclude each other, and what they mean together.
func TestTheAuthenticationFlags(t *testing.T) {
	file := func(t *testing.T, text string) string {
		path := filepath.Join(t.TempDir(), "file.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const header = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"
	oidc := []string{"--oidc-issuer-url=https://issuer.example", "--oidc-client-id=kontiki"}
	for name, c := range map[string]struct {
		file      string // "" is none
		args      []string
		err       string
		anonymous bool
		prefix    string
	}{
		"none":                         {anonymous: true},
		"no anonymous requests":        {args: []string{"--anonymous-auth=false"}},
		"a file":                       {file: header, anonymous: true},
		"anonymous in the file":        {file: header + "anonymous: {enabled: false}\n"},
		"anonymous twice":              {file: header + "anonymous: {enabled: false}\n", args: []string{"--anonymous-auth=false"}, err: "--anonymous-auth flag cannot be set"},
		"a file and flags":             {file: header, args: oidc, err: "mutually exclusive"},
		"an incomplete issuer":         {args: oidc[:1], err: "must be specified together"},
		"an algorithm that is unknown": {args: append([]string{"--oidc-signing-algs=HS256"}, oidc...), err: "unsupported signing alg"},
		"a CA that is missing":         {args: append([]string{"--oidc-ca-file=/missing"}, oidc...), err: "--oidc-ca-file"},
		"an issuer without TLS":        {args: []string{"--oidc-issuer-url=http://issuer.example", "--oidc-client-id=kontiki"}, err: "URL scheme must be https"},
		"a webhook's missing file":     {args: []string{"--authentication-token-webhook-config-file=/missing"}, err: "--authentication-token-webhook-config-file: "},
		"a webhook's unknown version":  {args: []string{"--authentication-token-webhook-config-file=/missing", "--authentication-token-webhook-version=v2"}, err: "unsupported authentication webhook version"},
		"a webhook's negative TTL":     {args: []string{"--authentication-token-webhook-config-file=/missing", "--authentication-token-webhook-cache-ttl=-1s"}, err: "can't be negative"},
		"an issuer":                    {args: oidc, anonymous: true, prefix: "https://issuer.example#"},
		"an issuer and no prefix":      {args: append([]string{"--oidc-username-prefix=-"}, oidc...), anonymous: true},
		"an issuer of addresses":       {args: append([]string{"--oidc-username-claim=email"}, oidc...), anonymous: true},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"--config=" + file(t, "")}, c.args...)
			if c.file != "" {
				args = append(args, "--authentication-config="+file(t, c.file))
			}
			o := parsed(t, args...)
			a, err := o.authn.open("master-1", slog.New(slog.DiscardHandler))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if a.anonymous.Enabled != c.anonymous {
				t.Errorf("anonymous requests: %v, want %v", a.anonymous.Enabled, c.anonymous)
			}
			if o.authn.oidc.issuerURL == "" {
				return
			}
			jwt, err := o.authn.oidc.authenticator()
			if err != nil || *jwt.ClaimMappings.Username.Prefix != c.prefix {
				t.Errorf("%+v, %v; want the prefix %q", jwt.ClaimMappings.Username, err, c.prefix)
			}
		})
	}
}
