package auth

import (
	"crypto/subtle"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// BootstrapTokenType is the type of the Secrets in kube-system that contain bootstrap tokens, which new nodes of other tools
// authenticate with (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/).
const BootstrapTokenType = "bootstrap.kubernetes.io/token"

const (
	bootstrapperGroup  = "system:bootstrappers"
	maxBootstrapGroups = 32
)

var (
	bootstrapToken = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	bootstrapGroup = regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$`)
)

// bootstrapTokens authenticates by bootstrap tokens.
type bootstrapTokens struct {
	subjects Subjects
	now      func() time.Time
}

// check returns the user of a bootstrap token. ok is false if the token is not of the form of one.
func (b *bootstrapTokens) check(token string) (who user.Info, ok bool, err error) {
	parts := bootstrapToken.FindStringSubmatch(token)
	if parts == nil {
		return nil, false, nil
	}
	id, value := parts[1], parts[2]
	// One answer for all that is wrong with the Secret: the caller has not proved that it knows the token.
	refused := fmt.Errorf("%w: it is not a valid bootstrap token", ErrToken)
	obj, found := b.subjects.Object("secrets", metav1.NamespaceSystem, "bootstrap-token-"+id)
	secret, isSecret := obj.(*corev1.Secret)
	if !found || !isSecret || secret.DeletionTimestamp != nil || secret.Type != BootstrapTokenType {
		return nil, true, refused
	}
	if subtle.ConstantTimeCompare(secret.Data["token-secret"], []byte(value)) != 1 || string(secret.Data["token-id"]) != id {
		return nil, true, refused
	}
	if expires, limited, err := BootstrapTokenExpiry(secret); err != nil || limited && !b.now().Before(expires) {
		return nil, true, refused
	}
	if string(secret.Data["usage-bootstrap-authentication"]) != "true" {
		return nil, true, refused
	}
	groups := []string{bootstrapperGroup}
	if extra := string(secret.Data["auth-extra-groups"]); extra != "" {
		for _, group := range strings.Split(extra, ",") {
			if !bootstrapGroup.MatchString(group) || len(groups) > maxBootstrapGroups {
				return nil, true, refused
			}
			if !slices.Contains(groups, group) {
				groups = append(groups, group)
			}
		}
	}
	return &user.DefaultInfo{Name: "system:bootstrap:" + id, Groups: groups}, true, nil
}

// BootstrapTokenExpiry returns when the token of a Secret expires; limited is false if it does not. A time that cannot be read is an
// error: the token is not valid then.
func BootstrapTokenExpiry(secret *corev1.Secret) (expires time.Time, limited bool, err error) {
	text := string(secret.Data["expiration"])
	if text == "" {
		return time.Time{}, false, nil
	}
	expires, err = time.Parse(time.RFC3339, text)
	return expires, true, err
}
