package auth

import (
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type secretSubject struct{ secret *corev1.Secret }

func (s secretSubject) Object(resource, namespace, name string) (metav1.Object, bool) {
	if resource == "secrets" && namespace == "kube-system" && name == s.secret.Name {
		return s.secret, true
	}
	return nil, false
}

func TestBootstrapTokens(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const good = "abcdef.0123456789abcdef"
	for name, c := range map[string]struct {
		token  string
		change func(*corev1.Secret)
		groups []string // nil: refused
	}{
		"valid": {groups: []string{"system:bootstrappers", "system:authenticated"}},
		"with groups": {change: func(s *corev1.Secret) {
			s.Data["auth-extra-groups"] = []byte("system:bootstrappers:a,system:bootstrappers:b:c")
		}, groups: []string{"system:bootstrappers", "system:bootstrappers:a", "system:bootstrappers:b:c", "system:authenticated"}},
		"not expired":        {change: func(s *corev1.Secret) { s.Data["expiration"] = []byte("2026-01-01T00:00:01Z") }, groups: []string{"system:bootstrappers", "system:authenticated"}},
		"expired":            {change: func(s *corev1.Secret) { s.Data["expiration"] = []byte("2026-01-01T00:00:00Z") }},
		"unreadable time":    {change: func(s *corev1.Secret) { s.Data["expiration"] = []byte("tomorrow") }},
		"another secret":     {token: "abcdef.0123456789abcdee"},
		"an unknown id":      {token: "abcdeg.0123456789abcdef"},
		"no bootstrap token": {token: "abcdef.short"},
		"no authentication":  {change: func(s *corev1.Secret) { delete(s.Data, "usage-bootstrap-authentication") }},
		"another type":       {change: func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }},
		"another id":         {change: func(s *corev1.Secret) { s.Data["token-id"] = []byte("zzzzzz") }},
		"being deleted":      {change: func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: now} }},
		"a group of masters": {change: func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:masters") }},
	} {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"}, Type: BootstrapTokenType, Data: map[string][]byte{
			"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true")}}
		if c.change != nil {
			c.change(s)
		}
		token := c.token
		if token == "" {
			token = good
		}
		tokens, err := NewTokens("https://issuer", newKey(t), secretSubject{s}, func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		who, _, err := (&Authenticator{Tokens: tokens, Bootstrap: true}).Token(t.Context(), token, nil)
		if c.groups == nil {
			if !errors.Is(err, ErrToken) {
				t.Errorf("%s: %v, %v", name, who, err)
			}
			continue
		}
		if err != nil || who.GetName() != "system:bootstrap:abcdef" || !slices.Equal(who.GetGroups(), c.groups) {
			t.Errorf("%s: %v, %v", name, who, err)
		}
		if _, _, err := (&Authenticator{Tokens: tokens}).Token(t.Context(), token, nil); err == nil {
			t.Errorf("%s: accepted although they are not enabled", name)
		}
	}
}
