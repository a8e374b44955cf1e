package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/kontiki/kontiki/internal/recent"
)

// ErrToken is the class of errors for invalid tokens.
var ErrToken = errors.New("invalid bearer token")

// Limits of a token's lifetime; a requested lifetime outside of them is set to the limit, as upstream does for the upper one.
const (
	MinTokenSeconds     = 10 * 60
	MaxTokenSeconds     = 1 << 32
	DefaultTokenSeconds = 60 * 60
)

// Binding is what a token is bound to: it is valid while the service account, and the pod, the Secret or the node that it is bound
// to, exist with these UIDs. For a token bound to a pod, the node only says where the pod runs.
type Binding struct {
	Namespace, ServiceAccount, ServiceAccountUID string
	Pod, PodUID                                  string
	Node, NodeUID                                string
	Secret, SecretUID                            string
}

// Subjects looks up the objects that tokens are bound to, in the local view.
type Subjects interface {
	// Object returns an object of the core group, which is shared and read-only.
	Object(resource, namespace, name string) (metav1.Object, bool)
}

// deletionLeeway is how long a token remains valid after the deletion timestamp of an object that it is bound to and that still
// exists.
const deletionLeeway = time.Minute

// Tokens signs and verifies service account tokens. It is safe for concurrent use.
type Tokens struct {
	issuer   string
	audience string
	keys     atomic.Pointer[tokenKeys]
	subjects Subjects
	now      func() time.Time
}

// tokenKeys are the keys in use: signer signs, and all public keys are used to verify. The signer's public key is the first one.
type tokenKeys struct {
	signer     jose.Signer
	known      []jose.JSONWebKey
	algorithms []jose.SignatureAlgorithm
	replaced   chan struct{} // closed when the keys are replaced
	// verified are tokens that these keys have signed, by their digests. A client sends its token with every request, and a signature
	// costs more to verify than most requests do.
	verified recent.Cache[[sha256.Size]byte, *tokenClaims]
}

// Limits of a generation of verified tokens together and of one, in bytes.
const (
	maxTokenBytes    = 2 << 20
	maxOneTokenBytes = 16 << 10
)

// tokenClaims are the claims of a token, read-only.
type tokenClaims struct {
	public  jwt.Claims
	private privateClaims
	legacy  legacyClaims
}

// NewTokens creates a Tokens that signs with key (ECDSA P-256 or RSA), which every master has.
func NewTokens(issuer string, key crypto.Signer, subjects Subjects, now func() time.Time) (*Tokens, error) {
	t := &Tokens{issuer: issuer, audience: issuer, subjects: subjects, now: now}
	return t, t.Use(key)
}

// Use replaces the keys: tokens are signed with key, and those signed by key or one of the others are valid.
func (t *Tokens) Use(key crypto.Signer, others ...crypto.Signer) error {
	keys := &tokenKeys{replaced: make(chan struct{})}
	keys.verified.Limit = maxTokenBytes
	for _, k := range append([]crypto.Signer{key}, others...) {
		public, err := publicTokenKey(k)
		if err != nil {
			return fmt.Errorf("service account key: %w", err)
		}
		keys.known = append(keys.known, public)
		if algorithm := jose.SignatureAlgorithm(public.Algorithm); !slices.Contains(keys.algorithms, algorithm) {
			keys.algorithms = append(keys.algorithms, algorithm)
		}
	}
	own := keys.known[0]
	var err error
	keys.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(own.Algorithm), Key: jose.JSONWebKey{Key: key, KeyID: own.KeyID}}, nil)
	if err != nil {
		return fmt.Errorf("service account key: %w", err)
	}
	if before := t.keys.Swap(keys); before != nil {
		close(before.replaced)
	}
	return nil
}

// Audience returns the API server's own audience.
func (t *Tokens) Audience() string { return t.audience }

// Changed returns a channel that is closed when the keys change; call it before checking tokens.
func (t *Tokens) Changed() <-chan struct{} { return t.keys.Load().replaced }

