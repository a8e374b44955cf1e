package rest_test

import (
	"context"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/test/harness"
)

// A token says what it is bound to, and dies with it; a new object of the same name does not revive it.
func TestBoundTokensSayWhatTheyAreBoundToAndDieWithIt(t *testing.T) {
	h := harness.New(t)
	set, ctx := h.Clientset(), context.Background()
	zero := int64(0)
	now := metav1.DeleteOptions{GracePeriodSeconds: &zero}
	onNode := pod("p")
	onNode.Spec.NodeName = "w1"
	nodes, pods, secrets, accounts := set.CoreV1().Nodes(), set.CoreV1().Pods("default"), set.CoreV1().Secrets("default"), set.CoreV1().ServiceAccounts("default")
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	node := func() error {
		_, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w1"}}, metav1.CreateOptions{})
		return err
	}
	secret := func() error {
		_, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{})
		return err
	}
	create := func() error { _, err := pods.Create(ctx, onNode.DeepCopy(), metav1.CreateOptions{}); return err }
	for _, err := range []error{node(), secret(), create()} {
		must(nil, err)
	}
	request := func(r *authenticationv1.TokenRequest) (string, error) {
		answer, err := accounts.CreateToken(ctx, "default", r, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		if len(answer.Spec.Audiences) != 1 || answer.UID == "" || answer.Spec.ExpirationSeconds == nil {
			t.Errorf("answered %+v", answer)
		}
		return answer.Status.Token, nil
	}
	review := func(token string) authenticationv1.TokenReviewStatus {
		t.Helper()
		answer, err := set.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		must(answer, err)
		return answer.Status
	}
	bound := func(kind, name string) *authenticationv1.TokenRequest {
		return &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name}}}
	}
	for _, c := range []struct {
		kind, name string
		extra      string // the names of the extra fields
		remove     func() error
		again      func() error
	}{
		{"Pod", "p", "credential-id node-name node-uid pod-name pod-uid", func() error { return pods.Delete(ctx, "p", now) }, create},
		{"Secret", "s", "credential-id", func() error { return secrets.Delete(ctx, "s", now) }, secret},
		{"Node", "w1", "credential-id node-name node-uid", func() error { return nodes.Delete(ctx, "w1", now) }, node},
	} {
		token, err := request(bound(c.kind, c.name))
		must(token, err)
		status := review(token)
		var extra []string
		for _, name := range strings.Fields("credential-id node-name node-uid pod-name pod-uid") {
			if len(status.User.Extra["authentication.kubernetes.io/"+name]) == 1 {
				extra = append(extra, name)
			}
		}
		if !status.Authenticated || strings.Join(extra, " ") != c.extra || len(extra) != len(status.User.Extra) {
			t.Errorf("bound to a %s: %+v", c.kind, status)
		}
		must(nil, c.remove())
		if status := review(token); status.Authenticated {
			t.Errorf("bound to a %s that is gone: %+v", c.kind, status)
		}
		must(nil, c.again())
		if status := review(token); status.Authenticated {
			t.Errorf("bound to a %s that was created again: %+v", c.kind, status)
		}
	}

	withUID := bound("Pod", "p")
	withUID.Spec.BoundObjectRef.UID = "other"
	attested := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Attestations: map[string]authenticationv1.AttestationValue{"a": {"b"}}}}
	short := int64(30)
	for _, c := range []struct {
		name  string
		r     *authenticationv1.TokenRequest
		class func(error) bool
		says  string
	}{
		{"another name", &authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, apierrors.IsInvalid, "must match the service account name if specified"},
		{"another UID", &authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{UID: "other"}}, apierrors.IsConflict, "does not match the UID of the service account"},
		{"a bound UID", withUID, apierrors.IsConflict, "the UID in the bound object reference (other) does not match the UID in record"},
		{"a kind that tokens are not bound to", bound("ConfigMap", "c"), apierrors.IsBadRequest, "cannot bind token to object of type /v1, Kind=ConfigMap"},
		{"what there is not", bound("Secret", "none"), apierrors.IsNotFound, `secrets "none" not found`},
		{"a short life", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &short}}, apierrors.IsInvalid, "may not specify a duration less than 10 minutes"},
		{"attestations", attested, apierrors.IsInvalid, "attestations may only be specified with a webhook bound object reference"},
	} {
		if _, err := request(c.r); !c.class(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
