// Package authn authenticates bearer tokens that others than this cluster have issued.
//
// JWT does so for the OpenID Connect issuers of a structured authentication configuration (AuthenticationConfiguration of
// apiserver.config.k8s.io), in upstream's format and with upstream's rules. An issuer's keys are fetched in the background, so a
// master starts and serves without them. What a client sends never decides from where something is fetched, and hardly when: a token
// whose issuer, audience and times are right, and whose key is unknown, makes an issuer's keys be fetched again, at most once per
// KeyInterval. All that is fetched is bounded in size and time.
//
// NewWebhook returns an authenticator that asks another server by TokenReviews, and remembers a bounded number of answers.
package authn