// publicTokenKey returns the public key that verifies a key's signatures.
func publicTokenKey(key crypto.Signer) (jose.JSONWebKey, error) {
	algorithm := jose.ES256
	switch key.Public().(type) {
	case *ecdsa.PublicKey:
	case *rsa.PublicKey:
		algorithm = jose.RS256
	default:
		return jose.JSONWebKey{}, fmt.Errorf("%T is neither ECDSA nor RSA", key)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return jose.JSONWebKey{}, err
	}
	sum := sha256.Sum256(der)
	return jose.JSONWebKey{Key: key.Public(), KeyID: base64.RawURLEncoding.EncodeToString(sum[:]), Algorithm: string(algorithm), Use: "sig"}, nil
}

type ref struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

type privateClaims struct {
	Kubernetes struct {
		Namespace      string `json:"namespace,omitempty"`
		ServiceAccount ref    `json:"serviceaccount,omitempty"`
		Pod            *ref   `json:"pod,omitempty"`
		Node           *ref   `json:"node,omitempty"`
		Secret         *ref   `json:"secret,omitempty"`
	} `json:"kubernetes.io"`
}

// Issue signs a token for the binding, valid for a number of seconds. No audiences means the API server's own.
func (t *Tokens) Issue(b Binding, audiences []string, seconds int64) (token string, expires time.Time, err error) {
	if seconds == 0 {
		seconds = DefaultTokenSeconds
	}
	seconds = min(max(seconds, MinTokenSeconds), MaxTokenSeconds)
	if len(audiences) == 0 {
		audiences = []string{t.audience}
	}
	now := t.now()
	expires = now.Add(time.Duration(seconds) * time.Second)
	var private privateClaims
	private.Kubernetes.Namespace = b.Namespace
	private.Kubernetes.ServiceAccount = ref{b.ServiceAccount, b.ServiceAccountUID}
	if b.Pod != "" {
		private.Kubernetes.Pod = &ref{b.Pod, b.PodUID}
	}
	if b.Node != "" {
		private.Kubernetes.Node = &ref{b.Node, b.NodeUID}
	}
	if b.Secret != "" {
		private.Kubernetes.Secret = &ref{b.Secret, b.SecretUID}
	}
	token, err = jwt.Signed(t.keys.Load().signer).Claims(private).Claims(jwt.Claims{
		Issuer: t.issuer, Subject: ServiceAccountUser(b.Namespace, b.ServiceAccount), Audience: audiences, ID: uuid.NewString(),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(expires),
	}).Serialize()
	return token, expires, err
}

// Check returns the user that a token stands for, and the audiences that it has of those given; none means the API server's own.
func (t *Tokens) Check(token string, audiences []string) (user.Info, []string, error) {
	if len(audiences) == 0 {
		audiences = []string{t.audience}
	}
	claims, err := t.verify(token)
	if err != nil {
		return nil, nil, err
	}
	public := claims.public
	if public.Issuer == legacyIssuer {
		return t.checkLegacy(token, public, claims.legacy, audiences)
	}
	if err := public.ValidateWithLeeway(jwt.Expected{Issuer: t.issuer, Time: t.now()}, 0); err != nil {
		return nil, nil, fmt.Errorf("%w: %v", ErrToken, err)
	}
	var matched []string
	for _, audience := range audiences {
		if slices.Contains(public.Audience, audience) {
			matched = append(matched, audience)
		}
	}
	if len(matched) == 0 {
		return nil, nil, fmt.Errorf("%w: it is for the audience %q", ErrToken, strings.Join(public.Audience, ","))
	}
	info, err := t.bound(claims.private)
	if err != nil {
		return nil, nil, err
	}
	if public.ID != "" {
		info.Extra["authentication.kubernetes.io/credential-id"] = []string{"JTI=" + public.ID}
	}
	return info, matched, nil
}

