package rest_test

import (
	"net/http"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/usage"
	"github.com/kontiki/kontiki/api/usage/history"
	"github.com/kontiki/kontiki/test/harness"
)

// TestWhoMayReadMetricsSeesUsage: the history of usage needs the rights to the metrics, and wrong questions name the parameter.
func TestWhoMayReadMetricsSeesUsage(t *testing.T) {
	var h *harness.Harness
	h = harness.NewConfigured(t, func(c *apiserver.Config) {
		c.UsageHistory = history.New(history.Config{Usage: usage.NewDirectory(usage.Config{Local: usage.NewLocal()}), Client: func() *client.Client { return h.Client }})
	})
	h.Serve()
	if _, err := client.Create(t.Context(), h.Client, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "r"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{"metrics.k8s.io"}, Resources: []string{"pods"}, Verbs: []string{"list"}},
			{APIGroups: []string{"metrics.k8s.io"}, Resources: []string{"pods"}, Verbs: []string{"get"}, ResourceNames: []string{"web"}}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Create(t.Context(), h.Client, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "r"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "r"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "ann"}}}); err != nil {
		t.Fatal(err)
	}
	admin, ann := h.Config("admin", "system:masters"), h.Config("ann")
	for _, x := range []struct {
		config      *clientrest.Config
		method, ask string
		code        int
		want        string
	}{
		{admin, http.MethodGet, "of=nodes", http.StatusOK, `"items":[]`},
		{admin, http.MethodGet, "of=pods", http.StatusOK, `"step":300`},
		{admin, http.MethodGet, "of=pods&since=1h", http.StatusOK, `"step":60`},
		{ann, http.MethodGet, "of=namespaces", http.StatusOK, `"items":[]`},
		{ann, http.MethodGet, "of=pods&namespace=default", http.StatusOK, `"items":[]`},
		{ann, http.MethodGet, "of=containers&namespace=default&name=web", http.StatusOK, `"items":[]`},
		{ann, http.MethodGet, "of=containers&namespace=default&name=other", http.StatusForbidden, "forbidden"},
		{ann, http.MethodGet, "of=workloads&namespace=default", http.StatusOK, `"items":[]`},
		{ann, http.MethodGet, "of=pods", http.StatusForbidden, "forbidden"},
		{ann, http.MethodGet, "of=workloads&namespace=kube-system", http.StatusForbidden, "forbidden"},
		{ann, http.MethodGet, "of=nodes", http.StatusForbidden, "forbidden"},
		{admin, http.MethodPost, "of=nodes", http.StatusMethodNotAllowed, ""},
		{admin, http.MethodGet, "", http.StatusBadRequest, "of: must be one of"},
		{admin, http.MethodGet, "of=nodes&since=25h", http.StatusBadRequest, "since: "},
		{admin, http.MethodGet, "of=nodes&by=disk", http.StatusBadRequest, "by: "},
		{admin, http.MethodGet, "of=nodes&namespace=default", http.StatusBadRequest, "namespace: "},
		{admin, http.MethodGet, "of=pods&name=web", http.StatusBadRequest, "namespace: "},
		{admin, http.MethodGet, "of=pods&points=1000", http.StatusBadRequest, "points: "},
		{admin, http.MethodGet, "of=pods&limit=0", http.StatusBadRequest, "limit: "},
	} {
		if code, data, _ := send(t, x.config, x.method, history.Path+"?"+x.ask, "", ""); code != x.code || !strings.Contains(string(data), x.want) {
			t.Errorf("%s %s: %d %s", x.method, x.ask, code, data)
		}
	}
}
