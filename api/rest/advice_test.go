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
	"github.com/kontiki/kontiki/api/rest"
	"github.com/kontiki/kontiki/test/harness"
)

// Advice tells what pods use: it needs the right to their metrics, in the namespace or in all.
func TestWhoMayReadMetricsGetsAdvice(t *testing.T) {
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.Advice = func(namespace string) any { return "of " + namespace } })
	h.Serve()
	if _, err := client.Create(t.Context(), h.Client, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "r"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{"metrics.k8s.io"}, Resources: []string{"pods"}, Verbs: []string{"list"}}}}); err != nil {
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
		{admin, http.MethodGet, "", http.StatusOK, `"of "`},
		{ann, http.MethodGet, "?namespace=default", http.StatusOK, `"of default"`},
		{ann, http.MethodGet, "", http.StatusForbidden, "forbidden"},
		{ann, http.MethodGet, "?namespace=kube-system", http.StatusForbidden, "forbidden"},
		{admin, http.MethodPost, "", http.StatusMethodNotAllowed, ""},
	} {
		if code, data, _ := send(t, x.config, x.method, rest.AdvicePath+x.ask, "", ""); code != x.code || !strings.Contains(string(data), x.want) {
			t.Errorf("%s %s: %d %s", x.method, x.ask, code, data)
		}
	}
}
