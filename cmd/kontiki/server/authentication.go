package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverconfig "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/auth/authn"
)

// authnOptions are kube-apiserver's settings for who may authenticate with what, under the same names.
type authnOptions struct {
	set        *pflag.FlagSet // says which flags were set
	configFile string
	anonymous  bool
	oidc       oidcOptions
	webhook    webhookOptions
}

type webhookOptions struct {
	file, version string
	ttl           time.Duration
}

type oidcOptions struct {
	issuerURL, clientID, caFile, usernameClaim, usernamePrefix, groupsClaim, groupsPrefix string
	signingAlgs                                                                           []string
	requiredClaims                                                                        map[string]string
}

// oidcFlags are the flags that an authentication configuration excludes.
var oidcFlags = []string{
	"oidc-issuer-url", "oidc-client-id", "oidc-ca-file", "oidc-username-claim", "oidc-username-prefix", "oidc-groups-claim", "oidc-groups-prefix",
	"oidc-signing-algs", "oidc-required-claim",
}

func (o *authnOptions) flags(f *pflag.FlagSet) {
	o.set = f
	f.StringVar(&o.configFile, "authentication-config", "", "file with an AuthenticationConfiguration: the OpenID Connect issuers of tokens, and which paths anonymous requests may use; it excludes the --oidc-* flags, and --anonymous-auth if it configures that")
	f.BoolVar(&o.anonymous, "anonymous-auth", true, "treat requests without a credential as those of the user system:anonymous, in the group system:unauthenticated")
	f.StringVar(&o.oidc.issuerURL, "oidc-issuer-url", "", "the URL of the OpenID issuer, which must be https; its tokens are then valid")
	f.StringVar(&o.oidc.clientID, "oidc-client-id", "", "the client ID that the issuer's tokens must be for; required with --oidc-issuer-url")
	f.StringVar(&o.oidc.caFile, "oidc-ca-file", "", "file with the CAs of the issuer's serving certificate; without it the host's are used")
	f.StringVar(&o.oidc.usernameClaim, "oidc-username-claim", "sub", "the claim that is the user's name")
	f.StringVar(&o.oidc.usernamePrefix, "oidc-username-prefix", "", "a prefix for users' names; without it, names from claims other than email get the issuer's URL and #; - means none")
	f.StringVar(&o.oidc.groupsClaim, "oidc-groups-claim", "", "the claim that has the user's groups, a string or a list of strings")
	f.StringVar(&o.oidc.groupsPrefix, "oidc-groups-prefix", "", "a prefix for groups")
	f.StringSliceVar(&o.oidc.signingAlgs, "oidc-signing-algs", []string{"RS256"}, "the signing algorithms that the issuer's tokens may have: RS256, RS384, RS512, ES256, ES384, ES512, PS256, PS384, PS512")
	f.StringToStringVar(&o.oidc.requiredClaims, "oidc-required-claim", nil, "a key=value pair that the issuer's tokens must have as a claim; may be given several times")
	f.StringVar(&o.webhook.file, "authentication-token-webhook-config-file", "", "kubeconfig of a server that is asked, by TokenReviews, about tokens that nobody else knows")
	f.StringVar(&o.webhook.version, "authentication-token-webhook-version", "v1beta1", "the version of authentication.k8s.io in which that server is asked and answers, v1 or v1beta1")
	f.DurationVar(&o.webhook.ttl, "authentication-token-webhook-cache-ttl", 2*time.Minute, "how long that server's answers are cached")
}

// changed says whether one of the flags was set.
func (o *authnOptions) changed(names ...string) bool {
	for _, name := range names {
		if o.set.Changed(name) {
			return true
		}
	}
	return false
}

// authentication is what authenticates clients, beside certificates and the cluster's own tokens.
type authentication struct {
	anonymous *apiserverconfig.AnonymousAuthConfig
	tokens    []authenticator.Token
	jwt       *authn.JWT
}

