package rest_test

import (
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

// TestDeletionOfUnreadableObjects: with ignoreStoreReadErrorWithClusterBreakingPotential an object that cannot be decoded is deleted, by
// users who have the verb for it, and nothing else is.
func TestDeletionOfUnreadableObjects(t *testing.T) {
	h := harness.New(t)
	set, ctx := h.Clientset(), t.Context()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"delete", "deletecollection"}}}}
	if _, err := set.RbacV1().Roles("default").Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "r"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "r"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "jane"}}}
	if _, err := set.RbacV1().RoleBindings("default").Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	maps := set.CoreV1().ConfigMaps("default")
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "good"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const key = "/core/configmaps/default/bad"
	if _, err := h.Store.Propose(ctx, &kv.Command{ID: kv.CommandID{1}, Ops: []kv.Op{{Key: key, Value: []byte("garbage")}}}); err != nil {
		t.Fatal(err)
	}
	jane, admin := h.Config("jane"), h.Config("admin", "system:masters")
	const path, option = "/api/v1/namespaces/default/configmaps", `"ignoreStoreReadErrorWithClusterBreakingPotential":true`
	try := func(as, name, options string) (int, string) {
		t.Helper()
		config := admin
		if as == "jane" {
			config = jane
		}
		return raw(t, config, "DELETE", path+name, "application/json", []byte(`{"kind":"DeleteOptions","apiVersion":"v1",`+options+`}`))
	}
	for _, c := range []struct {
		as, name, options string
		code              int
		says              string
	}{
		{"jane", "/bad", option, http.StatusForbidden, "unsafe-delete-ignore-read-errors"},
		{"admin", "/good", option, http.StatusConflict, "unsafe deletion is not allowed because the object is decodable from storage"},
		{"admin", "/none", option, http.StatusNotFound, ""},
		{"admin", "/bad", option + `,"gracePeriodSeconds":0`, http.StatusUnprocessableEntity, "cannot be set together with .gracePeriodSeconds"},
		{"admin", "", option, http.StatusUnprocessableEntity, "is not allowed with DELETECOLLECTION"},
		{"admin", "/bad", `"gracePeriodSeconds":0`, http.StatusInternalServerError, ""},
		{"admin", "/bad", option + `,"dryRun":["All"]`, http.StatusOK, `"Success"`},
	} {
		if code, body := try(c.as, c.name, c.options); code != c.code || !strings.Contains(body, c.says) {
			t.Errorf("%+v: %d %s", c, code, body)
		}
	}
	if _, err := maps.Get(ctx, "good", metav1.GetOptions{}); err != nil {
		t.Errorf("a readable object was deleted: %v", err)
	}
	if _, ok := h.Store.View().Get(key); !ok {
		t.Fatal("the object that cannot be read was deleted by what must not")
	}
	if code, body := try("admin", "/bad", option); code != http.StatusOK || !strings.Contains(body, `"name":"bad"`) {
		t.Errorf("%d %s", code, body)
	}
	if _, ok := h.Store.View().Get(key); ok {
		t.Error("the object that cannot be read was not deleted")
	}
}
