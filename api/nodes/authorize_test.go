package nodes_test

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/auth"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// TestCallersOfANodesPort: a token's owner may do what the rules say about the subresources of the worker's own node.
func TestCallersOfANodesPort(t *testing.T) {
	h := harness.New(t)
	_, c := serveOn(t, h)
	create(t, h, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "scrape"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes/metrics"}, ResourceNames: []string{"w1"}, Verbs: []string{"get"}}}})
	create(t, h, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "scrape"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "scrape"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: "prometheus"}}})
	account := create(t, h, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "prometheus"}})
	token, _, err := h.Tokens.Issue(auth.Binding{Namespace: "default", ServiceAccount: account.Name, ServiceAccountUID: string(account.UID)}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	const user = "system:serviceaccount:default:prometheus"
	for _, x := range []struct {
		name, node string
		request    *nodev1.AuthorizeCallerRequest
		user       string
		allowed    bool
	}{
		{"its metrics", "w1", &nodev1.AuthorizeCallerRequest{Token: token, Verb: "get", Subresources: []string{"metrics"}}, user, true},
		{"one of two", "w1", &nodev1.AuthorizeCallerRequest{Token: token, Verb: "get", Subresources: []string{"pods", "metrics"}}, user, true},
		{"another verb", "w1", &nodev1.AuthorizeCallerRequest{Token: token, Verb: "create", Subresources: []string{"metrics"}}, user, false},
		{"another subresource", "w1", &nodev1.AuthorizeCallerRequest{Token: token, Verb: "get", Subresources: []string{"proxy"}}, user, false},
		{"another node", "w2", &nodev1.AuthorizeCallerRequest{Token: token, Verb: "get", Subresources: []string{"metrics"}}, user, false},
		{"no token", "w1", &nodev1.AuthorizeCallerRequest{Verb: "get", Subresources: []string{"metrics"}}, "", false},
		{"another worker", "w1", &nodev1.AuthorizeCallerRequest{WorkerCertificate: []byte("w2's")}, "system:node:w2", true},
		{"a revoked worker", "w1", &nodev1.AuthorizeCallerRequest{WorkerCertificate: []byte("w3's")}, "", false},
		{"no valid token", "w1", &nodev1.AuthorizeCallerRequest{Token: token + "x", Verb: "get", Subresources: []string{"metrics"}}, "", false},
	} {
		got, err := c.AuthorizeCaller(metadata.AppendToOutgoingContext(t.Context(), "node", x.node), x.request)
		if err != nil || got.User != x.user || got.Allowed != x.allowed || !x.allowed && got.Reason == "" {
			t.Errorf("%s: %v %v", x.name, got, err)
		}
	}
	for name, x := range map[string]struct {
		ctx     context.Context
		request *nodev1.AuthorizeCallerRequest
		code    codes.Code
	}{
		"no worker":                {t.Context(), &nodev1.AuthorizeCallerRequest{Token: token, Verb: "get", Subresources: []string{"metrics"}}, codes.PermissionDenied},
		"no subresource":           {metadata.AppendToOutgoingContext(t.Context(), "node", "w1"), &nodev1.AuthorizeCallerRequest{Token: token, Verb: "get"}, codes.InvalidArgument},
		"subresources without end": {metadata.AppendToOutgoingContext(t.Context(), "node", "w1"), &nodev1.AuthorizeCallerRequest{Token: token, Subresources: make([]string, 1000)}, codes.InvalidArgument},
	} {
		if _, err := c.AuthorizeCaller(x.ctx, x.request); status.Code(err) != x.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}