// open reads the files that the options name.
func (o *authnOptions) open(server string, log *slog.Logger) (*authentication, error) {
	config := authn.Config{
		Initial: &apiserverconfig.AuthenticationConfiguration{}, Disallowed: []string{apiserver.Issuer}, Audiences: authenticator.Audiences{apiserver.Issuer},
		Server: server, Log: log,
	}
	if err := o.oidc.check(o); err != nil {
		return nil, err
	}
	switch {
	case o.configFile != "":
		var err error
		if config.Initial, config.Data, err = authn.Load(o.configFile); err != nil {
			return nil, fmt.Errorf("--authentication-config: %w", err)
		}
		config.File, config.SigningAlgorithms = o.configFile, authn.Algorithms
	case o.oidc.issuerURL != "":
		jwt, err := o.oidc.authenticator()
		if err != nil {
			return nil, err
		}
		config.Initial.JWT, config.SigningAlgorithms = []apiserverconfig.JWTAuthenticator{jwt}, o.oidc.signingAlgs
	}
	a := &authentication{anonymous: config.Initial.Anonymous}
	switch {
	case a.anonymous == nil:
		a.anonymous = &apiserverconfig.AnonymousAuthConfig{Enabled: o.anonymous}
	case o.changed("anonymous-auth"):
		return nil, field.Forbidden(field.NewPath("anonymous"), "--anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file")
	}
	var err error
	if a.jwt, err = authn.New(config); err != nil {
		return nil, err
	}
	a.tokens = append(a.tokens, a.jwt)
	if o.webhook.file == "" {
		return a, nil
	}
	if o.webhook.ttl < 0 {
		return nil, fmt.Errorf("--authentication-token-webhook-cache-ttl %s can't be negative", o.webhook.ttl)
	}
	webhook, err := authn.NewWebhook(authn.WebhookConfig{
		File: o.webhook.file, Version: o.webhook.version, TTL: o.webhook.ttl, Audiences: config.Audiences, Backoff: authn.DefaultBackoff, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("--authentication-token-webhook-config-file: %w", err)
	}
	a.tokens = append(a.tokens, webhook)
	return a, nil
}

// run keeps what authenticates clients up to date until the context ends.
func (a *authentication) run(ctx context.Context) error { return a.jwt.Run(ctx) }

func (o *oidcOptions) check(all *authnOptions) error {
	set := all.changed(oidcFlags...)
	if all.configFile != "" && set {
		return errors.New("authentication-config file and oidc-* flags are mutually exclusive")
	}
	if set && (o.issuerURL == "" || o.clientID == "") {
		return errors.New("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set")
	}
	return authn.CheckAlgorithms(o.signingAlgs)
}

// authenticator returns the configuration that the flags stand for.
func (o *oidcOptions) authenticator() (jwt apiserverconfig.JWTAuthenticator, err error) {
	prefix := o.usernamePrefix
	switch {
	case prefix == "-":
		prefix = ""
	case prefix == "" && o.usernameClaim != "email":
		prefix = o.issuerURL + "#"
	}
	jwt.Issuer = apiserverconfig.Issuer{URL: o.issuerURL, Audiences: []string{o.clientID}}
	jwt.ClaimMappings.Username = apiserverconfig.PrefixedClaimOrExpression{Claim: o.usernameClaim, Prefix: ptr.To(prefix)}
	if o.groupsClaim != "" {
		jwt.ClaimMappings.Groups = apiserverconfig.PrefixedClaimOrExpression{Claim: o.groupsClaim, Prefix: ptr.To(o.groupsPrefix)}
	}
	for claim, value := range o.requiredClaims {
		jwt.ClaimValidationRules = append(jwt.ClaimValidationRules, apiserverconfig.ClaimValidationRule{Claim: claim, RequiredValue: value})
	}
	if o.caFile != "" {
		ca, err := os.ReadFile(o.caFile)
		if err != nil {
			return jwt, fmt.Errorf("--oidc-ca-file: %w", err)
		}
		jwt.Issuer.CertificateAuthority = string(ca)
	}
	return jwt, nil
}
