package authn_test

import (
	"context"
	"net/http"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiserverconfig "k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/auth/authn"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// withToken returns clients that authenticate with a token alone.
func withToken(t *testing.T, h *harness.Harness, token string) (kubernetes.Interface, *grpc.ClientConn) {
	t.Helper()
	config := rest.AnonymousClientConfig(h.Config("nobody"))
	config.BearerToken = token
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return set, h.GRPC("")
}

// TestAnIssuersTokenOnBothFronts, and in a TokenReview.
func TestAnIssuersTokenOnBothFronts(t *testing.T) {
	i := newTestIssuer(t)
	j, _ := open(t, header+"jwt:\n"+i.entry()+"  claimMappings: {username: {claim: sub, prefix: \"oidc:\"}, groups: {claim: groups, prefix: \"oidc:\"}}\n",
		func(c *authn.Config) { c.Audiences = authenticator.Audiences{apiserver.Issuer} })
	ready(t, j, i)
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.Tokens = []authenticator.Token{j} })
	h.Serve()
	ctx := context.Background()
	token := i.token(map[string]any{"groups": []string{"readers"}})
	admin := h.Clientset()
	if _, err := admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "readers"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"namespaces"}},
		{Verbs: []string{"create"}, APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"selfsubjectreviews"}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "readers"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "readers"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "oidc:readers"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		token string
		rest  int32
		grpc  codes.Code
	}{
		"valid":      {token, 0, codes.OK},
		"of nobody":  {i.token(nil), http.StatusForbidden, codes.PermissionDenied},
		"for others": {i.token(map[string]any{"aud": "x"}), http.StatusUnauthorized, codes.Unauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			set, conn := withToken(t, h, c.token)
			_, err := set.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
			if got := codeOf(err); got != c.rest {
				t.Errorf("REST: %v", err)
			}
			outgoing := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token)
			list, err := kontikiv1.NewObjectsClient(conn).List(outgoing, &kontikiv1.ListRequest{Kind: &kontikiv1.Kind{Version: "v1", Kind: "Namespace"}})
			if err == nil {
				_, err = list.Recv()
			}
			if status.Code(err) != c.grpc {
				t.Errorf("gRPC: %v", err)
			}
		})
	}
	review, err := admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated || review.Status.User.Username != "oidc:jane" || len(review.Status.User.Groups) != 2 {
		t.Errorf("review %+v, %v", review, err)
	}
	review, err = admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{"other"}}}, metav1.CreateOptions{})
	if err != nil || review.Status.Authenticated {
		t.Errorf("review for another audience: %+v, %v", review, err)
	}
}

func codeOf(err error) int32 {
	if status, ok := err.(interface{ Status() metav1.Status }); ok {
		return status.Status().Code
	}
	return 0
}

// TestAnonymousRequestsByPath: a configuration opens paths for requests without a credential, on both fronts.
func TestAnonymousRequestsByPath(t *testing.T) {
	for name, c := range map[string]struct {
		config *apiserverconfig.AnonymousAuthConfig
		open   map[string]bool
		grpc   codes.Code
	}{
		"all":         {nil, map[string]bool{"/livez": true, "/healthz": true, "/version": true}, codes.OK},
		"enabled":     {&apiserverconfig.AnonymousAuthConfig{Enabled: true}, map[string]bool{"/livez": true, "/healthz": true, "/version": true}, codes.OK},
		"off":         {&apiserverconfig.AnonymousAuthConfig{}, map[string]bool{"/livez": false, "/healthz": false, "/version": false}, codes.Unauthenticated},
		"one path":    {condition("/livez"), map[string]bool{"/livez": true, "/healthz": false, "/livez/ping": false, "/version": false}, codes.Unauthenticated},
		"gRPC's path": {condition("/healthz"), map[string]bool{"/livez": false, "/healthz": true}, codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			h := harness.NewConfigured(t, func(config *apiserver.Config) { config.Anonymous = c.config })
			h.Roles()
			h.Serve()
			set, conn := withToken(t, h, "")
			for path, open := range c.open {
				err := set.Discovery().RESTClient().Get().AbsPath(path).Do(t.Context()).Error()
				if open && err != nil || !open && codeOf(err) != http.StatusUnauthorized {
					t.Errorf("%s: %v", path, err)
				}
			}
			if _, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); status.Code(err) != c.grpc {
				t.Errorf("gRPC's health check: %v", err)
			}
			if _, err := h.Clientset().CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
				t.Errorf("with a credential: %v", err)
			}
		})
	}
}

func condition(path string) *apiserverconfig.AnonymousAuthConfig {
	return &apiserverconfig.AnonymousAuthConfig{Enabled: true, Conditions: []apiserverconfig.AnonymousAuthCondition{{Path: path}}}
}