// verify returns the claims of a token that one of the keys has signed. Whether they hold, now, is for the caller to check each time.
func (t *Tokens) verify(token string) (*tokenClaims, error) {
	keys := t.keys.Load()
	digest := sha256.Sum256([]byte(token))
	if claims, ok := keys.verified.Get(digest); ok {
		return claims, nil
	}
	parsed, err := jwt.ParseSigned(token, keys.algorithms)
	if err != nil {
		return nil, fmt.Errorf("%w: not a token of this cluster", ErrToken)
	}
	claims := new(tokenClaims)
	if !slices.ContainsFunc(keys.known, func(key jose.JSONWebKey) bool {
		return parsed.Claims(key.Key, &claims.public, &claims.private, &claims.legacy) == nil
	}) {
		return nil, fmt.Errorf("%w: its signature does not verify", ErrToken)
	}
	if len(token) <= maxOneTokenBytes {
		keys.verified.Put(digest, claims, len(token))
	}
	return claims, nil
}

// bound checks that the objects that the token is bound to still exist.
func (t *Tokens) bound(claims privateClaims) (*user.DefaultInfo, error) {
	k := claims.Kubernetes
	if !t.lives("serviceaccounts", k.Namespace, k.ServiceAccount) {
		return nil, fmt.Errorf("%w: service account %s/%s is gone", ErrToken, k.Namespace, k.ServiceAccount.Name)
	}
	extra := map[string][]string{}
	if k.Pod != nil {
		if !t.lives("pods", k.Namespace, *k.Pod) {
			return nil, fmt.Errorf("%w: pod %s/%s is gone", ErrToken, k.Namespace, k.Pod.Name)
		}
		extra["authentication.kubernetes.io/pod-name"] = []string{k.Pod.Name}
		extra["authentication.kubernetes.io/pod-uid"] = []string{k.Pod.UID}
	}
	if k.Secret != nil {
		if !t.lives("secrets", k.Namespace, *k.Secret) {
			return nil, fmt.Errorf("%w: secret %s/%s is gone", ErrToken, k.Namespace, k.Secret.Name)
		}
	}
	if k.Node != nil {
		if k.Pod == nil && !t.lives("nodes", "", *k.Node) {
			return nil, fmt.Errorf("%w: node %s is gone", ErrToken, k.Node.Name)
		}
		extra["authentication.kubernetes.io/node-name"] = []string{k.Node.Name}
		if k.Node.UID != "" {
			extra["authentication.kubernetes.io/node-uid"] = []string{k.Node.UID}
		}
	}
	return accountInfo(k.Namespace, k.ServiceAccount.Name, k.ServiceAccount.UID, extra), nil
}

func accountInfo(namespace, name, uid string, extra map[string][]string) *user.DefaultInfo {
	return &user.DefaultInfo{
		Name: ServiceAccountUser(namespace, name), UID: uid,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace},
		Extra:  extra,
	}
}

// lives says whether an object exists with its UID, and is not past the leeway of its deletion.
func (t *Tokens) lives(resource, namespace string, r ref) bool {
	obj, ok := t.subjects.Object(resource, namespace, r.Name)
	if !ok || string(obj.GetUID()) != r.UID {
		return false
	}
	deleted := obj.GetDeletionTimestamp()
	return deleted == nil || !deleted.Time.Before(t.now().Add(-deletionLeeway))
}

// ServiceAccountUser returns the user name of a service account.
func ServiceAccountUser(namespace, name string) string {
	return "system:serviceaccount:" + namespace + ":" + name
}

// JWKS returns the public keys as a JSON Web Key Set.
func (t *Tokens) JWKS() ([]byte, error) {
	return json.Marshal(jose.JSONWebKeySet{Keys: t.keys.Load().known})
}

// Discovery returns the OpenID provider configuration, which refers to the JWKS.
func (t *Tokens) Discovery() ([]byte, error) {
	return json.Marshal(map[string]any{
		"issuer": t.issuer, "jwks_uri": strings.TrimSuffix(t.issuer, "/") + "/openid/v1/jwks",
		"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": t.keys.Load().algorithms,
	})
}
