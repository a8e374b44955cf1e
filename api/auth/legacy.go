package auth

import (
	"crypto/subtle"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// A legacy token is the token in a Secret of type kubernetes.io/service-account-token. It does not expire: it is valid while its
// Secret exists, contains this very token and is not marked as invalid, and the service account exists. Its claims and issuer are
// upstream's.

const (
	legacyIssuer = "kubernetes/serviceaccount"
	// invalidSince is the label of a Secret whose token is no longer valid.
	invalidSince = "kubernetes.io/legacy-token-invalid-since"
)

type legacyClaims struct {
	ServiceAccount    string `json:"kubernetes.io/serviceaccount/service-account.name"`
	ServiceAccountUID string `json:"kubernetes.io/serviceaccount/service-account.uid"`
	Secret            string `json:"kubernetes.io/serviceaccount/secret.name"`
	Namespace         string `json:"kubernetes.io/serviceaccount/namespace"`
}

// IssueLegacy signs the token of a Secret.
func (t *Tokens) IssueLegacy(account metav1.Object, secret string) (string, error) {
	return jwt.Signed(t.keys.Load().signer).
		Claims(jwt.Claims{Issuer: legacyIssuer, Subject: ServiceAccountUser(account.GetNamespace(), account.GetName())}).
		Claims(legacyClaims{account.GetName(), string(account.GetUID()), secret, account.GetNamespace()}).Serialize()
}

// Verifies says whether a token is signed by one of the keys; it checks nothing else.
func (t *Tokens) Verifies(token string) bool {
	_, err := t.verify(token)
	return err == nil
}

func (t *Tokens) checkLegacy(token string, public jwt.Claims, c legacyClaims, audiences []string) (user.Info, []string, error) {
	if c.Namespace == "" || c.Secret == "" || c.ServiceAccount == "" || c.ServiceAccountUID == "" || public.Subject != ServiceAccountUser(c.Namespace, c.ServiceAccount) {
		return nil, nil, fmt.Errorf("%w: it names no service account and secret", ErrToken)
	}
	if !slices.Contains(audiences, t.audience) {
		return nil, nil, fmt.Errorf("%w: it is for the audience %q", ErrToken, t.audience)
	}
	obj, ok := t.subjects.Object("secrets", c.Namespace, c.Secret)
	secret, isSecret := obj.(*corev1.Secret)
	if !ok || !isSecret || secret.DeletionTimestamp != nil || subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) == 0 {
		return nil, nil, fmt.Errorf("%w: secret %s/%s is gone, or contains another token", ErrToken, c.Namespace, c.Secret)
	}
	if secret.Labels[invalidSince] != "" {
		return nil, nil, fmt.Errorf("%w: the token in secret %s/%s has been marked invalid", ErrToken, c.Namespace, c.Secret)
	}
	account, ok := t.subjects.Object("serviceaccounts", c.Namespace, c.ServiceAccount)
	if !ok || account.GetDeletionTimestamp() != nil || string(account.GetUID()) != c.ServiceAccountUID {
		return nil, nil, fmt.Errorf("%w: service account %s/%s is gone", ErrToken, c.Namespace, c.ServiceAccount)
	}
	return accountInfo(c.Namespace, c.ServiceAccount, c.ServiceAccountUID, map[string][]string{}), []string{t.audience}, nil
}
