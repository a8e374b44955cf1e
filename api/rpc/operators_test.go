package rpc_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// The cluster's own paths are for those to whom a role gives them, by both fronts; the default roles are for operators and viewers.
func TestOperatorsAndViewers(t *testing.T) {
	teapot := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	h := harness.NewConfigured(t, func(c *apiserver.Config) {
		c.Cluster = &kontikiv1.UnimplementedClusterServer{}
		c.Extra = map[string]http.Handler{"/kontiki/v1/cluster": teapot, "/kontiki/v1/snapshot": teapot, "/kontiki/v1/certs": teapot, "/metrics": teapot, "/debug/pprof": teapot}
	})
	h.Roles()
	ctx := context.Background()
	for _, name := range []string{"operator", "viewer"} {
		binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "kontiki:" + name},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: name}}}
		if _, err := client.Create(ctx, h.Client, binding); err != nil {
			t.Fatal(err)
		}
	}
	users := []string{"operator", "viewer", "nobody"}
	const all, viewers, operators = 3, 2, 1 // so many of the users, from the first
	for _, c := range []struct {
		method, path string
		who          int
	}{
		{"GET", "/version", all}, {"GET", "/metrics", viewers}, {"GET", "/debug/pprof/heap", operators}, {"GET", "/debug/pprof", operators},
		{"GET", "/kontiki/v1/cluster", viewers}, {"GET", "/kontiki/v1/cluster/members", viewers}, {"DELETE", "/kontiki/v1/cluster/members/m1", operators},
		{"POST", "/kontiki/v1/cluster/transfer", operators}, {"GET", "/kontiki/v1/snapshot", operators}, {"POST", "/kontiki/v1/snapshot/restore", operators},
		{"GET", "/kontiki/v1/certs", viewers}, {"POST", "/kontiki/v1/certs", operators}, {"GET", "/kontiki/v1/cluster/../snapshot", operators},
		{"GET", "/kontiki/v1/clusters", operators}, {"GET", "/api/v1/pods", 0}, {"GET", "/api/v1/namespaces/default/secrets", 0},
	} {
		for i, user := range users {
			config := h.Config(user)
			client, err := clientrest.HTTPClientFor(config)
			if err != nil {
				t.Fatal(err)
			}
			client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			r, err := http.NewRequest(c.method, config.Host+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if refused := answer.StatusCode == http.StatusForbidden; refused == (i < c.who) {
				t.Errorf("%s %s by %s: %d", c.method, c.path, user, answer.StatusCode)
			}
		}
	}
	for method, who := range map[string]int{
		"Status": viewers, "Members": viewers, "RemoveMember": operators, "TransferLeadership": operators, "CreateToken": operators, "ListTokens": operators, "RevokeToken": operators, "Other": operators,
	} {
		for i, user := range users {
			err := h.GRPC(user).Invoke(ctx, fmt.Sprintf("/kontiki.v1.Cluster/%s", method), &kontikiv1.StatusRequest{}, &kontikiv1.StatusResponse{})
			want := codes.Unimplemented
			if i >= who {
				want = codes.PermissionDenied
			}
			if status.Code(err) != want {
				t.Errorf("%s by %s: %v, want %v", method, user, err, want)
			}
		}
	}
}
